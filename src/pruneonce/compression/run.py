"""The steps of a compression in one folder, each skipped where it is done: begin again, and it goes on."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pruneonce.bench.inference.record import read_bench
from pruneonce.bench.inference.run import BenchSettings, run_on_folder
from pruneonce.bench.measure import paired_ratio
from pruneonce.bench.speed_limits import peak_gflops
from pruneonce.compression import vectors
from pruneonce.compression.comparison import compare
from pruneonce.compression.plan import Plan, fastest_precision, longest_text, plan_for, recipe_for
from pruneonce.compression.report import CompressionReport, Timing, markdown
from pruneonce.compression.rounding import attention_of, round_to_int8
from pruneonce.compression.texts import build_corpus, default_texts, warnings_about
from pruneonce.convert.inspect_folder import total_of_pruned
from pruneonce.convert.to_packed import export_packed
from pruneonce.cost.doctor import describe_machine
from pruneonce.errors import OtherInputsError, UsageError
from pruneonce.evaluation.packed import score_packed
from pruneonce.evaluation.scoring import score_folder
from pruneonce.files import read_json, sha256_file, write_json, write_text
from pruneonce.folder_lock import filling
from pruneonce.formats.model_folder import WEIGHTS_FILE, folder_digest
from pruneonce.formats.record import Provenance, read_provenance
from pruneonce.formats.sentence_folder import copy_sentence_files
from pruneonce.machine import available_cores
from pruneonce.models.hub import load_config, quiet_transformers
from pruneonce.progress import Advance, progress_bar
from pruneonce.recipe import AttentionNumbers, CompressRecipe, TaskData, parse_recipe
from pruneonce.sparsity.quantizer import require_int8_attention
from pruneonce.stages import run_compress, run_finetune
from pruneonce.stages.options import StageOptions

PLAN = "plan.json"
UNPLANNED_STEPS = 1000  # of a recipe whose steps are still to be planned
TIMED_TOKENS, TIMED_ROUNDS = 128, 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CompressOptions:
    """What the caller decides. Paths of texts, and of the model, may move between a start and the next."""

    sparsity: float = 0.9
    pattern: str = "unstructured"
    budget_minutes: float = 60.0  # of pruning; packing and the report come on top, some minutes
    int8: bool = False
    attention: AttentionNumbers = "fp32"  # with int8, whether attention is in 8 bits too
    seed: int = 42
    text_column: str = "text"  # of .jsonl and .parquet
    documents: str = "line"  # what is one text in a .txt: "line", "blank-line" or "file"
    steps: int | None = None  # instead of what fits the budget
    vectors: bool | None = None  # learn those of the original after pruning; None: where the folder is made for them
    task: TaskData | None = None  # labelled examples to score both models on; never trained on
    speed: bool = True  # measure it, beside what is installed of PyTorch and ONNX Runtime


def compress(
    model: str | Path, texts: Sequence[str | Path] = (), *, out: str | Path, **options: Any
) -> CompressionReport:
    """Prune a model by matching the model itself on plain text, pack it, and report what changed.

    model: a folder or Hub id of a supported family, bare, of sentence-transformers, or with a task's head. texts:
    .txt, .jsonl or .parquet files; none: the leads of 10,000 Wikipedia articles, downloaded once. out: gets `model`
    (a Hugging Face folder), `model.pruneonce`, with int8 `model-int8` and `model-int8.pruneonce`, `report.md` and
    `report.json`. options: the fields of `CompressOptions`. The same call goes on where it was stopped, bit for bit.

    UsageError for texts or a budget too small for any use, and for an `out` that holds another compression.
    """
    given = CompressOptions(**options)
    folder = Path(out)
    quiet_transformers()
    # First of all: is this a model we know, and can it become what is asked for?
    recipe = recipe_for(
        str(model),
        folder / "corpus",
        sparsity=given.sparsity,
        pattern=given.pattern,
        seed=given.seed,
        precision=fastest_precision(),
        steps=UNPLANNED_STEPS if given.steps is None else given.steps,
    )
    _check_attention(str(model), given)
    given = replace(given, vectors=vectors.are_wanted(str(model), given.vectors))
    if not 0.0 < given.budget_minutes < float("inf"):
        raise UsageError(f"a budget of {given.budget_minutes} minutes is none: give a number above 0")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: --out is the folder to write")
    with filling(folder):
        return _compress(recipe, [Path(file) for file in texts] or [default_texts()], given, folder)


def _check_attention(model: str, given: CompressOptions) -> None:
    if given.attention not in get_args(AttentionNumbers):
        raise UsageError(f"attention is {given.attention!r}: fp32 or int8 is expected")
    if given.attention == "int8":
        if not given.int8:
            raise UsageError("attention in 8 bits belongs to a model in 8 bits: ask for int8 as well")
        require_int8_attention(load_config(model))


def _compress(wanted: CompressRecipe, texts: Sequence[Path], given: CompressOptions, out: Path) -> CompressionReport:
    """wanted: the recipe, with as many steps as are wished for or still to be planned."""
    model = wanted.model
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[Advance]:
        begun = time.monotonic()
        with progress_bar(name) as advance:
            yield advance
        seconds[name] = time.monotonic() - begun

    _check_wishes(wanted, given, out)
    with timed("texts") as advance:
        corpus = build_corpus(
            texts,
            model,
            out,
            column=given.text_column,
            documents=given.documents,
            seed=given.seed,
            on_progress=advance,
        )
    scored_on = [given.task.validation] if given.task else []
    warnings = warnings_about(corpus, model, texts, scored_on)
    for warning in warnings:
        _log.warning("%s", warning)
    scores = {}
    if given.task is not None:
        with timed("score the original") as advance:  # before the hour: does it have this task's head?
            scores["original"] = score_folder(model, given.task, advance)
    with timed("plan"):
        plan = _plan(wanted, given, out)
    _log.warning("%s", _said(plan, given))
    pruned = out / ("pruned" if plan.vector_steps else "model")
    with timed("prune") as advance:
        record = run_compress(plan.recipe, StageOptions(pruned, on_progress=advance))
    seconds["prune"] = sum(record.timings.values())  # whenever that was
    copy_sentence_files(model, pruned)
    if plan.vector_steps:
        with timed("vectors") as advance:
            taught = _learn_vectors(plan, pruned, out, advance)
        seconds["vectors"] = sum(taught.timings.values())
        copy_sentence_files(model, out / "model")
    files = {"sparse": out / "model.pruneonce"}
    with timed("pack"):
        export_packed(out / "model", files["sparse"])
        export_packed(model, original := out / "original.pruneonce", embeddings="fp32")
        if given.int8:
            if read_provenance(out / "model-int8") is None or attention_of(out / "model-int8") != given.attention:
                round_to_int8(out / "model", plan.recipe, out / "model-int8", given.attention)
            files["sparse, int8"] = out / "model-int8.pruneonce"
            export_packed(out / "model-int8", files["sparse, int8"], embeddings="int8")
    figures = {}
    for name, file in files.items():
        with timed(f"compare {name}") as advance:
            figures[name] = compare(original, file, corpus, seed=given.seed, on_progress=advance)
    if given.task is not None:
        with timed("score") as advance:
            scores |= {name: score_packed(file, given.task, advance) for name, file in files.items()}
    original.unlink()
    timings, timed_tokens = [], min(TIMED_TOKENS, longest_text(load_config(model)))
    if given.speed:
        with timed("speed") as advance:
            timed_model = out / ("model-int8" if given.int8 else "model")
            try:
                timings = _timings(timed_model, timed_tokens, given.int8, out, advance)
            except UsageError as error:  # a language model's heads, say: no reason to do without the rest
                warnings.append(f"speed was not measured: {error}")
                _log.warning("%s", warnings[-1])
    pruned_total = total_of_pruned(out / "model", record)
    report = CompressionReport(
        model=model,
        sparsity=pruned_total.sparsity,
        pattern=given.pattern,
        steps=record.steps,
        tokens=plan.tokens,
        training_seconds=record.timings.get("training", 0.0),
        pruned_weights=pruned_total.parameters,
        peak_gflops=peak_gflops() if given.speed else None,
        vector_steps=plan.vector_steps,
        hidden_error=record.metrics["hidden_error"],
        figures=figures,
        scores=scores,
        file_bytes={"original": _weights_bytes(model)} | {name: file.stat().st_size for name, file in files.items()},
        timed_tokens=timed_tokens,
        timings=timings,
        warnings=warnings,
        seconds=seconds,
        machine=asdict(describe_machine(out)),
    )
    write_json(out / "report.json", asdict(report))
    write_text(out / "report.md", markdown(report))
    return report


def _learn_vectors(plan: Plan, pruned: Path, out: Path, on_progress: Advance) -> Provenance:
    """The pruned model, taught the original's vectors, as `out`/model."""
    train, held_out = (out / f"vectors-{name}.jsonl" for name in ("train", "held-out"))
    if not (train.is_file() and held_out.is_file()):
        vectors.write_texts(Path(plan.recipe.corpus), plan.recipe.model, plan.recipe.seed, train, held_out)
    longest = longest_text(load_config(plan.recipe.model))
    recipe = vectors.recipe_of(plan.recipe, pruned, plan.vector_steps, longest, train, held_out)
    return run_finetune(recipe, StageOptions(out / "model", on_progress=on_progress))


