"""Writes what follows the mark in docs/api.md: every public name with its signature and docstring. `make docs` runs it.

The head of the page, above the mark, is written by hand.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from pathlib import Path
from typing import Any

import pruneonce

PAGE = Path(__file__).with_name("api.md")
MARK = "<!-- below: written by `make docs` from docstrings -->\n"
WIDTH = 110
SUBJECTS = {
    "Zeros in a model in memory": "prune_ lock_ sparse_training Pruner PruneCallback magnitude_mask",
    "Schedules and losses": "PruningSchedule cubic_sparsity rewinding_factor distillation_loss",
    "Quantise, pack, measure": "quantize_ export export_packed inspect inspect_folder inspect_packed import_checkpoint",
    "Answers": "pipeline embed load_model SentenceEncoder CrossEncoder",
    "Stages": "compress run_teacher run_prune run_compress run_finetune run_quantize StageOptions",
    "Recipes": "load_recipe load_recipes parse_recipe TeacherRecipe PruneRecipe CompressRecipe FinetuneRecipe "
    "QuantizeRecipe Training Pruning Matching Distillation TaskData",
    "Data and scores": "Corpus get_task score_folder score_packed",
    "Errors": "PruneonceError UsageError",
}


def page(head: str) -> str:
    """The whole page; ValueError if a public name has no subject, or a subject names what is not public."""
    listed = [name for names in SUBJECTS.values() for name in names.split()]
    if astray := set(listed) ^ set(pruneonce.__all__):
        raise ValueError(f"docs/make_api.py: {min(astray)} is either not public or without a subject")
    parts = [head, MARK]
    for subject, names in SUBJECTS.items():
        parts.append(f"\n## {subject}\n")
        parts.extend(entry(name, getattr(pruneonce, name)) for name in names.split())
    return "".join(parts)


def entry(name: str, thing: Any) -> str:
    """Signature and docstring; of a class, its fields and public methods too."""
    node = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    head = f"\n### {name}\n"
    if isinstance(node, ast.FunctionDef):
        return head + fence(signature(name, node)) + prose(thing)
    assert isinstance(node, ast.ClassDef)
    functions = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    if dataclasses.is_dataclass(thing):
        text = fence(fields(thing)) + prose(thing)
    else:
        made = functions.get("__init__")
        text = (fence(signature(name, made, skip_self=True)) if made else "") + prose(thing)
    for method, function in functions.items():
        if not method.startswith("_") and ast.get_docstring(function):
            text += fence(signature(f"{name}.{method}", function, skip_self=True))
            text += "\n" + markdown(ast.get_docstring(function) or "") + "\n"
    return head + text


def signature(name: str, node: ast.FunctionDef, *, skip_self: bool = False) -> str:
    """As it is called, on one line or a parameter to a line."""
    given = node.args
    if any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list):
        return f"{name}: {ast.unparse(node.returns)}" if node.returns else name
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    parameters = [parameter(*each) for each in zip(positional, defaults, strict=True)][skip_self:]
    if given.vararg:
        parameters.append(f"*{parameter(given.vararg, None)}")
    elif given.kwonlyargs:
        parameters.append("*")
    parameters += [parameter(*each) for each in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    result = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    line = f"{name}({', '.join(parameters)}){result}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {each}," for each in parameters), f"){result}"])


def parameter(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg if argument.annotation is None else f"{argument.arg}: {ast.unparse(argument.annotation)}"
    return text if default is None else f"{text} = {ast.unparse(default)}"


def fields(kind: Any) -> str:
    """A dataclass's fields as its source has them, comments included: they say units and sources."""
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    body = ast.parse("\n".join(lines)).body[0]
    assert isinstance(body, ast.ClassDef)
    declared = [each for each in body.body if isinstance(each, ast.AnnAssign)]
    docstring = body.body[0].end_lineno or 0
    own = lines[docstring : declared[-1].end_lineno]
    return f"class {kind.__name__}:\n" + "\n".join(own).strip("\n")


def fence(code: str) -> str:
    return f"\n```py\n{code}\n```\n"


def prose(thing: Any) -> str:
    return "\n" + markdown(inspect.getdoc(thing) or "") + "\n"


def markdown(docstring: str) -> str:
    """A docstring whose examples are fenced."""
    paragraphs = []
    for paragraph in inspect.cleandoc(docstring).split("\n\n"):
        paragraphs.append(f"```pycon\n{paragraph}\n```" if paragraph.startswith(">>>") else paragraph)
    return "\n\n".join(paragraphs)


def main() -> None:
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    PAGE.write_text(page(head), encoding="utf-8")


if __name__ == "__main__":
    main()
