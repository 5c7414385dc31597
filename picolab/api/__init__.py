"""What people use in notebooks, as `import picolab as pl`."""
