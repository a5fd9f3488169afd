"""`report`: pages of tables and plots, or two runs beside each other."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pruneonce.cli.options import JSON
from pruneonce.cli.show import folding_table, plain, print_json, terminal
from pruneonce.errors import UsageError


def report(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Studies, runs, or records of bench.")],
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default report.md in the first folder.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Default report.html there.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Two runs: is their difference more than chance?")] = False,
    samples: Annotated[int, typer.Option(min=1, help="Of the bootstrap, with --compare.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap, with --compare.")] = 0,
    as_json: JSON = False,
) -> None:
    """Tables and plots of runs, from the JSON in their folders; or a paired comparison of two of them."""
    if compare:
        _report_comparison(paths, samples, seed, as_json)
        return
    from pruneonce.report.write import write_report

    folder = next((path for path in paths if path.is_dir()), Path())
    for file in write_report(paths, markdown or folder / "report.md", html or folder / "report.html"):
        print(plain(file))


def _report_comparison(paths: list[Path], samples: int, seed: int, as_json: bool) -> None:
    from pruneonce.evaluation.comparison import compare
    from pruneonce.report.collect import run_folders
    from pruneonce.report.tables import comparison_table

    if len(paths) != 2:
        raise UsageError(f"--compare takes two runs, got {len(paths)}")
    a, b = paths
    found = compare(run_folders(a), run_folders(b), samples=samples, seed=seed)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    table = comparison_table(found, str(a), str(b))
    shown = folding_table(*table.columns, title=table.title)
    for row in table.rows:
        shown.add_row(*row)
    terminal().print(shown)
    print(table.note)
