"""A small real model, compressed on real text, fine-tuned, packed and timed, in minutes on two cores.

It ends with a table of what came out.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruneonce.bench.inference.record import read_bench
from pruneonce.bench.inference.run import BenchSettings, run_on_folder
from pruneonce.bench.measure import paired_ratio
from pruneonce.compression.comparison import compare
from pruneonce.compression.plan import fastest_precision
from pruneonce.compression.report import FIGURES
from pruneonce.convert.inspect_folder import inspect_folder, zeros_of_pruned
from pruneonce.convert.to_packed import export_packed
from pruneonce.cost.doctor import describe_machine
from pruneonce.data import text
from pruneonce.data.assets import Assets, fetch_assets
from pruneonce.data.build import build
from pruneonce.data.windows import DOCUMENT_TOKENS, LAYOUT
from pruneonce.errors import OtherInputsError
from pruneonce.evaluation.scoring import score_packed_beside
from pruneonce.files import read_json, sha256_file, write_json, write_text
from pruneonce.formats.model_folder import WEIGHTS_FILE
from pruneonce.formats.record import Provenance
from pruneonce.formats.sentence_folder import copy_sentence_files
from pruneonce.machine import available_cores
from pruneonce.progress import Advance, progress_bar
from pruneonce.recipe import FinetuneRecipe, Recipe, load_recipe, recipes_folder, stage_of
from pruneonce.stages import RUNNERS, StageOptions
from pruneonce.tasks import get_task

HELD_OUT = 0.02  # of the texts: to compare vectors on
SPARSE = "90 % sparse, pruned once"
INT8 = "90 % sparse, int8"
BF16_STEPS = 1000  # of compression, where bfloat16 is fast; elsewhere as many as its recipe says
TIMED_TOKENS = 128  # of the one text whose time is in the table
TIMED_ROUNDS = 15


COLUMNS = ("model", "engine", "accuracy", "zeros", "file", "time", "speed")


@dataclass(frozen=True)
class ModelRow:
    """One line of the final table."""

    model: str
    engine: str
    accuracy: float | None  # on held-out sentences; None where another line of the same model has it
    sparsity: float | None  # zeros among the pruned weights, or all that could be; measured in the saved file
    file_bytes: int | None
    milliseconds: float | None  # for one text of `TIMED_TOKENS`, median
    speedup: float | None  # over PyTorch, median of paired ratios


@dataclass(frozen=True)
class Report:
    """What `runs/quickstart/report.json` holds."""

    rows: list[ModelRow]
    held_out_sentences: int
    largest_difference: float  # between the engine's logits and PyTorch's on them; the packed embeddings are float16
    largest_difference_int8: float  # likewise, PyTorch rounding as the engine does; the packed embeddings are int8
    vectors: dict[str, float]  # the pruned model beside the original on held-out text, as `compression.compare` says
    seconds: dict[str, float]  # of each step; of a stage, its training and evaluation, whenever it ran
    machine: dict[str, Any]


def run_quickstart(out: Path) -> Report:
    """Run every step that has not been run with the same inputs, and write `report.md` and `report.json` to `out`.

    ONNX Runtime is measured too where it is installed.

    Raises PruneonceError when the assets can be neither found nor fetched.
    """
    seconds: dict[str, float] = {}
    steps = _Steps(out, seconds)
    assets = steps.time("assets", lambda _: fetch_assets())
    steps.time(
        "articles",
        lambda advance: steps.renew(
            "articles",
            lambda folder: text.collect([assets.wikipedia], folder, title_column="title", on_progress=advance),
        ),
    )
    steps.time(
        "corpus",
        lambda advance: steps.renew(
            "corpus",
            lambda folder: build(
                out / "articles",
                folder,
                tokenizer=assets.model,
                layout=LAYOUT,
                max_tokens=DOCUMENT_TOKENS,
                short_sequence_probability=0.0,
                validation_fraction=HELD_OUT,
                workers=2,
                on_progress=advance,
            ),
        ),
    )
    steps.stage("compress", [f"model={assets.model}", f"corpus={out / 'corpus'}", *_for_this_processor()])
    vectors = steps.time("vectors", lambda advance: _vectors(assets.model, out, advance))
    reviews = [f"task.train={assets.reviews_train}", f"task.validation={assets.reviews_held_out}"]
    dense = steps.stage("dense", [f"model={assets.model}", *reviews])
    sparse = steps.stage("sparse", [f"model={out / 'compress'}", f"distillation.teacher={out / 'dense'}", *reviews])

    quantized = steps.stage("int8", [f"model={out / 'sparse'}", *reviews])

    packed, int8 = out / "sparse.pruneonce", out / "int8.pruneonce"
    steps.time("export", lambda _: export_packed(out / "sparse", packed))
    steps.time("export int8", lambda _: export_packed(out / "int8", int8, embeddings="int8"))
    recipe = _recipe("sparse", reviews)[1]
    assert isinstance(recipe, FinetuneRecipe)
    data = recipe.task
    metrics, difference = steps.time(
        "parity", lambda advance: score_packed_beside(packed, out / "sparse", data, on_progress=advance)
    )
    int8_metrics, int8_difference = steps.time(
        "parity int8", lambda advance: score_packed_beside(int8, out / "int8", data, on_progress=advance)
    )
    rivals = ["torch", *(["onnxruntime"] if _installed("onnx", "onnxruntime") else [])]
    # The int8 folder's floats have the zeros of the sparse model, which is all that its time depends on.
    timings = steps.time("speed", lambda advance: _timings(out / "int8", rivals, out / "speed.json", advance))

    majority, held_out = _majority_class(assets)
    file_bytes = [(out / name / WEIGHTS_FILE).stat().st_size for name in ("dense", "sparse")]
    zeros = [
        inspect_folder(out / "dense").prunable.sparsity,
        zeros_of_pruned(out / "sparse", sparse),
        zeros_of_pruned(out / "int8", quantized),
    ]
    onnxruntime = [
        ModelRow("dense", engine, None, None, None, *timings[key])
        for engine, key in (("ONNX Runtime", "onnxruntime"), ("ONNX Runtime, int8", "onnxruntime-int8"))
        if key in timings
    ]
    report = Report(
        rows=[
            ModelRow("dense", "PyTorch", dense.metrics["accuracy"], zeros[0], file_bytes[0], *timings["torch"]),
            *onnxruntime,
            ModelRow(SPARSE, "PyTorch", sparse.metrics["accuracy"], zeros[1], file_bytes[1], None, None),
            ModelRow(SPARSE, "pruneonce", metrics["accuracy"], zeros[1], packed.stat().st_size, *timings["pruneonce"]),
            ModelRow(
                INT8, "pruneonce", int8_metrics["accuracy"], zeros[2], int8.stat().st_size, *timings["pruneonce-int8"]
            ),
            ModelRow("majority class", "", majority, None, None, None, None),
        ],
        held_out_sentences=held_out,
        largest_difference=difference,
        largest_difference_int8=int8_difference,
        vectors=vectors,
        seconds=seconds,
        machine=asdict(describe_machine(out)),
    )
    write_json(out / "report.json", asdict(report))
    write_text(out / "report.md", markdown(report))
    return report


def markdown(report: Report) -> str:
    """The report as a page of Markdown."""
    lines = ["# Quickstart", "", f"Movie-review sentences, {report.held_out_sentences} held out.", ""]
    lines += table(report)
    lines += [
        "",
        f"Time: one text of {TIMED_TOKENS} tokens, engines called in turn; PyTorch and ONNX Runtime take as long "
        "for sparse weights as for dense ones. Largest difference of the engine's logits from PyTorch's on the "
        f"held-out sentences: {report.largest_difference:.1e} (the packed file holds its embeddings as float16); of "
        f"the int8 model's: {report.largest_difference_int8:.1e} (PyTorch rounds alike, except for the embeddings, "
        "which are int8 in the file).",
        "",
        "Before any task, what the pruned model says of held-out text beside the original:",
        "",
        "| | |",
        "|---|---|",
        *(f"| {FIGURES[name]} | {value:.3f} |" for name, value in report.vectors.items()),
    ]
    machine = report.machine
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "transformers"))
    lines += ["", f"{machine['processor']}, {machine['cores']} cores; {versions}. Seconds of each step:"]
    lines.append(", ".join(f"{name} {value:.0f}" for name, value in report.seconds.items()) + ".")
    return "\n".join(lines) + "\n"


def table(report: Report) -> list[str]:
    """The main table, as lines of Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    return lines + ["| " + " | ".join(shown(row)) + " |" for row in report.rows]


