"""What a user may set: sizes, parameters, parameter files, the plan."""
