"""The table of docs/serving.md: `pruneonce serve` and its rivals, one process at a time, the others stopped.

python benchmarks/serving/run.py [--rivals FOLDER] [--short]

FOLDER has a Python environment for each rival, as `make rivals` makes them: onnx, openvino, infinity, fastembed. What
was measured is kept in the record after each step, and a second run goes on where the first one ended; delete the
record to measure again. `--tiny` tries the tool itself, in half a minute, and writes no page.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import measure
import subjects
import table
from measure import Record
from processes import Offline, Plan, put_aside
from rivals import RIVAL_SERVER, python_for

from pruneonce.bench.speed_limits import measure_limits
from pruneonce.data.assets import fetch_assets
from pruneonce.errors import PruneonceError
from pruneonce.files import write_json
from pruneonce.machine import available_cores, library_versions

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "serving.md"
OURS = {f"pruneonce {name}": name for name in (subjects.SPARSE_INT8, subjects.INT8, subjects.DENSE)}
REFERENCE = f"pruneonce {subjects.DENSE}"
MAIN = f"pruneonce {subjects.SPARSE_INT8}"


@dataclass(frozen=True)
class Lengths:
    """How long everything takes: seconds, and rounds."""

    rounds: int = 5
    seconds: float = 4.0  # of a throughput
    latency_seconds: float = 15.0
    latency_rounds: int = 3
    overload_seconds: float = 300.0
    crowd_rounds: int = 3
    crowd_seconds: float = 5.0
    starts: int = 5
    large_starts: int = 3


SHORT = Lengths(rounds=5, seconds=3.0, overload_seconds=60.0)
TINY = Lengths(1, 2.0, 2.0, 1, 3.0, 1, 2.0, 1, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rivals", type=Path)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "serving")
    parser.add_argument("--record", type=Path, default=ROOT / "benchmarks" / "serving" / "measured.json")
    parser.add_argument("--short", action="store_true", help="one minute of overload instead of five")
    parser.add_argument("--tiny", action="store_true", help="try the tool; its numbers mean nothing")
    parser.add_argument("--only-prepare", action="store_true", help="make the files to be served, and no more")
    parser.add_argument("--write-page", action="store_true", help="write docs/serving.md from the record, and no more")
    given = parser.parse_args()
    if given.write_page:
        table.write_page(PAGE, json.loads(given.record.read_text()))
        return
    lengths = TINY if given.tiny else SHORT if given.short else Lengths()
    file = given.work / "tiny.json" if given.tiny else given.record
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {line}", flush=True)

    assets = fetch_assets()
    subjects.make_all(assets.model, assets.wikipedia, given.work)
    texts_file = given.work / "texts.json"
    plans = [*our_plans(given.work), *rival_plans(given.rivals, given.work, say)]
    say("files are made")
    if given.only_prepare:
        return
    measure.nofile()
    record: Record = json.loads(file.read_text()) if file.is_file() else first_record(lengths)
    if record["lengths"] != asdict(lengths):
        sys.exit(f"{file} was measured with other lengths of time: finish it as it was begun, or delete it")

    def save() -> None:
        write_json(file, record)

    run(record, plans, given.work, json.loads(texts_file.read_text()), lengths, save, say)
    say(f"done: {file}")
    for line in table.lines(record):
        print(line)
    if not given.tiny:
        table.write_page(PAGE, record)


def first_record(lengths: Lengths) -> Record:
    threads = available_cores()
    return {
        "format": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": asdict(measure_limits(threads)),
        "versions": library_versions(),
        "threads": threads,
        "lengths": asdict(lengths),
    }


def our_plans(work: Path) -> list[Plan]:
    return [
        Plan(name, serve_command(work / subjects.FILES[file]), health="/v2/health/ready") for name, file in OURS.items()
    ]


def serve_command(file: Path) -> tuple[str, ...]:
    command = (sys.executable, "-m", "pruneonce", "serve", f"minilm={file}", "--port", "{port}")
    return (*command, "--max-connections", "8192", "--no-log-requests")


def rival_plans(rivals: Path | None, work: Path, say) -> list[Plan]:
    """Of the environments that are there; the quantised files that they need are made."""
    if rivals is None:
        return []
    folder, threads = work / "folder", str(available_cores())
    plans = []
    for engine, name in (
        ("torch", "sentence-transformers torch"),
        ("onnx-int8", "sentence-transformers ONNX int8"),
        ("openvino-int8", "sentence-transformers OpenVINO int8"),
        ("fastembed", "fastembed ONNX int8"),
    ):
        python = python_for(engine, rivals, work)
        if python is None:
            say(f"left out: {name}; it is not in {rivals}")
            continue
        command = (str(python), str(RIVAL_SERVER), engine, str(folder), "--port", "{port}", "--threads", threads)
        plans.append(Plan(name, command, is_ours=False))
    infinity = rivals / "infinity" / "bin" / "infinity_emb"
    if infinity.is_file():
        command = [str(infinity), "v2", "--model-id", str(folder), "--served-model-name", "any", "--device", "cpu"]
        command += [
            "--engine",
            "torch",
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
            "--no-bettertransformer",
            "--no-model-warmup",
        ]
        plans.append(Plan("infinity torch", tuple(command), "/embeddings", is_ours=False))
    else:
        say(f"left out: infinity; there is no {infinity}")
    return plans


def run(record: Record, plans: Sequence[Plan], work: Path, texts: list[str], lengths: Lengths, save, say) -> None:
    threads = record["threads"]
    with contextlib.ExitStack() as stack:
        large = Plan("large", serve_command(work / subjects.FILES[subjects.LARGE]), health="/v2/health/ready")
        for key, plan, count in (
            ("MiniLM int8", plans[0], lengths.starts),
            ("BERT-large int8", large, lengths.large_starts),
        ):
            if key not in record.setdefault("start_seconds", {}):
                record["start_seconds"][key] = measure.start_to_ready(plan, threads, count, work / "start.log")
                say(f"start to ready, {key}: {min(record['start_seconds'][key]):.2f} s")
                save()
        servers = measure.started(list(plans), threads, work, record, say)
        for server in servers.values():
            stack.callback(server.close)
        offline = {}
        for name in OURS:
            offline[name] = Offline(
                work / subjects.FILES[OURS[name]], work / "texts.json", vectors_of(work, name), threads
            )
            stack.callback(offline[name].close)
            put_aside(offline[name])
        record["mean_tokens"] = mean_tokens(work, texts)
        for name in OURS:
            if name not in record.setdefault("bits", {}):
                record["bits"][name] = measure.check_answers(servers[name], texts, vectors_of(work, name))
                say(f"same bits as offline, {name}: {record['bits'][name]}")
                save()
        for name, server in list(servers.items()):
            if name in record.setdefault("cosine", {}):
                continue
            try:
                record["cosine"][name] = measure.cosine(server, texts, vectors_of(work, REFERENCE))
            except PruneonceError as error:
                if server.plan.is_ours:
                    raise
                record.setdefault("absent", {})[name] = str(error)[:200]
                del servers[name]
            save()
        measure.throughput(record, servers, offline, texts, lengths.rounds, lengths.seconds, save, say)
        for each in offline.values():
            each.close()
        for name in list(OURS)[:2]:
            answers: dict[bytes, int] = {}
            if name not in record.setdefault("latency", {}):
                found = measure.latency(servers[name], texts, lengths.latency_seconds, lengths.latency_rounds, answers)
                record["latency"][name] = found
                say(f"latency, {name}: {found['times_alone']}")
                save()
        main = servers[MAIN]
        answers = {}
        if "crowd" not in record:
            record["crowd"] = measure.crowded(main, texts, lengths.crowd_rounds, lengths.crowd_seconds, answers)
            say("a crowd of idle connections")
            save()
        if "replicas" not in record:
            servers_of_one = measure.replicas(plans[0], threads, texts, lengths.rounds, lengths.seconds, work)
            record["replicas"] = {"count": threads, "texts_per_second": servers_of_one}
            say("replicas")
            save()
        if "overload" not in record:
            record["overload"] = measure.overload(main, texts, lengths.overload_seconds, answers)
            say("overload")
            save()


def vectors_of(work: Path, name: str) -> Path:
    return work / f"{OURS[name].replace(' ', '-').replace('%', '')}.npy"


def mean_tokens(work: Path, texts: list[str]) -> float:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(work / "folder" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return sum(len(each.ids) for each in tokenizer.encode_batch(texts)) / len(texts)


if __name__ == "__main__":
    main()
