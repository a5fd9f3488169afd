"""Writes docs/recipes.md from the dataclasses of `pruneonce.recipe` and docs/commands.md from the command line.

`make docs` runs it; a test fails when a page is out of date.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

import typer

from pruneonce import recipe
from pruneonce.cli.app import app

DOCS = Path(__file__).parent
SECTIONS = {
    "Training": "[training]",
    "Pruning": "[pruning]",
    "Distillation": "[distillation]",
    "Matching": "[matching]",
    "TaskData": "[task]",
}
RECIPES_HEAD = """# Recipes
What every key of a recipe means. A recipe is a TOML file for one stage, `stage = "…"` at its top; a key that is not
listed here is an error that names the nearest one. `--set training.steps=100` overrides a key, and `seeds = [1, 2, 3]`
in place of `seed` makes one run per seed. This page is written by `make docs` from the dataclasses.
"""
COMMANDS_HEAD = """# Command line
Every command with its options, as `--help` says them; this page is written by `make docs`. Exit codes: 0 done, 1 what
was asked for failed, 2 wrong usage, 130 interrupted. Errors are one line; `PRUNEONCE_TRACEBACK=1` shows where they
came from.
"""


def recipes_page() -> str:
    """A table of keys for every stage and every section; what is shipped, with its source."""
    parts = [RECIPES_HEAD]
    for stage, kind in recipe.STAGES.items():
        parts.append(f"\n## Stage `{stage}`\n{inspect.getdoc(kind)}\n\n{_keys(kind)}")
    for name, title in SECTIONS.items():
        kind = getattr(recipe, name)
        parts.append(f"\n## Section `{title}`\n{inspect.getdoc(kind)}\n\n{_keys(kind)}")
    parts.append("\n## Shipped recipes\n| recipe | stage | source |\n|---|---|---|\n")
    folder = recipe.recipes_folder()
    for file in sorted(folder.rglob("*.toml")):
        values = recipe.read_toml(file)
        row = (f"`{file.relative_to(folder).as_posix()}`", values.get("stage", "study"), values.get("source", ""))
        parts.append(f"| {' | '.join(map(_cell, row))} |\n")
    return "".join(parts)


def _keys(kind: Any) -> str:
    """A dataclass as a table: key, type, default, and the comments of its line."""
    hints, meanings = typing.get_type_hints(kind), comments(kind)
    rows = ["| key | type | default | meaning |\n|---|---|---|---|\n"]
    for item in dataclasses.fields(kind):
        default = "*required*"
        if item.default is not dataclasses.MISSING:
            default = "none" if item.default is None else f"`{_toml(item.default)}`"
        elif item.default_factory is not dataclasses.MISSING:
            default = "the section's" if dataclasses.is_dataclass(item.default_factory()) else "none"
        row = (f"`{item.name}`", _type(hints[item.name]), default, meanings.get(item.name, ""))
        rows.append(f"| {' | '.join(map(_cell, row))} |\n")
    return "".join(rows)


def comments(kind: Any) -> dict[str, str]:
    """Field -> its comments in the source: the lines of comment before it, and what ends its own lines."""
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    body = ast.parse("\n".join(lines)).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        assert node.end_lineno is not None
        before: list[str] = []
        above = node.lineno - 2
        while lines[above].lstrip().startswith("#"):
            before.insert(0, lines[above].strip().lstrip("# "))
            above -= 1
        ends = [re.search(r"\s#\s(.*)$", line) for line in lines[node.lineno - 1 : node.end_lineno]]
        found[node.target.id] = " ".join([*before, *(end[1] for end in ends if end)])
    return found


def _type(hint: Any) -> str:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _type(next(each for each in typing.get_args(hint) if each is not type(None)))
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{_toml(each)}`" for each in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"list of {_type(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return f"table of {_type(typing.get_args(hint)[1])}"
    if dataclasses.is_dataclass(hint):
        return f"section `{SECTIONS[hint.__name__]}`"  # type: ignore[union-attr]
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}[hint.__name__]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def commands_page() -> str:
    """Every command: its sentence, how it is called, arguments and options."""
    parts = [COMMANDS_HEAD]
    for words, command in _commands(typer.main.get_command(app), ()):
        parts.append(f"\n## {' '.join(words)}\n{_sentences(command.help)}\n\n")
        rows = []
        for given in command.params:
            if given.name == "help":
                continue
            is_option = given.param_type_name == "option"
            name = ", ".join([*given.opts, *given.secondary_opts]) if is_option else given.metavar or given.name.upper()
            default = "*required*" if given.required else _default(given)
            rows.append(f"| `{_cell(name)}` | {_cell(default)} | {_cell(_sentences(getattr(given, 'help', '')))} |\n")
        parts.append("| argument or option | default | meaning |\n|---|---|---|\n" + "".join(rows))
    return "".join(parts)


def _commands(group: Any, words: tuple[str, ...]) -> Any:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


def _default(given: Any) -> str:
    value = given.default
    if value is None or value == "" or callable(value):
        return "none"
    return str(value).lower() if isinstance(value, bool) else f"`{value}`"


def _sentences(text: str | None) -> str:
    return " ".join((text or "").split()).replace("[", "\\[").replace("<", "&lt;")


PAGES = {"recipes.md": recipes_page, "commands.md": commands_page}


def main() -> None:
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
