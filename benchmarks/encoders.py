"""Model × engine: texts a second, how far vectors are from sentence-transformers', and scores by its own evaluators.

python benchmarks/encoders.py --sparse runs/compress/minilm --rivals RIVALS --data DATA

--sparse: what `pruneonce compress --int8` has written for MiniLM. --rivals: folder of `make rivals`. --data: GLUE's QQP
pairs (`glue/QQP/dev.tsv`) and `retrieval/squad-dev.jsonl`, which benchmarks/retrieval_pairs.py makes. Writes
benchmarks/encoders.json and the table of docs/embeddings.md. An engine is a process of its own, stopped while
another is timed; all read the same 512 texts, with the lengths of SQuAD's questions and paragraphs.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    BinaryClassificationEvaluator,
    InformationRetrievalEvaluator,
)
from tokenizers import Tokenizer

import pruneonce
from pruneonce.bench.isolation import end_with_parent, resume, stop
from pruneonce.bench.speed_limits import measure_limits
from pruneonce.data.assets import fetch_assets
from pruneonce.files import write_json, write_part
from pruneonce.machine import available_cores

sys.path.insert(0, str(Path(__file__).parent / "serving"))
import subjects
from rivals import python_for

HERE = Path(__file__).parent
ROOT = HERE.parent
PAGE, RECORD = ROOT / "docs" / "embeddings.md", HERE / "encoders.json"
BEGIN, END = "<!-- written by benchmarks/encoders.py -->\n", "<!-- end of what it writes -->"
ROUNDS, SECONDS = 7, 3.0
REFERENCE = "sentence-transformers, PyTorch"
PAIRS = 4000  # of QQP that are scored
QUERIES = 2500  # of SQuAD, among all paragraphs
AT_ONCE = 256

# Of a child, in the Python of its library: vectors of all texts to a file, then texts a second, whenever it is asked.
CHILD = """
import json, sys, time
import numpy as np
engine, path, texts, out, threads, here = sys.argv[1:]
texts = json.load(open(texts))
if engine == "pruneonce":
    import pruneonce
    embed = pruneonce.pipeline("embeddings", path)
    encode = lambda some: embed(some, normalize=True)
elif engine == "pruneonce in sentence-transformers":
    import pruneonce
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer(modules=[pruneonce.SentenceEncoder(path)], device="cpu")
    encode = lambda some: model.encode(some, normalize_embeddings=True, show_progress_bar=False)
else:
    sys.path.insert(0, here)
    from rival_server import encoder_of
    encode, _ = encoder_of(engine, path, int(threads))
np.save(out, np.asarray(encode(texts), np.float32))
print("ready", flush=True)
for line in sys.stdin:
    done, begin = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begin) < float(line) or done == 0:
        encode(texts[:AT_ONCE])
        done += AT_ONCE
        texts = texts[AT_ONCE:] + texts[:AT_ONCE]
    print(done / seconds, flush=True)
