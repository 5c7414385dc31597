"""Files: read with a bound, written whole, never lost."""
