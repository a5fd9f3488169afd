"""The command line: every command parses its arguments, calls one function of the library, and prints the answer."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pruneonce import __version__
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import write_json
from pruneonce.progress import Advance, progress_bar
from pruneonce.recipe import default_output

if TYPE_CHECKING:
    from pruneonce.convert.inspect_folder import Inspection, Total
    from pruneonce.convert.inspect_packed import PackedInspection
    from pruneonce.study.plan import Plan

app = typer.Typer(
    help="Prune a BERT once, while it is being pre-trained; fine-tune it with its zeros locked; run it on a CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Turn raw text into pre-training examples.", no_args_is_help=True)
app.add_typer(data_app, name="data")

# Control characters, separators of lines and lone surrogates: what could rewrite a terminal, or not be printed at all.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

JSON = Annotated[bool, typer.Option("--json", help="Print JSON for a machine instead of a table.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write; default runs/RECIPE.")]
Keep = Annotated[bool, typer.Option("--keep-checkpoints", help="Keep what is only needed to resume.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default one per core.")]


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 the thing asked for failed, 2 wrong usage."""
    try:
        app()
    except PruneonceError as error:
        if os.environ.get("PRUNEONCE_TRACEBACK"):
            raise
        print(f"error: {_plain(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("interrupted: the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@data_app.command("wikipedia")
def data_wikipedia(
    dump: Annotated[Path, typer.Argument(help="A MediaWiki dump: pages-articles.xml, .xml.bz2 or .xml.gz.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the articles.")],
    workers: Workers = None,
) -> None:
    """Stream a Wikipedia dump into plain-text articles, in constant memory."""
    from pruneonce.data.wikipedia import extract

    with progress_bar(f"articles of {dump.name}") as advance:
        outcome = extract(dump, out, workers=workers or _cores(), on_progress=advance)
    _print_articles(outcome, out)


@data_app.command("text")
def data_text(
    files: Annotated[list[Path], typer.Argument(help="Files: .txt, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the articles.")],
    text_column: Annotated[str, typer.Option(help="Column of .jsonl and .parquet files that holds the text.")] = "text",
    documents: Annotated[
        str, typer.Option(help="What ends a document in a .txt file: blank-line, line or file.")
    ] = "blank-line",
    title_column: Annotated[str | None, typer.Option(help="Column that holds a document's title, if any.")] = None,
) -> None:
    """Collect your own text files into articles."""
    from pruneonce.data.text import collect

    with progress_bar("articles") as advance:
        outcome = collect(
            files, out, text_column=text_column, title_column=title_column, documents=documents, on_progress=advance
        )
    _print_articles(outcome, out)


@data_app.command("pretraining")
def data_pretraining(
    articles: Annotated[Path, typer.Argument(help="A folder made by `data wikipedia` or `data text`.")],
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="Model folder or Hub id whose vocabulary to use.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the corpus.")],
    layout: Annotated[
        str, typer.Option(help="segment_pair_nsp (BERT) or document_sentences (DistilBERT).")
    ] = "segment_pair_nsp",
    max_tokens: Annotated[int, typer.Option(help="Longest example, special tokens included.")] = 512,
    short_sequence_probability: float = 0.1,
    random_next_probability: float = 0.5,
    validation_fraction: Annotated[float, typer.Option(help="Share of documents held out.")] = 0.05,
    seed: int = 42,
    workers: Workers = None,
) -> None:
    """Cut articles into examples for masked-LM and next-sentence pre-training."""
    from pruneonce.data.corpus import build

    with progress_bar("documents") as advance:
        outcome = build(
            articles,
            out,
            tokenizer=tokenizer,
            layout=layout,
            max_tokens=max_tokens,
            short_sequence_probability=short_sequence_probability,
            random_next_probability=random_next_probability,
            validation_fraction=validation_fraction,
            seed=seed,
            workers=workers or _cores(),
            on_progress=advance,
        )
    splits = outcome.manifest["splits"]
    for split, counts in splits.items():
        print(
            f"{split}: {counts['documents']:,} documents, {counts['examples']:,} examples, {counts['tokens']:,} tokens"
        )
    _print_rate(
        {unit: sum(counts[unit] for counts in splits.values()) for unit in ("documents", "tokens")}, outcome, out
    )


