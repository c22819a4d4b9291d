"""`python -m advhash`."""

from advhash.cli.app import main

if __name__ == "__main__":
    main()
