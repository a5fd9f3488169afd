"""Time each stage from a Wikipedia dump to a corpus on one core, and extrapolate to all of English Wikipedia.

    python benchmarks/bench_data.py DUMP.xml.bz2 --tokenizer MODEL_FOLDER [--json]

Every rate is the best of --repeats runs. MB are 10^6 bytes: of uncompressed XML for the dump's stages, of extracted
text for the others. The extrapolation rests on the sizes given by --full-xml-gb and --full-text-gb and on perfect
scaling over --cores of all but reading the dump, which one process does.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruneonce.data import articles, sentences, wikipedia
from pruneonce.data.build import build


def main() -> None:
    arguments = parse_arguments()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core
    rates = measure(arguments)
    report = {
        "megabytes_per_second": rates,
        "sample": {"dump": arguments.dump.name, "dump_bytes": arguments.dump.stat().st_size},
        "assumptions": {
            "full_xml_gb": arguments.full_xml_gb,
            "full_text_gb": arguments.full_text_gb,
            "cores": arguments.cores,
        },
        "full_hours": extrapolate(rates, arguments),
    }
    print(json.dumps(report, indent=2) if arguments.json else table(report))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", type=Path, help="MediaWiki XML dump: .xml, .xml.bz2 or .xml.gz")
    parser.add_argument("--tokenizer", type=Path, required=True, help="model folder with a tokenizer.json")
    parser.add_argument("--articles", type=Path, help="articles folder to time the later stages on [the dump's]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--full-xml-gb", type=float, default=100, help="uncompressed size of the full dump [%(default)s]"
    )
    parser.add_argument("--full-text-gb", type=float, default=16, help="size of its extracted text [%(default)s]")
    parser.add_argument("--cores", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Megabytes per second and core of each stage."""
    dump, repeats = arguments.dump, arguments.repeats
    xml_bytes = decompress(dump)
    pages = list(wikipedia.read_pages(dump, Counter()))
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.articles or Path(scratch) / "articles"
        if arguments.articles is None:
            wikipedia.extract(dump, folder)
        texts = [text for _, text in articles.read(folder)]
        text_bytes = sum(len(text.encode()) for text in texts)

        def building(layout: str) -> Callable[[], Any]:
            return lambda: build(folder, tempfile.mkdtemp(dir=scratch), tokenizer=arguments.tokenizer, layout=layout)

        stages: dict[str, tuple[int, Callable[[], Any]]] = {
            "decompress": (xml_bytes, lambda: decompress(dump)),
            "decompress and parse XML": (xml_bytes, lambda: sum(1 for _ in wikipedia.read_pages(dump, Counter()))),
            "clean wikitext": (xml_bytes, lambda: [wikipedia.clean(page.wikitext) for page in pages]),
            "split sentences": (text_bytes, lambda: [sentences.split_sentences(text) for text in texts]),
            "build segment_pair_nsp": (text_bytes, building("segment_pair_nsp")),
            "build document_sentences": (text_bytes, building("document_sentences")),
        }
        return {name: size / 1e6 / best(stage, repeats) for name, (size, stage) in stages.items()}


def decompress(dump: Path) -> int:
    """Read all of the dump; its uncompressed size in bytes."""
    opener: Callable[..., Any] = {".bz2": bz2.open, ".gz": gzip.open}.get(dump.suffix, open)
    with opener(dump, "rb") as stream:
        return sum(len(block) for block in iter(lambda: stream.read(1 << 20), b""))


def best(stage: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of `repeats` runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        stage()
        times.append(time.perf_counter() - started)
    return min(times)


def extrapolate(rates: dict[str, float], arguments: argparse.Namespace) -> dict[str, float]:
    """Hours for all of Wikipedia. One process reads the dump while the other cores clean; the slower side decides."""
    xml_mb, text_mb, cores = arguments.full_xml_gb * 1e3, arguments.full_text_gb * 1e3, arguments.cores
    reading = xml_mb / rates["decompress and parse XML"]
    cleaning = xml_mb / rates["clean wikitext"] / max(cores - 1, 1)
    building = text_mb / rates["build segment_pair_nsp"] / cores
    seconds = {
        "read the dump (one core)": reading,
        "clean wikitext": cleaning,
        "extract (the slower of the two)": max(reading, cleaning),
        "build segment_pair_nsp": building,
    }
    return {name: value / 3600 for name, value in seconds.items()}


def table(report: dict[str, Any]) -> str:
    assumed = report["assumptions"]
    lines = [f"{'stage, one core':<36}{'MB/s':>8}"]
    lines += [f"{name:<36}{rate:>8.2f}" for name, rate in report["megabytes_per_second"].items()]
    lines += [
        "",
        f"all of Wikipedia, {assumed['cores']} cores, assuming {assumed['full_xml_gb']:g} GB of XML and "
        f"{assumed['full_text_gb']:g} GB of text",
        f"{'stage':<36}{'hours':>8}",
    ]
    lines += [f"{name:<36}{hours:>8.2f}" for name, hours in report["full_hours"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
