"""`python -m picolab` is `picolab`."""

from picolab.cli.main import main

if __name__ == "__main__":
    main()
