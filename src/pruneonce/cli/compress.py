"""`compress`: any encoder, without labels, in the time one has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from pruneonce.cli.options import JSON
from pruneonce.errors import UsageError

SECONDS = {"s": 1 / 60, "m": 1.0, "h": 60.0, "": 1.0}


def compress(
    model: Annotated[str, typer.Argument(help="Folder or Hub id: an encoder, bare or with a task's head.")],
    texts: Annotated[
        list[Path] | None,
        typer.Option("--texts", help="Plain text, .txt, .jsonl or .parquet; default 10,000 Wikipedia leads."),
    ] = None,
    sparsity: Annotated[float, typer.Option(help="Share of the encoder's weights that become zero.")] = 0.9,
    pattern: Annotated[str, typer.Option(help="Where zeros lie: unstructured, or 1x4 blocks.")] = "unstructured",
    budget: Annotated[str, typer.Option(help="Time for pruning on this machine: 90s, 60m, 2h.")] = "60m",
    int8: Annotated[bool, typer.Option("--int8", help="Pack it in 8 bits too.")] = False,
    attention: Annotated[
        str, typer.Option(help="With --int8, attention in fp32, or in int8 too: faster from some 100 tokens on.")
    ] = "fp32",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; default runs/compress/MODEL.")] = None,
    text_column: Annotated[str, typer.Option(help="Of .jsonl and .parquet, the column with the text.")] = "text",
    documents: Annotated[str, typer.Option(help="What is one text in a .txt: line, blank-line or file.")] = "line",
    task: Annotated[str, typer.Option("--task", help="Score both models on it: a GLUE task, squad, …")] = "",
    data: Annotated[str, typer.Option("--data", help="Its labelled examples; they are never trained on.")] = "",
    vectors: Annotated[
        bool | None,
        typer.Option(
            "--vectors/--no-vectors",
            help="After pruning, learn the original's vectors of texts; default for folders of sentence-transformers.",
        ),
    ] = None,
    seed: int = 42,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure speed at the end.")] = True,
    as_json: JSON = False,
) -> None:
    """Prune any encoder by matching itself on plain text; pack it, and report what changed. Run again to resume."""
    from dataclasses import asdict

    from pruneonce.cli.show import plain, print_json
    from pruneonce.compression import compress as run
    from pruneonce.compression.report import markdown
    from pruneonce.recipe import TaskData

    minutes = minutes_of(budget)
    folder = out or Path("runs") / "compress" / (Path(model).resolve().name if Path(model).is_dir() else model)
    report = run(
        model,
        texts or (),
        out=folder,
        sparsity=sparsity,
        pattern=pattern,
        budget_minutes=minutes,
        int8=int8,
        attention=attention,
        seed=seed,
        text_column=text_column,
        documents=documents,
        task=TaskData(task, validation=data) if task else None,
        vectors=vectors,
        speed=speed,
    )
    if as_json:
        print_json(asdict(report))
    else:
        print(markdown(report))
        print(f"compress done: {plain(folder)}")


def minutes_of(budget: str) -> float:
    """ "90s", "60m", "2h" or a number of minutes; UsageError for anything else.

    >>> [minutes_of(each) for each in ("90s", "60m", "1.5h", "20")]
    [1.5, 60.0, 90.0, 20.0]
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(s|m|h|)", budget.strip(), re.ASCII)
    if not found or not float(found[1]) > 0:
        raise UsageError(f"--budget is '{budget}': a time such as 90s, 60m or 2h is expected")
    return float(found[1]) * SECONDS[found[2]]
