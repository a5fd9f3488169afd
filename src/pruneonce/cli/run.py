"""`predict` and `evaluate`: a model's answers, and how good they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pruneonce.cli.options import JSON
from pruneonce.cli.show import plain, print_json, print_metrics
from pruneonce.errors import UsageError
from pruneonce.progress import progress_bar


def evaluate(
    model: Path,
    task: Annotated[str, typer.Option("--task", help="A GLUE task, squad, classification or regression.")],
    data: Annotated[str, typer.Option("--data", help="Examples: a file; default the task's split on the Hub.")] = "",
    text: str = "",
    text_pair: str = "",
    label: str = "",
    max_tokens: Annotated[
        int | None, typer.Option(help="Per example or window; default 384 for squad, else 128.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Score a fine-tuned model folder, or a packed file, with the task's standard metrics."""
    from pruneonce.recipe import TaskData

    score: Callable[..., dict[str, float]]
    if model.is_file():
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
    file: Annotated[Path | None, typer.Option("--file", help="One text per line; - reads standard input.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="How many answers to each text.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default one per core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per text.")] = False,
) -> None:
    """Answer texts with a packed model: classes, spans, words for [MASK], or vectors."""
    from pruneonce.run.pipelines import pipeline

    texts = [*(texts or []), *(_lines_of(file) if file else [])]
    if not texts:
        raise UsageError("predict: no text: give texts, or --file FILE (- for standard input)")
    answer: Any = pipeline(task, model, threads=threads)
    if question and answer.task != "question-answering":
        raise UsageError(f"--question is for question answering; this is {answer.task}")
    if answer.task == "question-answering" and not question:
        raise UsageError("question answering needs --question; the texts are the contexts")
    options: dict[str, Any] = {} if top_k is None else {"top_k": top_k}
    if answer.task == "feature-extraction":
        answers = answer(texts, pooling="mean", **options).tolist()
    elif answer.task == "question-answering":
        answers = answer([{"question": question, "context": text} for text in texts], **options)
    elif answer.task == "token-classification":
        answers = answer(texts, aggregation_strategy="simple", **options)
    else:
        answers = answer(texts, **options)
        answers = [answers] if answer.task == "fill-mask" and len(texts) == 1 else answers
    for text, each in zip(texts, answers, strict=True):
        if as_json:
            print(plain(json.dumps({"text": text, "answer": each}, ensure_ascii=False)))
        else:
            print(f"{plain(text)}\n  {_shown(each)}")


def _lines_of(file: Path) -> list[str]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    return [line for line in text.splitlines() if line.strip()]


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