@app.command()
def teacher(recipe: Path, overrides: Set = None, out: Out = None, keep_checkpoints: Keep = False) -> None:
    """Prepare the teacher: continue pre-training a dense checkpoint on the corpus. Run again to resume."""
    _run_stage("teacher", recipe, overrides, out, keep_checkpoints)


@app.command()
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


@app.command()
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


@app.command()
def quantize(recipe: Path, overrides: Set = None, out: Out = None, keep_checkpoints: Keep = False) -> None:
    """Quantise a fine-tuned model to 8 bits with its zeros locked. Run again to resume."""
    _run_stage("quantize", recipe, overrides, out, keep_checkpoints)


@app.command()
def study(
    recipe: Path,
    overrides: Set = None,
    out: Out = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List cells, budgets and estimated hours.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time, each with its share of the cores.")] = 1,
    as_json: JSON = False,
) -> None:
    """Run a grid of methods, sparsities, tasks and seeds. Run again to resume: what is done is skipped."""
    from pruneonce.models.hub import quiet_transformers
    from pruneonce.study.plan import make_plan
    from pruneonce.study.recipe import load_study

    quiet_transformers()
    folder = out or default_output(recipe)
    plan = make_plan(load_study(recipe, overrides or []), folder)
    if dry_run:
        _print_study_plan(plan, as_json)
        return
    from pruneonce.study.run import run_study

    outcome = run_study(plan, progress_bar, jobs)
    if as_json:
        _print_json(
            {"runs": {name: each.metrics for name, each in outcome.records.items()}, "failures": outcome.failures}
        )
    print(f"{len(outcome.records)} of {len(plan.nodes)} runs are done: pruneonce report {folder}")
    for name, reason in outcome.failures.items():
        print(f"  {name}: {_plain(reason)}")
    if outcome.failures:
        raise PruneonceError(f"{len(outcome.failures)} runs have no result; the same command tries them again")


@app.command()
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
        print(file)


@app.command()
def inspect(model: Path, as_json: JSON = False) -> None:
    """Sparsity, mask digest and bytes of every matrix of a model folder or a packed file, and the totals."""
    if model.is_file():
        from pruneonce.convert.inspect_packed import inspect_packed

        packed = inspect_packed(model)
        if as_json:
            _print_json(packed.as_dict())
        else:
            _print_packed(packed)
        return
    from pruneonce.convert.inspect_folder import inspect_folder

    report = inspect_folder(model)
    if as_json:
        _print_json(report.as_dict())
    else:
        _print_inspection(report)


@app.command()
def export(
    model: Path,
    out: Annotated[Path, typer.Option("--out", help="File to write, by custom NAME.pruneonce or NAME.onnx.")],
    to: Annotated[str, typer.Option("--to", help="packed: our engine's one file; onnx: for other engines.")] = "packed",
    embeddings: Annotated[str, typer.Option(help="packed: type of the embeddings, fp32, fp16, bf16 or int8.")] = "fp16",
    values: Annotated[str, typer.Option(help="packed: type of the encoder's matrices, fp32, fp16 or bf16.")] = "fp32",
    as_json: JSON = False,
) -> None:
    """Write a model folder as one file that needs no torch."""
    if to == "onnx":
        if (embeddings, values) != ("fp16", "fp32"):
            raise UsageError("--embeddings and --values are for --to packed; an ONNX file has float32 weights")
        _export_onnx(model, out, as_json)
        return
    from pruneonce.convert.inspect_packed import inspect_packed
    from pruneonce.convert.to_packed import export_packed

    if to != "packed":
        raise UsageError(f"--to cannot be '{to}': expected packed or onnx")
    export_packed(model, out, embeddings=embeddings, values=values)
    report = inspect_packed(out)
    if as_json:
        _print_json(report.as_dict())
    else:
        _print_packed_totals(report)


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that compressed-tensors wrote as sparse-bitmask.")],
    out: Annotated[Path, typer.Option("--out", help="Model folder to write.")],
    as_json: JSON = False,
) -> None:
    """Turn a sparse-bitmask checkpoint, which its own library no longer reads, into a model folder."""
    from pruneonce.convert.from_sparse_bitmask import import_checkpoint

    found = import_checkpoint(checkpoint, out)
    if as_json:
        _print_json(asdict(found))
    else:
        print(
            f"{found.folder}: {found.tensors} tensors, {found.decompressed} decompressed ({found.sparsity:.1%} zeros)"
        )
        print(f"{found.bytes_before / 1e6:.2f} MB became {found.bytes_after / 1e6:.2f} MB")