def shown(row: ModelRow) -> list[str]:
    """A row's values as they are shown under COLUMNS."""
    return [
        row.model,
        row.engine,
        "" if row.accuracy is None else f"{row.accuracy:.1%}",
        "" if row.sparsity is None else f"{row.sparsity:.2%}",
        "" if row.file_bytes is None else f"{row.file_bytes / 1e6:.1f} MB",
        "" if row.milliseconds is None else f"{row.milliseconds:.1f} ms",
        "" if row.speedup is None else f"{row.speedup:.1f}×",
    ]


class _Steps:
    """Runs steps below one folder, and starts a step anew when its inputs have changed."""

    def __init__(self, out: Path, seconds: dict[str, float]) -> None:
        self.out, self.seconds = out, seconds

    def time(self, name: str, run: Callable[[Advance], Any]) -> Any:
        begun = time.monotonic()
        with progress_bar(name) as advance:
            result = run(advance)
        self.seconds[name] = time.monotonic() - begun
        return result

    def renew(self, name: str, run: Callable[[Path], Any]) -> Any:
        """`run(folder)`; a folder made from other inputs is deleted first: it is ours and can be made again."""
        folder = self.out / name
        try:
            return run(folder)
        except OtherInputsError:
            shutil.rmtree(folder)
            return run(folder)

    def stage(self, name: str, overrides: list[str]) -> Provenance:
        stage, recipe = _recipe(name, overrides)
        runner = RUNNERS[stage]
        result: Provenance = self.time(
            name,
            lambda advance: self.renew(name, lambda folder: runner(recipe, StageOptions(folder, on_progress=advance))),
        )
        self.seconds[name] = sum(result.timings.values())
        return result


