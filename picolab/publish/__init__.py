"""A static site of the reports of a project."""
