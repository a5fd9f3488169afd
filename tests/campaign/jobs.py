"""Commands that write, small enough to be repeated: on tiny models, and on the real MiniLM where it is here."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import pkgutil
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_stages import finetune_values, prune_values, run

import pruneonce
from campaign.clock import idle_seconds
from campaign.events import at_each_event
from campaign.models import made, make_tiny
from pruneonce.convert.to_packed import export_packed
from pruneonce.data import text as text_files
from pruneonce.data.assets import find_assets
from pruneonce.data.build import build
from pruneonce.errors import PruneonceError
from pruneonce.files import read_json, sha256_file, sha256_json
from pruneonce.progress import progress_bar
from pruneonce.report.write import write_report
from pruneonce.run.embed_file import embed_file
from pruneonce.run.pipelines import Embeddings, pipeline
from pruneonce.study.plan import make_plan
from pruneonce.study.recipe import load_study
from pruneonce.study.run import run_study

for _module in pkgutil.walk_packages(pruneonce.__path__, "pruneonce."):
    if ".bench" not in _module.name and "__main__" not in _module.name:
        importlib.import_module(_module.name)  # now: what is edited meanwhile is of the next campaign

DONE, REFUSED, FAILED = 0, 3, 7  # exit codes of a child
ORPHANS_SECONDS = 600  # in which the machine idles, until the workers of a killed process have ended
TIMED = {"README.md", "training_log.json", "made"}  # files that say how long something took


@dataclass(frozen=True)
class Job:
    """A command and what it makes when nobody disturbs it."""

    name: str
    start: Callable[[Path], object]  # fills this folder
    seconds: float
    events: int  # changes of files by its first process
    bytes: int
    files: dict[str, str]  # name -> digest


def contents(folder: Path) -> dict[str, str]:
    """What must be equal of two folders: names of all files, digests of those that do not depend on the clock."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        if file.name == "pruneonce.json":
            record = read_json(file)
            found[name] = sha256_json({key: value for key, value in record.items() if key != "timings"})
        else:
            found[name] = "" if file.name in TIMED else sha256_file(file)
    return found


def fork(action: Callable[[], object], note: Path) -> int:
    """The process that runs `action`; its exit code is DONE, REFUSED for an error of one line, or FAILED."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)  # its own processes are found by its number
    try:
        with note.open("w") as stream:
            os.dup2(stream.fileno(), 2)
            os.dup2(stream.fileno(), 1)
            try:
                action()
                os._exit(DONE)
            except PruneonceError as error:
                stream.write(f"{error}")
                stream.flush()
                os._exit(FAILED if "\n" in str(error) else REFUSED)
            except BaseException as error:
                stream.write(f"{type(error).__name__}: {error}")
                stream.flush()
    finally:
        os._exit(FAILED)


def ended(child: int) -> int:
    """Its exit code, or minus its signal. AssertionError if processes that it started live on without it."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end = idle_seconds() + ORPHANS_SECONDS
    while _has_processes(child):
        if idle_seconds() > end:
            os.killpg(child, signal.SIGKILL)
            raise AssertionError(f"its processes live on after {ORPHANS_SECONDS} s")
        time.sleep(0.05)
    return code


def _has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _jobs(scratch: Path, starts: dict[str, Callable[[Path], object]]) -> list[Job]:
    """Each is run once, undisturbed; what it made is kept for other processes."""
    jobs = []
    for name, start in starts.items():
        whole, known = scratch / "whole" / name, scratch / f"{name}.json"
        if not known.exists():
            shutil.rmtree(whole, ignore_errors=True)
            whole.mkdir(parents=True)
            begun, events = time.monotonic(), scratch / "events"
            child = fork(functools.partial(_counted, start, whole, events), scratch / "note")
            assert ended(child) == DONE, (scratch / "note").read_text()
            size = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())
            found = {
                "seconds": time.monotonic() - begun,
                "events": int(events.read_text()),
                "bytes": size,
                "files": contents(whole),
            }
            known.write_text(json.dumps(found))
        jobs.append(Job(name, start, **read_json(known)))
    return jobs


