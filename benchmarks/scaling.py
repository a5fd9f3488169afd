"""What the pieces of a large run cost here, and what follows for more machines: the figures of docs/scaling.md.

    python benchmarks/scaling.py [--pieces data,embed,ray,masks,train] [--json scaling.json] [--page docs/scaling.md]

Run it where nothing else runs. data: `build` with one worker and more. embed: `embed_file` with one thread and more.
ray: `embed_file` on a cluster of this machine's cores with one worker and more, and what the process that reads and
writes can do alone; without Ray it is left out. masks: one update of BERT-base's, and the bits that are sent. train: a
step of recipes/bert-base/prune-90.toml, by `pruneonce doctor`'s own probe. --page writes the tables between the page's
marks; what was not measured this time stays as the record says, if --json names one that is there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pruneonce.convert.to_packed import export_packed
from pruneonce.cost.doctor import describe_machine
from pruneonce.data import text
from pruneonce.data.assets import fetch_assets
from pruneonce.data.build import build
from pruneonce.files import read_json, write_bytes, write_json, write_part
from pruneonce.machine import available_cores
from pruneonce.recipe import load_recipe, recipes_folder
from pruneonce.run import embed_file as embed_module
from pruneonce.run.embed_file import embed_file
from pruneonce.run.pipelines import pipeline

BEGIN, END = "<!-- written by benchmarks/scaling.py -->\n", "<!-- end of what it writes -->"
TEXTS = 2000  # embedded
KEPT_CHUNKS = 20  # written to measure what one takes
RAY_TEXTS = 128  # of a chunk that a worker of a cluster gets: enough chunks for a rate, each of seconds
PROCESSES = (1, 8, 64)  # that a run is extrapolated to
GIGABITS = (10, 100)  # per second between nodes
GPUS = {"A100": 312e12, "H100 SXM": 989e12}  # bf16 operations a second without zeros, by NVIDIA's data sheets
GPU_SHARE = 0.4  # of that; what training reaches of it in practice is 30 to 50 %
BERT_BASE_LAYERS, BERT_BASE_HIDDEN, PAPER_TOKENS = 12, 768, 512
BERT_BASE_MULTIPLIED = 109e6  # weights that every token meets: encoder, and the words once more as the head
BERT_BASE_PARAMETERS = 110e6  # all of them get gradients, which are summed over processes in every step
BERT_BASE_PRUNABLE = 85_524_480  # weights of its linear layers and pooler: a bit each is sent when masks change


def measure_data() -> dict[str, Any]:
    """Documents per second of `build` by workers, on the quickstart's 10,000 article leads in many shards."""
    assets = fetch_assets()
    rates = {}
    with tempfile.TemporaryDirectory() as scratch:
        articles = Path(scratch) / "articles"
        text.collect([assets.wikipedia], articles, title_column="title", shard_bytes=1 << 18)
        for workers in _up_to(available_cores()):
            begun = time.perf_counter()
            corpus = Path(scratch) / f"corpus-{workers}"
            built = build(
                articles, corpus, tokenizer=assets.model, layout="segment_pair_nsp", max_tokens=128, workers=workers
            )
            documents = sum(split["documents"] for split in built.manifest["splits"].values())
            rates[str(workers)] = documents / (time.perf_counter() - begun)
    return {"documents_per_second": rates}


def measure_embed() -> dict[str, Any]:
    """Texts per second of `embed_file` by threads, MiniLM with the zeros that it has, on article leads."""
    assets = fetch_assets()
    lines = assets.wikipedia.read_text(encoding="utf-8").splitlines()[:TEXTS]
    rates = {}
    with tempfile.TemporaryDirectory() as scratch:
        packed, source = Path(scratch) / "m.pruneonce", Path(scratch) / "texts.jsonl"
        export_packed(assets.model, packed)
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for threads in _up_to(available_cores()):
            embeddings: Any = pipeline("embeddings", packed, threads=threads)
            begun = time.perf_counter()
            embed_file(embeddings, source, Path(scratch) / "v.npy")
            rates[str(threads)] = len(lines) / (time.perf_counter() - begun)
    return {"texts_per_second": rates}