@app.command()
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
    from pruneonce.evaluation.scoring import score_folder, score_packed
    from pruneonce.models.hub import quiet_transformers
    from pruneonce.recipe import TaskData

    quiet_transformers()
    wanted = TaskData(task, "", data, text, text_pair, label, max_tokens=max_tokens)
    with progress_bar(f"{task} with {model.name}") as advance:
        score = score_packed if model.is_file() else score_folder
        metrics = score(model, wanted, on_progress=advance)
    if as_json:
        _print_json({"model": str(model), "task": task, "metrics": metrics})
    else:
        _print_metrics(metrics)


@app.command()
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
            print(_plain(json.dumps({"text": text, "answer": each}, ensure_ascii=False)))
        else:
            print(f"{_plain(text)}\n  {_shown(each)}")


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
    name = next(_plain(answer[key]) for key in ("label", "answer", "entity_group", "token_str") if key in answer)
    where = f"  ({answer['start']}–{answer['end']})" if "start" in answer else ""
    found = f"{_plain(answer['word'])}: " if "word" in answer else ""
    return f"{found}{name or 'no answer'}  {answer['score']:.3f}{where}"


@app.command()
def doctor(
    recipe: Annotated[Path | None, typer.Argument(help="Estimate what this recipe would cost here.")] = None,
    overrides: Set = None,
    as_json: JSON = False,
) -> None:
    """What this machine has; and for a recipe: steps, hours, memory and disk, before anything starts."""
    from pruneonce.cost.doctor import describe_machine, others_note

    note = others_note()
    answer: dict[str, Any] = {"machine": asdict(describe_machine())}
    if recipe is not None:
        from pruneonce.cost.estimate import estimate
        from pruneonce.recipe import load_recipes, stage_of

        recipes = load_recipes(recipe, stage_of(recipe), overrides or [])
        answer["recipe"] = {**asdict(estimate(recipes[0])), "runs": len(recipes)}
    if as_json:
        _print_json(answer)
    else:
        _print_doctor(answer)
        if note:
            print(note)


@app.command()
def bench(
    model: Annotated[Path | None, typer.Argument(help="A model folder, in floats or quantised.")] = None,
    against: Annotated[str, typer.Option(help="Some of torch, onnxruntime, openvino, deepsparse.")] = (
        "torch,onnxruntime,openvino"
    ),
    random: Annotated[str, typer.Option(help="No MODEL but bert-base, bert-large, distilbert or minilm.")] = "",
    sparsity: Annotated[float, typer.Option(help="Of --random.")] = 0.9,
    pattern: Annotated[str, typer.Option(help="Of the zeros of --random; or 1x4.")] = "unstructured",
    head: Annotated[str, typer.Option(help="Of --random, or question-answering.")] = "sequence-classification",
    grid: Annotated[str, typer.Option(help="Batches, SEQUENCESxTOKENS each.")] = "1x32,1x128,16x128,1x384",
    mixed: Annotated[str, typer.Option(help="Mixed lengths too: squad, or a file of token counts.")] = "",
    texts: Annotated[Path | None, typer.Option(help="Take the words from this file; default random ones.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every engine; default one per core.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed calls of each engine per batch.")] = 10,
    settle: Annotated[int, typer.Option(min=0, help="Untimed calls before each timed one.")] = 1,
    int8: Annotated[bool, typer.Option("--int8/--no-int8", help="Every engine in 8 bits too.")] = True,
    task: Annotated[str, typer.Option(help="Score every engine's answers too: squad or a GLUE task.")] = "",
    data: Annotated[str, typer.Option(help="Examples of --task; default its split on the Hub.")] = "",
    examples: Annotated[int | None, typer.Option(min=1, help="How many of them; default all.")] = None,
    deepsparse_python: Annotated[Path | None, typer.Option(help="Python that has deepsparse.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Keep the raw timings, for `report`.")
    ] = None,
) -> None:
    """Measure the engine beside others: same inputs, calls in turn, outputs compared."""
    from pruneonce.bench.inference import results

    if (model is None) == (not random):
        raise UsageError("one model folder is expected, or --random bert-base")
    from pruneonce.bench.inference.run import Options, run_on_folder, run_on_random
    from pruneonce.recipe import TaskData

    options = Options(
        against=tuple(name.strip() for name in against.split(",") if name.strip()),
        grid=grid,
        threads=threads or _cores(),
        rounds=rounds,
        settle=settle,
        mixed=mixed,
        texts=texts,
        int8=int8,
        deepsparse_python=deepsparse_python,
        task=TaskData(task, validation=data, validation_examples=examples) if task else None,
    )
    with progress_bar("bench") as advance:
        if random:
            record = run_on_random(random, head, sparsity, options, advance, pattern=pattern)
        else:
            assert model is not None
            record = run_on_folder(model, options, advance)
    if json_file is not None:
        write_json(json_file, record)
    for line in results.summary(record):
        _console().print(line)
    for table in results.tables(record):
        _console().print(table)
    for line in [*results.accuracy_lines(record), *results.mixed_lines(record)]:
        _console().print(line)


