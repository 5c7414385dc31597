"""The calibration of the instrument: measured, stored, referred to."""