def _counted(start: Callable[[Path], object], out: Path, note: Path) -> None:
    count = 0

    def counting(number: int) -> None:
        nonlocal count
        count = number

    at_each_event(counting)
    start(out)
    note.write_text(f"{count}")


def tiny_jobs(scratch: Path) -> list[Job]:
    """Every writer: texts to a corpus, the stages, the exports."""
    import torch

    torch.set_num_threads(1)
    tiny, scratch = made(scratch.parent / "tiny", make_tiny), scratch.parent / "tiny-jobs"
    inputs = scratch / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    notes, reviews = inputs / "notes.txt", inputs / "reviews.jsonl"
    words = itertools.cycle(["The old city was great. ", "A good film. ", "Water is in the house. ", "One of many. "])
    if not reviews.exists():
        notes.write_text("\n\n".join("".join(itertools.islice(words, 5 + number % 7)) for number in range(60)))
        rows = [{"text": f"a {word} film", "label": word} for word in ("good", "bad") * 20]
        reviews.write_text("\n".join(map(json.dumps, rows)))

    def corpus(out: Path) -> object:
        text_files.collect([notes], out / "articles")
        return build(
            out / "articles", out / "corpus", tokenizer=tiny / "classes", layout="segment_pair_nsp", max_tokens=32
        )

    short = {"steps": 6, "checkpoint_steps": 2}
    task = finetune_values(tiny / "classes", reviews, epochs=None, **short)
    jobs = _jobs(scratch, {"corpus": corpus})
    made_corpus = scratch / "whole" / "corpus" / "corpus"
    pretraining = prune_values(tiny / "pretraining", made_corpus, **short)
    windows = _windows(inputs / "windows", scratch / "whole" / "corpus" / "articles", tiny / "classes", 32)
    matching = _matching(tiny / "vectors", windows, [16, 32], **short)
    studied = scratch / "whole" / "study" / "runs"

    def embed() -> Embeddings:
        return pipeline("embeddings", tiny / "vectors.pruneonce")

    return jobs + _jobs(
        scratch,
        {
            "prune": lambda out: run("prune", {**pretraining, "validation_examples": 4}, out / "run"),
            "finetune": lambda out: run("finetune", task, out / "run"),
            "quantize": lambda out: run("quantize", task, out / "run"),
            "compress": lambda out: run("compress", matching, out / "run"),
            "study": lambda out: _study(tiny / "pretraining", made_corpus, reviews, reviews, out),
            "report": lambda out: write_report([studied], out / "report.md", out / "report.html"),
            "vectors": lambda out: embed_file(embed(), reviews, out / "vectors.npy"),
            "export": lambda out: export_packed(tiny / "int8", out / "m.pruneonce"),
            "onnx": lambda out: _export_onnx(tiny / "classes", out / "m.onnx"),
        },
    )


STUDY = """
seeds = [1]
sparsities = [0.85]
baseline = "dense"
[stages.prune]
stage = "prune"
validation_examples = 4
training = { steps = 4, checkpoint_steps = 2, batch_size = 4, learning_rate = 1e-3 }
[stages.locked]
stage = "finetune"
lock = "require"
training = { steps = 4, checkpoint_steps = 2, batch_size = 4, learning_rate = 1e-3 }
[stages.finetune]
stage = "finetune"
training = { steps = 4, checkpoint_steps = 2, batch_size = 4, learning_rate = 1e-3 }
[tasks.reviews.task]
name = "classification"
max_tokens = 16
train_examples = 64
validation_examples = 8
[methods.dense]
stages = ["finetune"]
[methods.once]
stages = ["prune", "locked"]
"""


