"""The calibration server: a program with known truth that speaks PicoShare's contract.

It runs as a program of its own on any Python >= 3.9 without other packages: `program` makes one file of the modules
here.
"""
