"""`pruneonce` and `python -m pruneonce`: the command line, or what to install for it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; exit code 1 and one line where its libraries are missing."""
    try:
        from pruneonce.cli import app as cli
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "tomli"):
            raise
        sys.exit(f"error: the command line needs {error.name}: pip install 'pruneonce[cli]' (or [train])")
    cli.main()


if __name__ == "__main__":
    main()
