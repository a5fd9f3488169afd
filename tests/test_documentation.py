"""The code blocks of the README and docs/: Python runs, commands parse, recipes are recipes.

Python blocks of a page run in order in one namespace and an empty folder. Where a block names a model, a packed file or
a table that is not there, a tiny one takes its place (`stand_in`); `model` and `tokenizer` are a sparse tiny BERT's.
A block that cannot run is told so in the page, on the line before it: <!-- not run: why -->
"""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
import typer

import pruneonce as package
from pruneonce.cli.app import app
from pruneonce.convert.to_packed import export_packed
from pruneonce.recipe import STAGES, load_recipes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?ms)^(?:<!-- not run: (?P<why>[^>]+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$")
INLINE = re.compile(r"`(?:[^`\n]*-m )?pruneonce(?:\.cli)? ([a-z][^`\n]*)`")
NAMED_FILE = re.compile(r"""["']([\w./-]+\.(?:pruneonce|csv)|runs/[\w./-]+)["']""")
NAMED_MODEL = re.compile(r"""from_pretrained\(\s*["']([\w./-]+)["']""")


@dataclass(frozen=True)
class Block:
    page: str
    line: int  # of the page, where its code begins
    language: str
    code: str
    why_not: str | None  # it is not run

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    return [
        Block(page.name, text[: found.start("code")].count("\n") + 1, found["language"], found["code"], found["why"])
        for found in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands_in(code):
    """The arguments of every `pruneonce …` in a block, without comments, variables and what the line's end joins."""
    for line in code.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:  # a picture, not a shell's line
            continue
        words = list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))
        if words[:1] == ["pruneonce"]:
            yield words[1:]


COMMANDS = [
    pytest.param(arguments, id=f"{block}-{' '.join(arguments)}")
    for block in BLOCKS
    if block.why_not is None and block.language in ("", "bash", "console", "sh")
    for arguments in commands_in(block.code)
]
INLINE_COMMANDS = [
    pytest.param(shlex.split(found), id=f"{page.name}-{found}")
    for page in PAGES
    for found in INLINE.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
]


def parse(arguments):
    """Have the command line take `arguments` apart and check names, types and numbers; nothing is called."""
    group = typer.main.get_command(app)
    groups = [group]
    while groups:
        for command in groups.pop().commands.values():
            if hasattr(command, "commands"):
                groups.append(command)
            else:
                command.callback = lambda **_: None
    group.main(arguments, "pruneonce", standalone_mode=False)


def test_the_parser_of_this_file_sees_what_is_wrong():
    parse(["prune", "recipe.toml", "--set", "training.steps=3"])
    for wrong in (["prun", "recipe.toml"], ["prune"], ["prune", "recipe.toml", "--sett", "a=1"], ["doctor", "a", "b"]):
        with pytest.raises(Exception, match=r"No such|Missing|unexpected"):
            parse(wrong)
    code = "$ pruneonce prune a.toml \\\n  --dry-run  # why\nA=1 pruneonce inspect 'b c'\nmake test\n ──prune──▶ it's"
    assert list(commands_in(code)) == [["prune", "a.toml", "--dry-run"], ["inspect", "b c"]]


def test_every_fence_is_closed_and_every_mark_stands_before_a_block():
    for page in PAGES:
        text, blocks = page.read_text(encoding="utf-8"), blocks_of(page)
        assert len(re.findall(r"(?m)^```", text)) == 2 * len(blocks), page.name
        assert len(re.findall(r"(?m)^<!-- not run", text)) == sum(block.why_not is not None for block in blocks), (
            page.name
        )
    assert len(COMMANDS) > 20
    assert {block.language for block in BLOCKS} >= {"", "python", "toml"}


def test_lines_of_the_pages_fit():
    """What `pruneonce report`, the quickstart, benchmarks and `make docs` write is theirs to lay out; models too."""
    written = re.compile(r"(?s)<!-- [^\n]*written by[^\n]*-->.*?<!-- end of [^\n]*-->")
    for page in [ROOT / "CHANGELOG.md", *PAGES]:
        if page.name not in ("results.md", "results-matching.md", "recipes.md", "commands.md"):
            text = written.sub(lambda found: "\n" * found[0].count("\n"), page.read_text(encoding="utf-8"))
            rows = "| " if page.name == "models.md" else "\0"
            lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if not line.startswith(rows)]
            long = [number for number, line in lines if len(line) > 120]
            assert not long, f"{page.name}: lines of more than 120 columns: {long}"


@pytest.mark.parametrize("arguments", COMMANDS)
def test_commands_are_ones_that_the_command_line_takes(arguments):
    parse(arguments)
    for argument in arguments:
        assert not argument.startswith("recipes/") or (ROOT / argument).is_file(), argument
    if arguments[0] in STAGES and arguments[1].startswith("recipes/"):
        overrides = [value for option, value in itertools.pairwise(arguments) if option == "--set"]
        assert load_recipes(ROOT / arguments[1], arguments[0], overrides)


@pytest.mark.parametrize("arguments", INLINE_COMMANDS)
def test_commands_named_in_passing_exist_and_have_their_options(arguments):
    try:
        parse(arguments)
    except Exception as error:
        assert type(error).__name__ == "MissingParameter", error  # noqa: PT017 - typer brings a click of its own


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=str)
def test_recipes_in_the_pages_are_recipes(block, tmp_path):
    values = tomllib.loads(block.code)
    assert values
    if "stage" in values:
        file = tmp_path / "recipe.toml"
        file.write_text(block.code, encoding="utf-8")
        assert load_recipes(file, values["stage"])


def stand_in(name, folder, models, reviews):
    """Put something tiny where a block expects a file or a model."""
    there = folder / name
    if there.exists():
        return
    there.parent.mkdir(parents=True, exist_ok=True)
    if there.name == "reranker.pruneonce":
        folder = there.with_suffix(".folder")
        task = models["task"]
        one = transformers.AutoModelForSequenceClassification.from_pretrained(
            task, num_labels=1, ignore_mismatched_sizes=True
        )
        one.save_pretrained(folder)
        shutil.copy(task / "tokenizer.json", folder)
        export_packed(folder, there)
    elif there.suffix == ".pruneonce":
        export_packed(models["task"], there)
    elif there.suffix == ".csv":
        there.write_text(reviews, encoding="utf-8")
    else:
        shutil.copytree(models["distilbert" if "distilbert" in name else "task" if "/" in name else "bert"], there)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "python" for b in blocks_of(page))], ids=lambda page: page.name
)
def test_python_of_a_page_runs_from_top_to_bottom(
    page, sparse_tiny_bert, tiny_bert, tiny_distilbert, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    models = {"task": sparse_tiny_bert, "bert": tiny_bert, "distilbert": tiny_distilbert}
    reviews = "sentence,label\n" + "a good film,positive\na bad film,negative\n" * 10
    namespace = {
        "__name__": page.name,
        "pruneonce": package,
        "torch": torch,
        "model": transformers.AutoModelForSequenceClassification.from_pretrained(sparse_tiny_bert),
        "tokenizer": transformers.AutoTokenizer.from_pretrained(sparse_tiny_bert),
    }
    for block in blocks_of(page):
        if block.language == "python" and block.why_not is None:
            for name in (*NAMED_FILE.findall(block.code), *NAMED_MODEL.findall(block.code)):
                stand_in(name, tmp_path, models, reviews)
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
            exec(code, namespace)
