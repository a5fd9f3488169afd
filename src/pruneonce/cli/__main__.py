"""`python -m pruneonce.cli`: as `pruneonce`, for launchers that want a module's name."""

from pruneonce.cli.app import main

if __name__ == "__main__":
    main()
