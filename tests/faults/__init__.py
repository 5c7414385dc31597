"""One test a fault, named as the fault; catalogue.py lists them and writes docs/faults.md."""