@app.command("bench-train")
def bench_train(
    model: Annotated[Path | None, typer.Argument(help="A model folder with zeros.")] = None,
    random: Annotated[str, typer.Option(help="No MODEL but bert-base, bert-large, distilbert or minilm.")] = "",
    sparsity: Annotated[float, typer.Option(help="Of --random.")] = 0.9,
    grid: Annotated[str, typer.Option(help="Batches, SEQUENCESxTOKENS each.")] = "16x128",
    task: Annotated[str, typer.Option(help="classification or question_answering.")] = "classification",
    rounds: Annotated[int, typer.Option(min=1, help="Measured steps of each, after one that is not.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every training; default one per core.")] = None,
    dropout: Annotated[float, typer.Option(help="Of every training.")] = 0.0,
    kernel: Annotated[str, typer.Option(help="Of ours: auto, as finetune chooses, or sparse.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Keep the raw timings, for `report`.")
    ] = None,
) -> None:
    """Measure a step of fine-tuning beside dense PyTorch and masks: same batch, in turn, losses compared."""
    from pruneonce.bench.training import results
    from pruneonce.bench.training.run import TrainingOptions, run_on_folder, run_on_random

    if (model is None) == (not random):
        raise UsageError("one model folder is expected, or --random bert-base")
    options = TrainingOptions(grid, task, threads or _cores(), rounds, dropout, kernel)
    with progress_bar("bench-train") as advance:
        if model is not None:
            record = run_on_folder(model, options, advance)
        else:
            record = run_on_random(random, sparsity, options, advance)
    if json_file is not None:
        write_json(json_file, record)
    for line in results.summary(record):
        _console().print(line)
    for columns, rows in (
        (results.COLUMNS[1:], results.step_rows(record)),
        (results.share_columns([record])[1:], results.share_rows([record])),
    ):
        table = Table(*columns)
        for row in rows:
            table.add_row(*row[1:])
        _console().print(table)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path("runs/quickstart"),
    assets_only: Annotated[bool, typer.Option("--assets-only", help="Fetch the model and data, and stop.")] = False,
) -> None:
    """Run the whole chain on a small real model and real text, and show what came out."""
    if assets_only:
        from pruneonce.quickstart.assets import assets_folder, fetch_assets

        fetch_assets()
        print(f"assets: {assets_folder()}")
        return
    from pruneonce.models.hub import quiet_transformers
    from pruneonce.quickstart.run import COLUMNS, cells, run_quickstart

    quiet_transformers()
    report = run_quickstart(out)
    table = Table(*COLUMNS, title="Movie-review sentences, held out")
    for row in report.rows:
        table.add_row(*cells(row))
    _console().print(table)
    print(f"details: {out / 'report.md'}")


def _export_onnx(model: Path, out: Path, as_json: bool) -> None:
    from pruneonce.convert.to_onnx import export_onnx
    from pruneonce.models.hub import quiet_transformers

    quiet_transformers()
    written = export_onnx(model, out)
    if as_json:
        _print_json(asdict(written))
        return
    print(f"{written.file}: {written.bytes / 1e6:.2f} MB, opset {written.opset}")
    print(f"{', '.join(written.inputs)} -> {', '.join(written.outputs)}, for any number of sequences and tokens")
    print(f"largest difference from PyTorch on sample text, in ONNX Runtime: {written.max_difference:.1e}")
    if written.dequantized:
        print("the folder is quantised: the file holds its de-quantised float weights, not its int8 scales")


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
        _console().print(f"{stage} done: {folder}")
        _print_metrics(record.metrics)


