"""picolab: honest, reproducible benchmarks of PicoShare that live in notebooks."""

__version__ = "0.1.0"
