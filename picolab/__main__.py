"""`python -m picolab` is `picolab`."""

from picolab.cli import main

if __name__ == "__main__":
    main()
