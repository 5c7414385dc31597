"""Charts, from frames to altair; no file is read here."""

from picolab.slow_imports import decline_slow_imports

decline_slow_imports()  # before altair, which would import them