def _study(model: Path, corpus: Path, train: Path, validation: Path, out: Path) -> None:
    """`study --jobs 2` of three runs, two of which begin at once; their records name each other by where they are."""
    os.chdir(out)
    recipe = out.with_name(f"{out.name}.toml")
    recipe.write_text(STUDY)
    task = [f"tasks.reviews.task.train={train}", f"tasks.reviews.task.validation={validation}"]
    plan = make_plan(load_study(recipe, [f"model={model}", f"corpus.folder={corpus}", *task]), Path("runs"))
    result = run_study(plan, progress_bar, jobs=2)
    if result.failures:
        raise PruneonceError("; ".join(result.failures.values()))


def _windows(out: Path, articles: Path, tokenizer: Path, max_tokens: int) -> Path:
    """A corpus as `compress` reads it, made once."""
    if not (out / "manifest.json").exists():
        build(articles, out, tokenizer=tokenizer, layout="document_sentences", max_tokens=max_tokens)
    return out


def _matching(model: Path, windows: Path, lengths: list[int], **training: Any) -> dict[str, Any]:
    """Values of a recipe for `compress`."""
    values = prune_values(model, windows, **training)
    return {**values, "validation_examples": 4, "matching": {"lengths": lengths, "late_lengths": lengths}}


def _export_onnx(model: Path, out: Path) -> None:
    from pruneonce.convert.to_onnx import export_onnx

    export_onnx(model, out)


def minilm_jobs(scratch: Path) -> list[Job]:
    """Stages of a few steps, and the export, of 23 million parameters. SystemExit where they are not there."""
    import torch

    torch.set_num_threads(1)
    assets = find_assets()
    if assets is None:
        raise SystemExit("the real MiniLM is not here: `pruneonce quickstart --assets-only` fetches it")
    scratch = scratch.parent / "minilm-jobs"
    training = {"steps": 4, "checkpoint_steps": 2, "batch_size": 4}
    task: dict[str, Any] = finetune_values(assets.model, assets.reviews_train, epochs=None, **training)
    task["task"] |= {
        "validation": str(assets.reviews_held_out),
        "max_tokens": 16,
        "train_examples": 64,
        "validation_examples": 8,
    }
    corpus = scratch / "inputs" / "corpus"
    if not (corpus / "manifest.json").exists():
        lines = assets.wikipedia.read_text().splitlines()[:40]
        (scratch / "inputs").mkdir(parents=True, exist_ok=True)
        (scratch / "inputs" / "some.jsonl").write_text("\n".join(lines))
        text_files.collect([scratch / "inputs" / "some.jsonl"], scratch / "inputs" / "articles")
        build(scratch / "inputs" / "articles", corpus, tokenizer=assets.model, layout="segment_pair_nsp", max_tokens=32)
    teacher = {**prune_values(assets.model, corpus, **training), "validation_examples": 4}
    windows = _windows(scratch / "inputs" / "windows", scratch / "inputs" / "articles", assets.model, 64)
    matching = _matching(assets.model, windows, [16, 32], **training)
    taught = scratch / "whole" / "teacher" / "run"
    sparse = {**task, "model": str(scratch / "whole" / "prune" / "run")}
    int8 = {"model": str(scratch / "whole" / "finetune" / "run"), "task": task["task"], "calibration_examples": 8}
    return _jobs(
        scratch,
        {
            "teacher": lambda out: run("teacher", teacher, out / "run"),
            "prune": lambda out: run("prune", {**teacher, "model": str(taught)}, out / "run"),
            "finetune": lambda out: run("finetune", sparse, out / "run"),
            "quantize": lambda out: run("quantize", {**int8, "method": "ptq"}, out / "run"),
            "compress": lambda out: run("compress", matching, out / "run"),
            "export": lambda out: export_packed(scratch / "whole" / "quantize" / "run", out / "m.pruneonce"),
            "study": lambda out: _study(taught, corpus, assets.reviews_train, assets.reviews_held_out, out),
        },
    )