def measure_ray() -> dict[str, Any]:
    """Texts per second of `embed_file` in one thread here, by workers of a cluster here, and without any of their work.

    From the end of each worker's first chunk on, so that neither the start of a cluster nor the loading of a model is
    in them. alone: all chunks are finished already, and only read, found and written, with the time added that keeping
    a chunk of usual size takes on this disk.
    """
    assets = fetch_assets()
    lines = [line for line in assets.wikipedia.read_text(encoding="utf-8").split("\n") if line.strip()][:TEXTS]
    with tempfile.TemporaryDirectory() as scratch:
        packed, source, out = (Path(scratch) / name for name in ("m.pruneonce", "texts.jsonl", "v.npy"))
        export_packed(assets.model, packed)
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        embeddings: Any = pipeline("embeddings", packed, threads=1)

        def rate(workers: int = 1, keep: bool = False, **options: Any) -> float:
            times: list[tuple[float, float]] = []

            def advance(done: float, *_: Any) -> None:
                times.append((time.perf_counter(), done))
                if keep and done == len(lines):
                    raise KeyboardInterrupt

            with contextlib.suppress(KeyboardInterrupt):
                embed_file(embeddings, source, out, workers=workers, on_progress=advance, **options)
            (begun, before), (ended, after) = times[workers - 1], times[-1]
            return (after - before) / (ended - begun)

        with mock.patch.object(embed_module, "TEXTS_AT_ONCE", RAY_TEXTS):
            here = rate()
            counts = [count for count in _up_to(available_cores()) if count <= available_cores()]
            rates = {str(count): rate(count, count == counts[-1], on="ray") for count in counts}
            if not (out.parent / f".{out.name}.chunks").is_dir():
                raise SystemExit("the last run left no finished chunks: this would measure another thing")
            found = rate(on="ray")
        chunk = np.load(out, mmap_mode="r")[: embed_module.TEXTS_AT_ONCE].tobytes()
        begun = time.perf_counter()
        for number in range(KEPT_CHUNKS):
            write_bytes(Path(scratch) / f"{number}.npy", chunk)
        kept = (time.perf_counter() - begun) / KEPT_CHUNKS / embed_module.TEXTS_AT_ONCE
        alone = 1 / (1 / found + kept)
    return {"one_thread_here": here, "texts_per_second": rates, "alone": alone}


def measure_masks() -> dict[str, Any]:
    """Seconds to rank BERT-base's prunable weights once, matrix by matrix, and to pack them to bits."""
    import torch

    from pruneonce.sparsity.masks import magnitude_mask, pack_mask

    generator = torch.Generator().manual_seed(0)
    shapes = [*[(768, 768)] * 4, (3072, 768), (768, 3072)] * 12 + [(768, 768)]
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    begun = time.perf_counter()
    sent = sum(pack_mask(magnitude_mask(weight, 0.9)).nbytes for weight in weights)
    return {"seconds": time.perf_counter() - begun, "bytes_sent": sent}


def measure_train() -> dict[str, Any]:
    """A step of the paper-scale pruning run on this machine, its memory and its disk."""
    from pruneonce.cost.estimate import estimate

    found = estimate(load_recipe(recipes_folder() / "bert-base/prune-90.toml", "prune"))
    return asdict(found)


PIECES = {
    "data": measure_data,
    "embed": measure_embed,
    "ray": measure_ray,
    "masks": measure_masks,
    "train": measure_train,
}


def step_seconds(alone: float, processes: int, gigabits: float) -> float:
    """A step of `processes` machines like this one: its share of the batch, then a ring that sums float32 gradients.

    A ring sends every gradient 2 (n - 1) / n times through each machine's wire; nothing of it is hidden behind the
    backward pass here, which a real run does: a bound from above.
    """
    sent_bits = 8 * 4 * BERT_BASE_PARAMETERS * 2 * (processes - 1) / processes
    return alone / processes + sent_bits / (gigabits * 1e9)


def gpu_hours(tokens: float, peak: float) -> float:
    """Of one GPU at GPU_SHARE of its peak: the student forward and backward, its teacher forward, all dense."""
    forward = 2 * BERT_BASE_MULTIPLIED + 4 * PAPER_TOKENS * BERT_BASE_HIDDEN * BERT_BASE_LAYERS  # operations per token
    return 4 * forward * tokens / (GPU_SHARE * peak) / 3600


def cluster_rate(found: dict[str, Any], workers: int) -> float:
    """Texts per second of so many workers like the most that were measured, if the process that feeds them keeps up."""
    most = max(found["texts_per_second"], key=int)
    return min(found["alone"], found["texts_per_second"][most] / int(most) * workers)


