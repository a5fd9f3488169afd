"""`python -m pruneonce`: as `pruneonce`."""

from pruneonce.cli.app import main

if __name__ == "__main__":
    main()
