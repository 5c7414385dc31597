"""Analysis: statistics, and builds compared."""
