"""`study`: a grid of runs; `quickstart`: one chain from text to a packed file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pruneonce.cli.options import JSON, On, Out, Set
from pruneonce.cli.show import folding_table, plain, print_json, terminal
from pruneonce.errors import PruneonceError
from pruneonce.progress import progress_bar
from pruneonce.recipe import default_output

if TYPE_CHECKING:
    from pruneonce.study.plan import Plan


def study(
    recipe: Path,
    overrides: Set = None,
    out: Out = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List cells, budgets and estimated hours.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at the same time, each with its share of the cores; default 1, --on: per node."),
    ] = None,
    on: On = "",
    as_json: JSON = False,
) -> None:
    """Run a grid of methods, sparsities, tasks and seeds. Run again to resume: what is done is skipped."""
    from pruneonce.models.hub import quiet_transformers
    from pruneonce.study.plan import make_plan
    from pruneonce.study.recipe import load_study

    quiet_transformers()
    wanted = load_study(recipe, overrides or [])
    folder = out or default_output(recipe)
    plan = make_plan(wanted, folder)
    if dry_run:
        _print_study_plan(plan, as_json)
        return
    from pruneonce.study.run import run_study

    result = run_study(plan, progress_bar, jobs, on)
    if as_json:
        print_json({"runs": {name: each.metrics for name, each in result.records.items()}, "failures": result.failures})
    words = sys.stderr if as_json else sys.stdout
    print(f"{len(result.records)} of {len(plan.nodes)} runs are done: pruneonce report {plain(folder)}", file=words)
    for name, reason in result.failures.items():
        print(f"  {name}: {plain(reason)}", file=words)
    if result.failures:
        raise PruneonceError(f"{len(result.failures)} runs have no result; the same command tries them again")


def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path("runs/quickstart"),
    assets_only: Annotated[bool, typer.Option("--assets-only", help="Fetch the model and data, and stop.")] = False,
) -> None:
    """Run the whole chain on a small real model and real text, and show what came out."""
    if assets_only:
        from pruneonce.data.assets import assets_folder, fetch_assets

        fetch_assets()
        print(f"assets: {assets_folder()}")
        return
    from pruneonce.models.hub import quiet_transformers
    from pruneonce.quickstart.run import COLUMNS, run_quickstart, shown

    quiet_transformers()
    report = run_quickstart(out)
    table = folding_table(*COLUMNS, title="Movie-review sentences, held out")
    for row in report.rows:
        table.add_row(*shown(row))
    terminal().print(table)
    print(f"details: {plain(out / 'report.md')}")


def _print_study_plan(plan: Plan, as_json: bool) -> None:
    from pruneonce.cost.doctor import others_note
    from pruneonce.study.cost import plan_costs

    note = others_note()
    wait = f"{len(plan.cells)} cells of {len(plan.nodes)} runs; timing a few steps of each kind of run here…"
    print(wait, file=sys.stderr, flush=True)
    with progress_bar("estimates") as advance:
        costs = plan_costs(plan, advance)
    cells = [
        {
            **{key: value for key, value in vars(cell).items() if key != "chain"},
            "runs": list(cell.chain),
            "steps": sum(costs[name].steps for name in cell.chain),
            "examples": sum(costs[name].examples for name in cell.chain),
        }
        for cell in plan.cells
    ]
    left = sum(cost.hours for cost in costs.values() if not cost.done)
    if as_json:
        print_json({"cells": cells, "runs": {name: vars(cost) for name, cost in costs.items()}, "hours_left": left})
        return
    table = folding_table("method", "zeros", "task", "seed", "steps", "examples", "runs", title=f"{len(cells)} cells")
    for cell in cells:
        zeros = "dense" if cell["sparsity"] is None else f"{cell['sparsity']:.1%}"
        budget = (f"{cell['steps']:,}", f"{cell['examples']:,}")
        table.add_row(cell["method"], zeros, cell["task"], str(cell["seed"]), *budget, " ".join(cell["runs"]))
    terminal().print(table)
    table = folding_table("run", "steps", "examples", "minutes", "", title=f"{len(costs)} runs, each made once")
    for name, cost in costs.items():
        minutes = f"{cost.hours * 60:.1f}"
        table.add_row(name, f"{cost.steps:,}", f"{cost.examples:,}", minutes, "done" if cost.done else "")
    terminal().print(table)
    print(f"{left:.2f} hours left on this machine, by a probe of each kind of run; nothing has been trained")
    if note:
        print(note)
