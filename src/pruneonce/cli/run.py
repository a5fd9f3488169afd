"""`predict`, `embed` and `evaluate`: a model's answers, and how good they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pruneonce.cli.options import JSON, On
from pruneonce.cli.show import plain, print_json, print_metrics
from pruneonce.errors import UsageError
from pruneonce.hub_files import on_hub
from pruneonce.progress import progress_bar

Errors = Annotated[
    str | None, typer.Option("--errors", help="Write rows that hold no text to this .jsonl, and go on without them.")
]
ClusterWorkers = Annotated[
    int | None, typer.Option("--workers", min=1, help="With --on: how many at once; default as many as its CPUs allow.")
]


def evaluate(
    model: Path,
    task: Annotated[str, typer.Option("--task", help="A GLUE task, squad, classification or regression.")],
    data: Annotated[str, typer.Option("--data", help="Examples: a file; default the task's split on the Hub.")] = "",
    text: Annotated[str, typer.Option("--text", help="Column of the texts, in files of your own.")] = "",
    text_pair: Annotated[str, typer.Option("--text-pair", help="Column of each text's pair, if there are pairs.")] = "",
    label: Annotated[str, typer.Option("--label", help="Column of the labels.")] = "",
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Per example or window; default as the model was trained; else 384 for squad, 128 for others."
        ),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Score a fine-tuned model folder, or a packed file, with the task's standard metrics."""
    from pruneonce.recipe import TaskData

    score: Callable[..., dict[str, float]]
    if on_hub(model) or model.is_file():
        from pruneonce.evaluation.packed import score_packed as score
    else:
        from pruneonce.evaluation.scoring import score_folder as score
        from pruneonce.models.hub import quiet_transformers

        quiet_transformers()
    wanted = TaskData(task, "", data, text, text_pair, label, max_tokens=max_tokens)
    with progress_bar(f"{task} with {model.name}") as advance:
        metrics = score(model, wanted, on_progress=advance)
    if as_json:
        print_json({"model": str(model), "task": task, "metrics": metrics})
    else:
        print_metrics(metrics)