""".replace("AT_ONCE", str(AT_ONCE))


class Child:
    """An engine at work in a process of its own; stopped from the start on."""

    def __init__(self, row: dict[str, Any], python: Path, texts: Path, work: Path, threads: int) -> None:
        self.row, self.vectors = row, work / f"vectors-{row['engine']}-{row['model']}.npy".replace(" ", "-")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")},
            "OMP_NUM_THREADS": str(threads),
            "PRUNEONCE_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "true",
            "HF_HUB_OFFLINE": "1",
        }
        arguments = [row["run"], row["path"], texts, self.vectors, threads, HERE / "serving"]
        with open(work / "children.log", "a") as log:
            self._process = subprocess.Popen(
                [str(python), "-c", CHILD, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                preexec_fn=end_with_parent,
            )
        self._wait_for("ready")
        stop(self._process.pid)

    def texts_per_second(self) -> float:
        resume(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{SECONDS}\n")
        self._process.stdin.flush()
        found = float(self._wait_for(None))
        stop(self._process.pid)
        return found

    def _wait_for(self, wanted: str | None) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if wanted is None or line.strip() == wanted:
                return line
        raise SystemExit(f"{self.row['engine']} ended early: see children.log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparse", type=Path, help="folder of `pruneonce compress --int8`")
    parser.add_argument("--int8-attention", type=Path, help="packed file of it that computes attention in int8 too")
    parser.add_argument("--rivals", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "encoders")
    parser.add_argument("--write-page", action="store_true", help="write the page from the record, and no more")
    given = parser.parse_args()
    if not given.write_page:
        if given.sparse is None or given.data is None:
            parser.error("--sparse and --data are needed")
        _measure(given)
    write_page(PAGE, json.loads(RECORD.read_text()))


def _measure(given: argparse.Namespace) -> None:
    assets = fetch_assets()
    subjects.make_all(assets.model, assets.wikipedia, given.work)
    texts, threads = given.work / "texts.json", available_cores()
    children = []
    for row, python in _rows(given):
        print(row["engine"], "·", row["model"], flush=True)
        children.append(Child(row, python, texts, given.work, threads))
    reference = np.load(children[0].vectors)
    for child in children:
        child.row |= _difference(reference, np.load(child.vectors)) | {"texts_per_second": []}
    order = random.Random(0)
    for number in range(ROUNDS):
        for child in order.sample(children, len(children)):
            child.row["texts_per_second"].append(child.texts_per_second())
        print(f"round {number + 1} of {ROUNDS}", flush=True)
    for child in children:
        if child.row["run"] in ("torch", "pruneonce in sentence-transformers"):
            child.row |= scores(_library_model(child.row), given.data)
    lengths = [len(each) for each in _tokens(given.work)]
    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": asdict(measure_limits(threads)),
        "threads": threads,
        "mean_tokens": statistics.mean(lengths),
        "rows": [{name: value for name, value in child.row.items() if name != "path"} for child in children],
    }
    write_json(RECORD, record)


def _tokens(work: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(work / "folder" / "tokenizer.json"))
    return [each.ids for each in tokenizer.encode_batch(json.loads((work / "texts.json").read_text()))]


def _rows(given: argparse.Namespace) -> list[tuple[dict[str, Any], Path]]:
    """What is measured, the reference first, and the Python that it needs."""
    dense, work, own = "dense", given.work, Path(sys.executable)

    def row(engine: str, model: str, run: str, path: Path) -> dict[str, Any]:
        return {"engine": engine, "model": model, "run": run, "path": str(path)}

    found = [(row(REFERENCE, f"{dense} float32", "torch", work / "folder"), own)]
    rivals = {
        "sentence-transformers, ONNX Runtime": "onnx-int8",
        "sentence-transformers, OpenVINO": "openvino-int8",
        "fastembed": "fastembed",
    }
    for engine, run in rivals.items() if given.rivals else ():
        python = python_for(run, given.rivals, work)
        if python is not None:
            found.append((row(engine, f"{dense} int8", run, work / "folder"), python))
    files = {
        f"{dense} float32": work / "dense.pruneonce",
        f"{dense} int8": work / "int8.pruneonce",
        "90 % zeros, float32": given.sparse / "model.pruneonce",
        "90 % zeros, int8": given.sparse / "model-int8.pruneonce",
    }
    if given.int8_attention is not None:
        files["90 % zeros, int8, attention too"] = given.int8_attention
    for run in ("pruneonce", "pruneonce in sentence-transformers"):
        found += [(row(run, name, run, file), own) for name, file in files.items()]
    return found


def _difference(reference: np.ndarray, vectors: np.ndarray) -> dict[str, float]:
    return {
        "largest_difference": float(np.abs(reference - vectors).max()),
        "cosine": float((reference * vectors).sum(axis=1).mean()),
    }


def _library_model(row: dict[str, Any]) -> Any:
    if row["run"] == "torch":
        return SentenceTransformer(row["path"], device="cpu")
    return SentenceTransformer(modules=[pruneonce.SentenceEncoder(row["path"])], device="cpu")


def scores(model: Any, data: Path) -> dict[str, float]:
    """QQP's average precision and retrieval's MRR@10, by the evaluators of sentence-transformers."""
    with open(data / "glue" / "QQP" / "dev.tsv", encoding="utf-8", newline="") as lines:
        pairs = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[:PAIRS]
    first, second, labels = ([row[name] for row in pairs] for name in ("question1", "question2", "is_duplicate"))
    with open(data / "retrieval" / "squad-dev.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    places: dict[str, str] = {}
    for row in rows:
        places.setdefault(row["context"], f"p{len(places)}")
    asked = random.Random(0).sample(list(enumerate(rows)), min(QUERIES, len(rows)))
    queries = {f"q{number}": row["question"] for number, row in asked}
    found = BinaryClassificationEvaluator(
        first, second, [int(label) for label in labels], similarity_fn_names=["cosine"]
    )
    search = InformationRetrievalEvaluator(
        queries,
        {name: text for text, name in places.items()},
        {f"q{number}": {places[row["context"]]} for number, row in asked},
        mrr_at_k=[10],
    )
    duplicates, retrieved = found(model), search(model)
    return {
        "qqp_average_precision": float(next(value for name, value in duplicates.items() if name.endswith("ap"))),
        "mrr@10": float(next(value for name, value in retrieved.items() if name.endswith("cosine_mrr@10"))),
    }


def write_page(page: Path, record: dict[str, Any]) -> None:
    write_part(page, BEGIN, "\n".join(lines(record)) + "\n", END)


def lines(record: dict[str, Any]) -> list[str]:
    rows = record["rows"]
    base = statistics.median(rows[0]["texts_per_second"])
    head = ["engine", "model", "texts/s", "", "largest difference", "cosine", "QQP", "MRR@10"]
    found = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        speeds = row["texts_per_second"]
        ratio = statistics.median(speeds) / base
        told = [f"{row[name]:.3f}" if name in row else "" for name in ("qqp_average_precision", "mrr@10")]
        cells = [
            row["engine"],
            row["model"],
            f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f}-{max(speeds):,.0f})",
            f"{ratio:.1f}×",
            f"{row['largest_difference']:.1e}",
            f"{row['cosine']:.4f}",
            *told,
        ]
        found.append("| " + " | ".join(cells) + " |")
    machine = record["machine"]
    return [
        *found,
        "",
        f"{machine['processor']}, {record['threads']} threads; {record['date']}. 512 texts of "
        f"{record['mean_tokens']:.0f} tokens on average, {AT_ONCE} a call. Every engine is a process of its own, "
        f"stopped while another is timed; {ROUNDS} rounds of {SECONDS:g} s in shuffled order: median (least to most), "
        "and how many times the first row's. Differences are from its vectors, of length 1. QQP: average precision "
        "of pairs by cosine. MRR@10: SQuAD's dev questions among its paragraphs. Both are by evaluators of "
        "sentence-transformers.",
    ]


if __name__ == "__main__":
    main()
