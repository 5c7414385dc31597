"""PicoShare: which executable, how it runs, and how it is spoken to."""
