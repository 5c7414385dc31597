"""The public names for notebooks: `import picolab as pl`."""
