"""Notebooks and their kernels, run in processes of their own."""
