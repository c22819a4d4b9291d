"""`python -m advhash`."""

from advhash.cli import main

if __name__ == "__main__":
    main()
