"""`teacher prune finetune quantize`, and what a recipe costs before any of them: `doctor`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pruneonce.cli.options import JSON, Keep, Out, Set
from pruneonce.cli.show import folding_table, plain, print_json, print_metrics, terminal
from pruneonce.progress import Advance, progress_bar
from pruneonce.recipe import default_output


def teacher(recipe: Path, overrides: Set = None, out: Out = None, keep_checkpoints: Keep = False) -> None:
    """Prepare the teacher: continue pre-training a dense checkpoint on the corpus. Run again to resume."""
    _run_stage("teacher", recipe, overrides, out, keep_checkpoints)


def prune(
    recipe: Path,
    overrides: Set = None,
    out: Out = None,
    keep_checkpoints: Keep = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List every matrix with its target, and stop.")] = False,
    no_pooler: Annotated[bool, typer.Option("--no-pooler", help="Leave BERT's pooler dense.")] = False,
) -> None:
    """Prune during pre-training, with distillation and learning rate rewinding. Run again to resume."""
    settings = [*(overrides or []), *(["pruning.pooler=false"] if no_pooler else [])]
    if dry_run:
        _print_pruning_plan(recipe, settings)
        return
    _run_stage("prune", recipe, settings, out, keep_checkpoints)


def finetune(
    recipe: Path,
    overrides: Set = None,
    out: Out = None,
    keep_checkpoints: Keep = False,
    kernel: Annotated[
        str | None, typer.Option(help="Of layers with zeros: sparse, dense, or auto, whichever is faster here.")
    ] = None,
) -> None:
    """Fine-tune for a task with the zeros locked. Run again to resume."""
    settings = [*(overrides or []), *([f"training.kernel={kernel}"] if kernel is not None else [])]
    _run_stage("finetune", recipe, settings, out, keep_checkpoints)


def quantize(recipe: Path, overrides: Set = None, out: Out = None, keep_checkpoints: Keep = False) -> None:
    """Quantise a fine-tuned model to 8 bits with its zeros locked. Run again to resume."""
    _run_stage("quantize", recipe, overrides, out, keep_checkpoints)


def doctor(
    recipe: Annotated[Path | None, typer.Argument(help="Estimate what this recipe would cost here.")] = None,
    overrides: Set = None,
    as_json: JSON = False,
) -> None:
    """What this machine has; and for a recipe: steps, hours, memory and disk, before anything starts."""
    from pruneonce.cost.doctor import describe_machine, others_note

    note = others_note()
    answer: dict[str, Any] = {"machine": asdict(describe_machine())}
    if not as_json:
        _print_machine(answer["machine"])
    if recipe is not None:
        from pruneonce.cost.estimate import estimate
        from pruneonce.recipe import load_recipes, stage_of

        # Of a large model that takes minutes, and memory that the user should know of now.
        print(f"timing a few steps of {recipe.stem} here, before the hours can be told…", file=sys.stderr, flush=True)
        recipes = load_recipes(recipe, stage_of(recipe), overrides or [])
        answer["recipe"] = {**asdict(estimate(recipes[0])), "runs": len(recipes)}
    if as_json:
        print_json(answer)
    else:
        if cost := answer.get("recipe"):
            _print_cost(cost)
        if note:
            print(note)


def _run_stage(stage: str, path: Path, overrides: list[str] | None, out: Path | None, keep: bool) -> None:
    from pruneonce.models.hub import quiet_transformers
    from pruneonce.recipe import load_recipes
    from pruneonce.stages import RUNNERS, StageOptions
    from pruneonce.train.processes import is_main_process

    quiet_transformers()
    recipe, *others = load_recipes(path, stage, overrides or [])
    folder = out or default_output(path)
    if others:
        _run_seeds(stage, [recipe, *others], folder, keep)
        return
    with progress_bar(f"{stage} {path.stem}") as advance:
        speak: Advance | None = advance if is_main_process() else None
        record = RUNNERS[stage](recipe, StageOptions(folder, keep_checkpoints=keep, on_progress=speak))
    if is_main_process():
        print(f"{stage} done: {plain(folder)}")
        print_metrics(record.metrics)


def _run_seeds(stage: str, recipes: list[Any], folder: Path, keep: bool) -> None:
    from pruneonce.study.seeds import run_seeds
    from pruneonce.train.processes import is_main_process

    summary = run_seeds(stage, recipes, folder, progress_bar, keep_checkpoints=keep)
    if is_main_process():
        print(f"{stage} done with {len(recipes)} seeds: {plain(folder)}")
        for name, each in summary.items():
            print(f"  {name:<24}{each.mean:.4f} ± {each.std:.4f}  n = {each.n}")


def _print_pruning_plan(path: Path, overrides: list[str]) -> None:
    from pruneonce.recipe import load_recipe
    from pruneonce.stages import plan_pruning

    recipe = load_recipe(path, "prune", overrides)
    rows = plan_pruning(recipe)
    table = folding_table("matrix", "shape", "target sparsity", "zeros", title=f"{path.name}: nothing is trained")
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        table.add_row(row.name, shape, f"{row.target:.1%}" if row.target else "dense", f"{row.zeros:,}")
    zeros, size = sum(row.zeros for row in rows), sum(row.size for row in rows if row.target)
    table.add_section()
    table.add_row("prunable", f"{size:,} weights", f"{zeros / size:.1%}" if size else "", f"{zeros:,}")
    terminal().print(table)


def _print_machine(machine: dict[str, Any]) -> None:
    console = terminal()
    console.print(f"{machine['processor']}, {machine['cores']} cores, {' '.join(machine['isa']) or 'no AVX2'}")
    console.print(f"fp32 matrix product: {machine['matmul_gflops']:.0f} GFLOP/s on all cores")
    console.print(
        f"memory {machine['memory_bytes'] / 2**30:.1f} GiB, disk free {machine['free_disk_bytes'] / 2**30:.1f} GiB"
    )
    console.print(f"accelerators: {', '.join(machine['accelerators']) or 'none'}")
    console.print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))


def _print_cost(cost: dict[str, Any]) -> None:
    console = terminal()
    console.print(f"\n{cost['steps']:,} steps of up to {cost['tokens_per_step']:,} tokens, from {cost['probe']}:")
    console.print(f"  {cost['seconds_per_step']:.2f} s per step ({1 / cost['seconds_per_step']:.3g} steps/s)")
    times = f" for each of {cost['runs']} seeds" if cost["runs"] > 1 else ""
    training, scoring = (_duration(cost[key]) for key in ("hours", "evaluation_hours"))
    console.print(f"  {training} of training and {scoring} of scoring on the processor of this machine{times}")
    console.print(f"  {cost['memory_bytes'] / 2**30:.1f} GiB of memory, {cost['disk_bytes'] / 2**30:.1f} GiB of disk")


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