def predict(
    model: Annotated[Path, typer.Argument(help="A packed file: `pruneonce export` makes one.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT...")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Default: what the model was made for.")] = None,
    question: Annotated[str, typer.Option(help="For question answering; the texts are the contexts.")] = "",
    text_pair: Annotated[str, typer.Option(help="Second text of a pair; each text is its first.")] = "",
    file: Annotated[
        Path | None,
        typer.Option("--file", help="A text per line (- is standard input), or .tsv, .csv, .jsonl with columns."),
    ] = None,
    columns: Annotated[
        str, typer.Option(help="Of such a --file: TEXT, or TEXT,PAIR; default text, and text_pair if it is there.")
    ] = "",
    truncation: Annotated[bool, typer.Option("--truncation", help="Cut what is too long for the model.")] = False,
    max_length: Annotated[int | None, typer.Option(min=4, help="Cut texts to so many tokens.")] = None,
    query: Annotated[str, typer.Option(help="For text-ranking; the texts are ranked by how well they answer it.")] = "",
    top_k: Annotated[int | None, typer.Option(min=1, help="How many answers to each text.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Default one per core; with --on those of a worker, default 1.")
    ] = None,
    source: Annotated[str, typer.Option("--input", help="Files with --output: as of `embed`.")] = "",
    out: Annotated[str, typer.Option("--output", help="Write .jsonl, in the memory of a few thousand texts.")] = "",
    column: Annotated[str, typer.Option(help="Column of the texts of --input.")] = "text",
    errors: Errors = None,
    on: On = "",
    workers: ClusterWorkers = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per text.")] = False,
) -> None:
    """Answer texts with a packed model: classes, spans, words for [MASK], vectors, or an order by a query."""
    from pruneonce.run.pipelines import pipeline

    if source or out:
        if not (source and out) or texts or file or question or text_pair or query:
            raise UsageError("--input and --output go together, and with no other texts")
        chosen = {"top_k": top_k, "truncation": truncation or None, "max_length": max_length}
        passed = {name: value for name, value in chosen.items() if value is not None}
        passed |= _cluster(on, workers, threads)
        _predict_file(pipeline(task, model, threads=threads), source, out, column, errors, as_json, passed)
        return
    if on or workers:
        raise UsageError("--on and --workers are for files: give --input and --output")
    given = [(text, text_pair) if text_pair else text for text in texts or []]
    asked: list[str | tuple[str, str]] = [*given, *(texts_of(file, columns) if file else [])]
    if not asked:
        raise UsageError("predict: no text: give texts, or --file FILE (- for standard input)")
    answer: Any = pipeline(task or ("text-ranking" if query else None), model, threads=threads)
    if question and answer.task != "question-answering":
        raise UsageError(f"--question is for question answering; this is {answer.task}")
    if answer.task == "question-answering" and not question:
        raise UsageError("question answering needs --question; the texts are the contexts")
    if bool(query) != (answer.task == "text-ranking"):
        raise UsageError(f"--query is for text-ranking, which needs it; this is {answer.task}")
    if answer.task != "text-classification" and any(isinstance(each, tuple) for each in asked):
        raise UsageError(f"pairs of texts are for text-classification; this is {answer.task}")
    options: dict[str, Any] = {} if top_k is None else {"top_k": top_k}
    if truncation or max_length is not None:
        if answer.task in ("question-answering", "fill-mask"):
            raise UsageError(f"--truncation and --max-length are not for {answer.task}, where nothing is cut")
        options |= {"truncation": truncation, "max_length": max_length}
    if answer.task == "text-ranking":
        _print_ranking(answer.rerank(query, asked, return_texts=True, **_without_defaults(options)), as_json)
        return
    if answer.task == "embeddings":
        answers = answer(asked, **_without_defaults(options)).tolist()
    elif answer.task == "feature-extraction":
        answers = answer(asked, pooling="mean", **options).tolist()
    elif answer.task == "question-answering":
        answers = answer([{"question": question, "context": text} for text in asked], **options)
    elif answer.task == "token-classification":
        answers = answer(asked, aggregation_strategy="simple", **options)
    else:
        answers = answer(asked, **options)
        answers = [answers] if answer.task == "fill-mask" and len(asked) == 1 else answers
    for text, each in zip(asked, answers, strict=True):
        parts = text if isinstance(text, tuple) else (text,)
        if as_json:
            named = dict(zip(("text", "text_pair"), parts, strict=False))
            print(plain(json.dumps({**named, "answer": each}, ensure_ascii=False)))
        else:
            print("\n".join(map(plain, parts)) + f"\n  {_shown(each)}")


def embed(
    model: Annotated[Path, typer.Argument(help="A packed file: `pruneonce export` makes one.")],
    source: Annotated[
        str,
        typer.Option(
            "--input", help=".jsonl, .csv, .tsv, .parquet, .txt (a text per line), or -; a pattern, or a URL as s3://…"
        ),
    ],
    out: Annotated[str, typer.Option("--output", help="File or URL to write: .npy, or .parquet.")],
    column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    keep: Annotated[str, typer.Option(help="Columns to keep beside the vectors in .parquet: ID,TITLE.")] = "",
    prompt_name: Annotated[str | None, typer.Option(help="Of the model's prompts, as query or passage.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A text to go before every text.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Keep the first so many numbers (Matryoshka).")] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--raw", help="Length 1, or not; default what the model's file says.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="mean, cls, max, …; default what the model's file says.")] = None,
    max_length: Annotated[int | None, typer.Option(min=4, help="Cut texts to so many tokens.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Default one per core; with --on those of a worker, default 1.")
    ] = None,
    errors: Errors = None,
    on: On = "",
    workers: ClusterWorkers = None,
    as_json: JSON = False,
) -> None:
    """Write the vectors of a file's texts, however many: one per row, in order."""
    from pruneonce.run.embed_file import embed_file
    from pruneonce.run.pipelines import pipeline
    from pruneonce.run.pipelines.embeddings import Embeddings

    embeddings = pipeline("embeddings", model, threads=threads)
    assert isinstance(embeddings, Embeddings)
    options: dict[str, Any] = {"prompt_name": prompt_name, "prompt": prompt, "dimensions": dimensions}
    options |= {"normalize": normalize, "pooling": pooling, "max_length": max_length}
    options |= _cluster(on, workers, threads)
    kept = [name.strip() for name in keep.split(",") if name.strip()]
    with progress_bar(f"vectors of {source}") as advance:
        written = embed_file(
            embeddings, source, out, column=column, keep=kept, errors=errors, on_progress=advance, **options
        )
    if as_json:
        bad = {} if errors is None else {"bad": written.bad}
        print_json({"file": out, "texts": written.texts, "size": written.size} | bad)
    else:
        print(f"{plain(out)}: {written.texts:,} vectors of {written.size}{_set_aside(written.bad, errors)}")


def _predict_file(
    answer: Any, source: str, out: str, column: str, errors: str | None, as_json: bool, options: dict[str, Any]
) -> None:
    from pruneonce.run.predict_file import predict_file

    with progress_bar(f"answers to {source}") as advance:
        written = predict_file(answer, source, out, column=column, errors=errors, on_progress=advance, **options)
    if as_json:
        bad = {} if errors is None else {"bad": written.bad}
        print_json({"file": out, "texts": written.texts} | bad)
    else:
        print(f"{plain(out)}: {written.texts:,} answers{_set_aside(written.bad, errors)}")


def _cluster(on: str, workers: int | None, threads: int | None) -> dict[str, Any]:
    """Arguments of `embed_file` and `predict_file`."""
    if workers and not on:
        raise UsageError("--workers are a cluster's: give --on too (here, one process has --threads)")
    return {"on": on, "workers": workers, "worker_threads": threads or 1}


def _set_aside(bad: int, errors: str | None) -> str:
    return f"; {bad:,} rows held no text: {plain(errors)}" if bad else ""


def _without_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """Without `truncation`: what is embedded or ranked is cut anyway."""
    return {name: value for name, value in options.items() if name != "truncation"}


def _print_ranking(ranking: list[dict[str, Any]], as_json: bool) -> None:
    for each in ranking:
        if as_json:
            print(plain(json.dumps(each, ensure_ascii=False)))
        else:
            print(f"{each['score']:.3f}  {plain(each['text'])}")


def texts_of(file: Path, columns: str) -> list[str | tuple[str, str]]:
    """Texts or pairs of a file: its rows where its suffix is that of a table, else its lines that are not blank."""
    if file.suffix in (".tsv", ".csv", ".jsonl", ".json", ".parquet"):
        return _rows_of(file, columns)
    if columns:
        raise UsageError(f"--columns is for .tsv, .csv, .jsonl, .json and .parquet; {file} has lines")
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        lines = data.decode("utf-8-sig").split("\n")  # not splitlines: a text may hold U+2028 or a form feed
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{file}, line {line}: not UTF-8 text; convert the file to UTF-8") from error
    return [line.removesuffix("\r") for line in lines if line.strip()]


def _rows_of(file: Path, columns: str) -> list[str | tuple[str, str]]:
    from pruneonce.tasks.table import read_table

    table = read_table(file)
    names = [name.strip() for name in columns.split(",")] if columns else ["text"]
    if not columns and "text_pair" in table.columns:
        names.append("text_pair")
    if len(names) > 2:
        raise UsageError(f"--columns names the text's and the pair's; got {columns}")
    table.require(names)
    found: list[str | tuple[str, str]] = []
    for index, row in enumerate(zip(*(table.column(name) for name in names), strict=True)):
        if not all(isinstance(part, str) for part in row):
            raise UsageError(f"{table.where(index)}: expected text, found {type(row[0]).__name__}")
        found.append(row if len(row) == 2 else row[0])
    return found


def _shown(answer: Any) -> str:
    """A pipeline's answer for a person: best first, indented under its text."""
    if isinstance(answer, list) and answer and isinstance(answer[0], float):
        return " ".join(f"{value:.4f}" for value in answer)
    if isinstance(answer, list):
        return "\n  ".join(_shown(each) for each in answer) or "nothing found"
    name = next(plain(answer[key]) for key in ("label", "answer", "entity_group", "token_str") if key in answer)
    where = f"  ({answer['start']}–{answer['end']})" if "start" in answer else ""
    found = f"{plain(answer['word'])}: " if "word" in answer else ""
    return f"{found}{name or 'no answer'}  {answer['score']:.3f}{where}"