def _for_this_processor() -> list[str]:
    """Overrides of the compression: about the same minutes whether bfloat16 is fast or not."""
    precision = fastest_precision()
    return [f"training.precision={precision}", *([f"training.steps={BF16_STEPS}"] if precision == "bf16" else [])]


def _recipe(name: str, overrides: list[str]) -> tuple[str, Recipe]:
    """The stage of one of our own recipes, and the recipe."""
    path = recipes_folder() / "quickstart" / f"{name}.toml"
    stage = stage_of(path)
    return stage, load_recipe(path, stage, overrides)


def _timings(model: Path, rivals: list[str], file: Path, on_progress: Advance) -> dict[str, tuple[float, float]]:
    """Engine -> (median milliseconds, speed-up over PyTorch), interleaved; `file` keeps the record for the same model.

    Every engine is measured in 8 bits too; model: the quantised folder.

    What it holds is measured again only for another model or another set of engines.
    """
    inputs = {"model": sha256_file(model / WEIGHTS_FILE), "engines": ["pruneonce", "pruneonce-int8", *rivals]}
    record = read_json(file) if file.is_file() else {}
    if record.get("inputs") != inputs:
        settings = BenchSettings(tuple(rivals), f"1x{TIMED_TOKENS}", available_cores(), rounds=TIMED_ROUNDS)
        write_json(file, {"inputs": inputs, "bench": run_on_folder(model, settings, on_progress).as_json()})
        record = read_json(file)  # as a second run reads it: lists for tuples
    seconds = read_bench(record["bench"], str(file)).cases[0].seconds
    return {
        engine: (statistics.median(taken) * 1e3, paired_ratio(seconds["torch"], taken).median)
        for engine, taken in seconds.items()
    }


def _vectors(model: Path, out: Path, on_progress: Advance) -> dict[str, float]:
    """What the pruned model's vectors have in common with the original's; `vectors.pruneonce` has it packed."""
    copy_sentence_files(model, out / "compress")
    export_packed(out / "compress", out / "vectors.pruneonce")
    export_packed(model, original := out / "original.pruneonce", embeddings="fp32")
    try:
        return compare(original, out / "vectors.pruneonce", out / "corpus", on_progress=on_progress)
    finally:
        original.unlink()


def _installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


def _majority_class(assets: Assets) -> tuple[float, int]:
    """Held-out accuracy of always answering the most frequent training label, and how many sentences are held out."""
    task = get_task("classification", train_file=assets.reviews_train)
    train, held_out = (
        [example.label for example in task.read(file)]  # type: ignore[union-attr]
        for file in (assets.reviews_train, assets.reviews_held_out)
    )
    answer = Counter(train).most_common(1)[0][0]
    return sum(label == answer for label in held_out) / len(held_out), len(held_out)
