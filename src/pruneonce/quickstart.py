"""The whole chain on a small real model and real text, in minutes on two cores; ends with a table of what came out."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruneonce.assets import Assets, fetch_assets
from pruneonce.data import pretraining, text
from pruneonce.doctor import describe_machine
from pruneonce.errors import OtherInputsError
from pruneonce.files import write_json, write_text
from pruneonce.inspection import inspect_folder
from pruneonce.model_folder import WEIGHTS_FILE
from pruneonce.progress import Advance, progress_bar
from pruneonce.provenance import Provenance
from pruneonce.recipe import load_recipe, stage_of
from pruneonce.recipe_files import recipes_folder
from pruneonce.stages import RUNNERS, StageOptions
from pruneonce.tasks import get_task

CORPUS_TOKENS = 128  # longest pre-training example; attention is then a small part of the time


@dataclass(frozen=True)
class Row:
    """One line of the final table."""

    model: str
    accuracy: float  # on held-out sentences
    sparsity: float | None  # zeros among the prunable weights, measured in the saved file
    parameters: int | None  # that are not zero
    file_bytes: int | None


@dataclass(frozen=True)
class Report:
    """What `runs/quickstart/report.json` holds."""

    rows: list[Row]
    held_out_sentences: int
    language_models: dict[str, dict[str, float]]  # teacher and pruned model on held-out text
    seconds: dict[str, float]  # of each step; of a stage, its training and evaluation, whenever it ran
    machine: dict[str, Any]


def run_quickstart(out: Path) -> Report:
    """Run every step that has not been run with the same inputs, and write `report.md` and `report.json` to `out`.

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
            lambda folder: pretraining.build(
                out / "articles",
                folder,
                tokenizer=assets.model,
                layout="segment_pair_nsp",
                max_tokens=CORPUS_TOKENS,
                workers=2,
                on_progress=advance,
            ),
        ),
    )
    teacher = steps.stage("teacher", [f"model={assets.model}", f"corpus={out / 'corpus'}"])
    pruned = steps.stage("prune", [f"model={out / 'teacher'}", f"corpus={out / 'corpus'}"])
    reviews = [f"task.train={assets.reviews_train}", f"task.validation={assets.reviews_held_out}"]
    dense = steps.stage("dense", [f"model={out / 'teacher'}", *reviews])
    sparse = steps.stage("sparse", [f"model={out / 'prune'}", f"distillation.teacher={out / 'dense'}", *reviews])

    majority, held_out = _majority_class(assets)
    report = Report(
        rows=[
            _row("dense", out / "dense", dense),
            _row("90 % sparse, pruned once", out / "sparse", sparse),
            Row("majority class", majority, None, None, None),
        ],
        held_out_sentences=held_out,
        language_models={"teacher": teacher.metrics, "pruned": pruned.metrics},
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
        "Language models on held-out text:",
        "",
        "| model | masked-LM loss | masked-LM accuracy | NSP accuracy |",
    ]
    lines += ["|---|---|---|---|"]
    for name, metrics in report.language_models.items():
        values = " | ".join(f"{metrics[key]:.3f}" for key in ("mlm_loss", "mlm_accuracy", "nsp_accuracy"))
        lines.append(f"| {name} | {values} |")
    machine = report.machine
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "transformers"))
    lines += ["", f"{machine['processor']}, {machine['cores']} cores; {versions}. Seconds of each step:"]
    lines.append(", ".join(f"{name} {value:.0f}" for name, value in report.seconds.items()) + ".")
    return "\n".join(lines) + "\n"


def table(report: Report) -> list[str]:
    """The main table, as lines of Markdown."""
    lines = ["| model | accuracy | zeros | non-zero parameters | file |", "|---|---|---|---|---|"]
    return lines + ["| " + " | ".join(cells(row)) + " |" for row in report.rows]


def cells(row: Row) -> list[str]:
    """A row's values as they are shown."""
    return [
        row.model,
        f"{row.accuracy:.1%}",
        "" if row.sparsity is None else f"{row.sparsity:.2%}",
        "" if row.parameters is None else f"{row.parameters / 1e6:.2f} M",
        "" if row.file_bytes is None else f"{row.file_bytes / 1e6:.1f} MB",
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
        path = recipes_folder() / "quickstart" / f"{name}.toml"
        stage = stage_of(path)
        recipe = load_recipe(path, stage, overrides)
        runner = RUNNERS[stage]
        result: Provenance = self.time(
            name,
            lambda advance: self.renew(name, lambda folder: runner(recipe, StageOptions(folder, on_progress=advance))),
        )
        self.seconds[name] = sum(result.timings.values())
        return result


def _row(name: str, folder: Path, record: Provenance) -> Row:
    report = inspect_folder(folder)
    return Row(
        model=name,
        accuracy=record.metrics["accuracy"],
        sparsity=report.prunable.sparsity,
        parameters=report.everything.parameters - report.everything.zeros,
        file_bytes=(folder / WEIGHTS_FILE).stat().st_size,
    )


def _majority_class(assets: Assets) -> tuple[float, int]:
    """Held-out accuracy of always answering the most frequent training label, and how many sentences are held out."""
    task = get_task("classification", train_file=assets.reviews_train)
    train, held_out = (
        [example.label for example in task.read(file)]  # type: ignore[union-attr]
        for file in (assets.reviews_train, assets.reviews_held_out)
    )
    answer = Counter(train).most_common(1)[0][0]
    return sum(label == answer for label in held_out) / len(held_out), len(held_out)