def _check_wishes(wanted: CompressRecipe, given: CompressOptions, out: Path, corpus: str = "") -> None:
    """OtherInputsError if a start before this was of other wishes. corpus: digest of the texts, once it is known."""
    if not (out / PLAN).is_file():
        return
    found = read_json(out / PLAN)["wishes"]
    for name, wish in _wishes(wanted, given, corpus or found["corpus"]).items():
        if found.get(name) != wish:
            was = "" if name in ("model", "corpus") else f" ({found.get(name)}, here {wish})"
            raise OtherInputsError(
                f"{out} holds a compression of another {name}{was}: choose another --out, or delete it"
            )


def _wishes(wanted: CompressRecipe, given: CompressOptions, corpus: str) -> dict[str, Any]:
    """What a start has to have in common with the one that it goes on from."""
    names = ("sparsity", "pattern", "budget_minutes", "seed", "steps", "vectors")
    return {
        "model": folder_digest(wanted.model),
        "corpus": corpus,
        **{name: getattr(given, name) for name in names},
    }


def _plan(wanted: CompressRecipe, given: CompressOptions, out: Path) -> Plan:
    """What a start before this has planned, if it was of the same wishes; else measured now, and written down."""
    corpus = str(read_json(Path(wanted.corpus) / "manifest.json")["parameters"]["articles"])
    _check_wishes(wanted, given, out, corpus)
    file = out / PLAN
    if file.is_file():
        found = read_json(file)
        recipe = parse_recipe(found["recipe"], "compress", where=str(file))
        recipe = replace(recipe, model=wanted.model, corpus=wanted.corpus)  # wherever they are now
        numbers = (found[name] for name in ("seconds_per_step", "training_seconds", "tokens", "vector_steps"))
        return Plan(recipe, *numbers)
    with_vectors = bool(given.vectors)
    if given.steps is not None:
        tokens = given.steps * wanted.training.batch_size * min(wanted.matching.lengths)
        plan = Plan(wanted, {}, 0.0, tokens, vectors.steps_beside(given.steps) if with_vectors else 0)
    else:
        plan = plan_for(wanted, 60 * given.budget_minutes, out / "model", with_vectors)
    write_json(file, {"wishes": _wishes(wanted, given, corpus), **asdict(plan)})
    return plan


