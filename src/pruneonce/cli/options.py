"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JSON = Annotated[bool, typer.Option("--json", help="Print JSON for a machine instead of a table.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write; default runs/RECIPE.")]
Keep = Annotated[bool, typer.Option("--keep-checkpoints", help="Keep what is only needed to resume.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default one per core.")]
On = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="ray[://HOST:PORT]",
        help="Work on a Ray cluster: ray is $RAY_ADDRESS's or this machine's; else by its client port.",
    ),
]
