"""The settings of a user: sizes, parameters, parameter files, the plan."""