def _said(plan: Plan, given: CompressOptions) -> str:
    training = plan.recipe.training
    then = f"; then {plan.vector_steps:,} steps by the vectors of texts" if plan.vector_steps else ""
    lengths = sorted({*plan.recipe.matching.lengths, *plan.recipe.matching.late_lengths})
    said = (
        f"{training.steps:,} steps of {training.batch_size * min(plan.recipe.matching.lengths):,} tokens in "
        f"{training.precision}, in windows of {lengths[0]} to {lengths[-1]}: {plan.tokens / 1e6:.1f} million tokens"
    )
    if not plan.training_seconds:
        return said + then
    return (
        f"{said} in about {plan.training_seconds / 60:.0f} of {given.budget_minutes:g} minutes, as measured "
        f"({plan.tokens_per_second:,.0f} tokens/s){then}"
    )


def _weights_bytes(model: str) -> int:
    """Of the original's weights; 0 where it is on the Hub alone."""
    return sum(file.stat().st_size for file in Path(model).glob("model*.safetensors"))


def _timings(folder: Path, tokens: int, int8: bool, out: Path, on_progress: Advance) -> list[Timing]:
    """Ours beside what is installed; a record of the same model is not measured again."""
    rivals = ["torch"]
    if all(importlib.util.find_spec(package) is not None for package in ("onnx", "onnxruntime")):
        rivals.append("onnxruntime")
    file, key = out / "speed.json", sha256_file(folder / WEIGHTS_FILE)
    kept = read_json(file) if file.is_file() else {}
    if kept.get("weights") != key:
        settings = BenchSettings(tuple(rivals), f"1x{tokens}", available_cores(), rounds=TIMED_ROUNDS, int8=int8)
        kept = {"weights": key, "bench": run_on_folder(folder, settings, on_progress).as_json()}
        write_json(file, kept)
        kept = read_json(file)
    seconds = read_bench(kept["bench"], str(file)).cases[0].seconds
    return [
        Timing(engine, statistics.median(taken) * 1e3, paired_ratio(seconds["torch"], taken).median)
        for engine, taken in seconds.items()
    ]