def section(record: dict[str, Any]) -> str:
    """The tables of what a record holds."""
    machine = record["machine"]
    lines = [f"{machine['processor']}, {machine['cores']} cores, {record['date']}.", ""]
    for piece, key, what in (
        ("data", "documents_per_second", "workers of `data pretraining` | documents/s"),
        ("embed", "texts_per_second", "threads of `embed` | texts/s"),
    ):
        if piece in record:
            lines += [f"| {what} | per core |", "|---|---|---|"]
            rates = record[piece][key]
            lines += [f"| {count} | {rate:,.0f} | {rate / int(count):,.0f} |" for count, rate in rates.items()]
            lines.append("")
    if "ray" in record:
        found = record["ray"]
        rates = {int(count): rate for count, rate in found["texts_per_second"].items()}
        most = max(rates)
        lines += [
            "| workers of `embed --on ray` | texts/s | per core | of one thread without Ray |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {count} | {rate:,.0f} | {rate / count:,.0f} | {rate / count / found['one_thread_here']:.0%} |"
            for count, rate in rates.items()
        ]
        full = found["alone"] / (rates[most] / most)
        lines += [
            "",
            f"The process that reads, keeps and writes can do {found['alone']:,.0f} texts/s alone: it is what bounds a "
            f"cluster, from {full:,.0f} workers like these on. Extrapolated, with no wire in the way "
            f"(`cluster_rate`): {cluster_rate(found, 64):,.0f} texts/s with 64 workers.",
            "",
        ]
    if "masks" in record:
        masks = record["masks"]
        lines += [
            f"One update of BERT-base's masks takes {masks['seconds']:.2f} s in the first process; "
            f"{masks['bytes_sent'] / 1e6:.1f} MB of bits go to each of the others.",
            "",
        ]
    if "train" in record:
        train = record["train"]
        lines += [
            f"The pruning run of the paper ({train['steps']:,} steps of {train['tokens_per_step']:,} tokens) takes "
            f"{train['seconds_per_step']:,.1f} s a step here, {train['memory_bytes'] / 1e9:.0f} GB of memory and "
            f"{train['disk_bytes'] / 1e9:.1f} GB of disk. Extrapolated to machines like this one (`step_seconds`):",
            "",
            "| machines | " + " | ".join(f"days at {gigabits} Gb/s" for gigabits in GIGABITS) + " |",
            "|---" * (1 + len(GIGABITS)) + "|",
        ]
        for processes in PROCESSES:
            days = [
                step_seconds(train["seconds_per_step"], processes, gigabits) * train["steps"] / 86_400
                for gigabits in GIGABITS
            ]
            lines.append(f"| {processes} | " + " | ".join(f"{each:,.1f}" for each in days) + " |")
        tokens = train["steps"] * train["tokens_per_step"]
        hours = " or ".join(f"{gpu_hours(tokens, peak):,.0f} of one {name}" for name, peak in GPUS.items())
        lines += [
            "",
            f"Reckoned, not measured (no GPU was here): {tokens / 1e9:,.1f} billion tokens are {hours} in GPU hours, "
            f"at {GPU_SHARE:.0%} of the peak of its data sheet (`gpu_hours`).",
            "",
        ]
    return "\n".join(lines)


def _up_to(cores: int) -> list[int]:
    return [int(count) for count in np.unique([1, 2, 4, cores]) if count <= max(cores, 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [piece for piece in PIECES if piece != "ray" or importlib.util.find_spec("ray")]
    parser.add_argument("--pieces", default=",".join(usual))
    parser.add_argument("--json", type=Path, help="record to add to")
    parser.add_argument("--page", type=Path, help="page to write the tables into")
    chosen = parser.parse_args()
    record = read_json(chosen.json) if chosen.json and chosen.json.is_file() else {}
    record |= {"machine": asdict(describe_machine()), "date": time.strftime("%Y-%m-%d")}
    for piece in chosen.pieces.split(","):
        record[piece] = PIECES[piece]()
        print(json.dumps({piece: record[piece]}, indent=2), flush=True)
    if chosen.json:
        write_json(chosen.json, record)
    if chosen.page:
        write_part(chosen.page, BEGIN, section(record), END)


if __name__ == "__main__":
    main()