def _run_seeds(stage: str, recipes: list[Any], folder: Path, keep: bool) -> None:
    from pruneonce.study.seeds import run_seeds
    from pruneonce.train.processes import is_main_process

    summary = run_seeds(stage, recipes, folder, progress_bar, keep_checkpoints=keep)
    if is_main_process():
        _console().print(f"{stage} done with {len(recipes)} seeds: {folder}")
        for name, each in summary.items():
            print(f"  {name:<24}{each.mean:.4f} ± {each.std:.4f}  n = {each.n}")


def _print_study_plan(plan: Plan, as_json: bool) -> None:
    from pruneonce.cost.doctor import others_note
    from pruneonce.study.cost import plan_costs

    note = others_note()
    with progress_bar("probes"):
        costs = plan_costs(plan)
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
        _print_json({"cells": cells, "runs": {name: vars(cost) for name, cost in costs.items()}, "hours_left": left})
        return
    table = Table("method", "zeros", "task", "seed", "steps", "examples", "runs", title=f"{len(cells)} cells")
    for cell in cells:
        zeros = "dense" if cell["sparsity"] is None else f"{cell['sparsity']:.1%}"
        budget = (f"{cell['steps']:,}", f"{cell['examples']:,}")
        table.add_row(cell["method"], zeros, cell["task"], str(cell["seed"]), *budget, " ".join(cell["runs"]))
    _console().print(table)
    table = Table("run", "steps", "examples", "minutes", "", title=f"{len(costs)} runs, each made once")
    for name, cost in costs.items():
        minutes = f"{cost.hours * 60:.1f}"
        table.add_row(name, f"{cost.steps:,}", f"{cost.examples:,}", minutes, "done" if cost.done else "")
    _console().print(table)
    print(f"{left:.2f} hours left on this machine, by a probe of each kind of run; nothing has been trained")
    if note:
        print(note)


def _print_pruning_plan(path: Path, overrides: list[str]) -> None:
    from pruneonce.recipe import load_recipe
    from pruneonce.stages import plan_pruning

    recipe = load_recipe(path, "prune", overrides)
    rows = plan_pruning(recipe)
    table = Table("matrix", "shape", "target sparsity", "zeros", title=f"{path.name}: nothing is trained")
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        table.add_row(row.name, shape, f"{row.target:.1%}" if row.target else "dense", f"{row.zeros:,}")
    zeros, size = sum(row.zeros for row in rows), sum(row.size for row in rows if row.target)
    table.add_section()
    table.add_row("prunable", f"{size:,} weights", f"{zeros / size:.1%}" if size else "", f"{zeros:,}")
    _console().print(table)


def _report_comparison(paths: list[Path], samples: int, seed: int, as_json: bool) -> None:
    from dataclasses import asdict

    from pruneonce.evaluation.comparison import compare
    from pruneonce.report.collect import run_folders
    from pruneonce.report.tables import comparison_table

    if len(paths) != 2:
        raise UsageError(f"--compare takes two runs, got {len(paths)}")
    a, b = paths
    found = compare(run_folders(a), run_folders(b), samples=samples, seed=seed)
    if as_json:
        _print_json([asdict(each) for each in found])
        return
    table = comparison_table(found, str(a), str(b))
    shown = Table(*table.columns, title=table.title)
    for row in table.rows:
        shown.add_row(*row)
    _console().print(shown)
    print(table.note)


def _print_inspection(report: Inspection) -> None:
    table = Table("tensor", "shape", "zeros", "MB", "mask digest", title=report.folder)
    for matrix in report.matrices:
        shape = " x ".join(map(str, matrix.shape))
        zeros = f"{matrix.sparsity:.2%}" if matrix.prunable else ""
        table.add_row(matrix.name, shape, zeros, f"{matrix.bytes / 1e6:.2f}", matrix.mask_digest[:12])
    table.add_section()
    totals: tuple[tuple[str, Total], ...] = (
        ("prunable (encoder linears, pooler)", report.prunable),
        ("all but the embeddings", report.without_embeddings),
        ("everything", report.everything),
    )
    for name, total in totals:
        table.add_row(name, f"{total.parameters:,}", f"{total.sparsity:.2%}", f"{total.bytes / 1e6:.2f}", "")
    console = _console()
    console.print(table)
    if report.lock_intact is not None:
        state = "are the recorded ones" if report.lock_intact else "ARE NOT the recorded ones"
        console.print(f"stage {_plain(report.stage)}; the zeros {state}", markup=False)


