"""The doctor: what this host can and cannot do for a benchmark."""
