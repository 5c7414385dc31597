"""The record of a trial: its models and schema, factors, caveats and samples."""