def _print_packed(report: PackedInspection) -> None:
    table = Table("tensor", "shape", "zeros", "type", "encoding", "bits", "MB", title=report.file)
    for tensor in report.tensors:
        if len(tensor.shape) < 2:
            continue  # biases and layer norms: see the totals
        shape = " x ".join(map(str, tensor.shape))
        zeros = f"{tensor.sparsity:.2%}" if tensor.sparse else ""
        bits = f"{tensor.position_bits:.3f}" if tensor.sparse else ""
        size = f"{(tensor.value_bytes + tensor.position_bytes) / 1e6:.2f}"
        table.add_row(tensor.name, shape, zeros, tensor.type, tensor.encoding, bits, size)
    _console().print(table)
    _print_packed_totals(report)
    if report.lock_intact is not None:
        state = "are the recorded ones" if report.lock_intact else "ARE NOT the recorded ones"
        print(f"stage {_plain(report.stage)}; the zeros {state}")


def _print_packed_totals(report: PackedInspection) -> None:
    table = Table("part", "MB", "share")
    for kind, size in report.bytes_by_kind.items():
        table.add_row(kind, f"{size / 1e6:.2f}", f"{size / report.bytes:.1%}")
    table.add_section()
    table.add_row("file", f"{report.bytes / 1e6:.2f}", "")
    table.add_row("dense fp32", f"{report.dense_bytes / 1e6:.2f}", "")
    _console().print(table)
    print(f"{report.file}: format {report.format_version}, {report.position_bits:.3f} bits of position per weight")
    print(
        f"times smaller than dense fp32: file {report.ratio:.1f}, encoder {report.encoder_ratio:.1f} "
        f"(its non-zero numbers alone, as papers count: {report.encoder_ratio_of_numbers:.1f})"
    )


def _print_doctor(answer: dict[str, Any]) -> None:
    machine, console = answer["machine"], _console()
    console.print(f"{machine['processor']}, {machine['cores']} cores, {' '.join(machine['isa']) or 'no AVX2'}")
    console.print(f"fp32 matrix product: {machine['matmul_gflops']:.0f} GFLOP/s on all cores")
    console.print(
        f"memory {machine['memory_bytes'] / 2**30:.1f} GiB, disk free {machine['free_disk_bytes'] / 2**30:.1f} GiB"
    )
    console.print(f"accelerators: {', '.join(machine['accelerators']) or 'none'}")
    console.print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))
    if cost := answer.get("recipe"):
        console.print(f"\n{cost['steps']:,} steps of up to {cost['tokens_per_step']:,} tokens, from {cost['probe']}:")
        console.print(f"  {cost['seconds_per_step']:.2f} s per step ({1 / cost['seconds_per_step']:.3g} steps/s)")
        times = f" for each of {cost['runs']} seeds" if cost["runs"] > 1 else ""
        training, scoring = (_duration(cost[key]) for key in ("hours", "evaluation_hours"))
        console.print(f"  {training} of training and {scoring} of scoring on the processor of this machine{times}")
        console.print(
            f"  {cost['memory_bytes'] / 2**30:.1f} GiB of memory, {cost['disk_bytes'] / 2**30:.1f} GiB of disk"
        )


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _print_articles(outcome: Any, out: Path) -> None:
    shards = outcome.manifest["shards"]
    _print_rate({"articles": sum(shard["articles"] for shard in shards)}, outcome, out)


def _print_rate(counts: dict[str, int], outcome: Any, out: Path) -> None:
    """What was made, and how fast unless it was there already."""
    done = ", ".join(f"{count:,} {unit}" for unit, count in counts.items())
    rate = ", ".join(f"{count / outcome.seconds:,.0f} {unit}/s" for unit, count in counts.items())
    print(f"{done} in {out} ({'was there already' if outcome.reused else rate})")


def _print_metrics(metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        print(f"  {_plain(name):<24}{value:.4f}")


def _console() -> Console:
    """Where answers go. A file or pipe gets lines long enough that no name is cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _print_json(value: Any) -> None:
    for line in json.dumps(value, indent=2, ensure_ascii=False).split("\n"):
        print(_plain(line))


def _plain(text: object) -> str:
    """Text that may come from a file, on one line, its unprintable characters escaped as JSON does."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
