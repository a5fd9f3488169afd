"""Where the shipped recipes are, and where a recipe's run goes."""

from __future__ import annotations

from pathlib import Path

RUNS = Path("runs")


def recipes_folder() -> Path:
    """The folder of shipped recipes: inside the installed package, or at the top of a checkout."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def default_output(recipe: Path) -> Path:
    """`recipes/bert-base/prune-90.toml` -> `runs/bert-base/prune-90`; a recipe elsewhere goes by its name alone.

    >>> default_output(Path("recipes/bert-base/prune-90.toml")).as_posix(), default_output(Path("my.toml")).as_posix()
    ('runs/bert-base/prune-90', 'runs/my')
    """
    parts = recipe.with_suffix("").parts
    if "recipes" in parts:
        last = len(parts) - 1 - parts[::-1].index("recipes")
        return RUNS.joinpath(*parts[last + 1 :])
    return RUNS / recipe.stem
