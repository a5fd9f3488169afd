"""The articles folder: plain text on disk, between a source (a dump, text files) and the pre-training examples.

A folder holds Parquet shards `articles-00000.parquet`, ... with the string columns `title` and `text` (the paragraphs
of one document, separated by one newline) and, written last, `manifest.json`. Without its manifest a folder is
unfinished and nothing reads it.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pruneonce import files
from pruneonce.data import building
from pruneonce.data.building import Built
from pruneonce.errors import OtherInputsError, PruneonceError, UsageError
from pruneonce.folder_lock import filling
from pruneonce.formats.parquet_file import parquet_rows

FORMAT = "pruneonce-articles"
VERSION = 1
SHARD_BYTES = 64 << 20  # of text; about 25,000 Wikipedia articles, and a few hundred MB for the process that reads it
ROW_GROUP_BYTES = 4 << 20  # of text; what the writer holds in memory

_KEYS = ("source", "articles", "shards")
_MADE = ("articles-[0-9][0-9][0-9][0-9][0-9].parquet", "manifest.json")
_SCHEMA = pa.schema([("title", pa.string()), ("text", pa.string())])


def normalise(text: str) -> str:
    """Paragraphs of `text`, one per line: blank lines dropped, runs of white space within a line made one space."""
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


# -------------------------------------------------------------------------------------------------------- writing


def describe_inputs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size in bytes and SHA-256 of each input file, for the manifest's `source`.

    The whole file is hashed: a second per GB, against hours for what follows, and neither a copy to another folder
    nor an edit that keeps the size is mistaken. UsageError when a path is not a readable file.
    """
    try:
        return [{"name": p.name, "bytes": p.stat().st_size, "sha256": files.sha256_file(p)} for p in paths]
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error


def make(
    out: str | Path,
    articles: Callable[[], Generator[tuple[str, str], None, None]],
    *,
    source: Mapping[str, Any],
    skipped: Mapping[str, int],
    shard_bytes: int = SHARD_BYTES,
) -> Built:
    """Fill the folder `out` with the (title, text) pairs of `articles()`, unless it already holds them.

    source: everything the articles depend on; a finished folder with an equal source is left alone, one with
        another source is a UsageError, and an unfinished folder is started afresh; one that holds anything else is
        a UsageError and stays as it is.
    skipped: counts by reason of what did not become an article, read once `articles()` is exhausted.
    shard_bytes: a shard is closed when its UTF-8 text reaches this size, so shards depend on the content alone.
    """
    started = time.perf_counter()
    out = Path(out)
    source = {**source, "shard_bytes": shard_bytes}
    manifest = _finished(out, source)
    if manifest is not None:
        building.tidy(out, _MADE)
        return Built(manifest, time.perf_counter() - started, reused=True)
    with filling(out):
        building.claim(out, {"format": FORMAT, "version": VERSION, "source": source}, _MADE, resumable=False)
        with contextlib.closing(articles()) as pairs:  # closed at once on failure, which ends its worker processes
            shards = _write_shards(out, pairs, shard_bytes)
        if not shards:
            raise PruneonceError(f"no articles for {out}: {_listed(source)} gave no text ({dict(skipped)})")
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "source": source,
            "articles": sum(shard["articles"] for shard in shards),
            "text_bytes": sum(shard["text_bytes"] for shard in shards),
            "skipped": dict(skipped),
            "shards": shards,
        }
        files.write_json(out / "manifest.json", manifest)
        building.release(out)
        return Built(manifest, time.perf_counter() - started, reused=False)


def _finished(out: Path, source: Mapping[str, Any]) -> dict[str, Any] | None:
    if not (out / "manifest.json").exists():
        return None
    manifest = read_manifest(out)
    if manifest["source"] != source:
        raise OtherInputsError(
            f"{out} already holds articles made from {_listed(manifest['source'])} with other contents or settings: "
            "choose another folder, or delete this one"
        )
    return manifest


def _listed(source: Mapping[str, Any]) -> str:
    names = [file["name"] for file in source.get("files", ())]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _write_shards(out: Path, articles: Iterator[tuple[str, str]], shard_bytes: int) -> list[dict[str, Any]]:
    shards: list[dict[str, Any]] = []
    ready = ((title, text) for title, raw in articles if (text := _encodable(normalise(raw))))
    for first in ready:
        path = out / f"articles-{len(shards):05d}.parquet"
        with files.replacing(path) as temporary:
            counts = _write_shard(temporary, itertools.chain([first], ready), shard_bytes)
        shards.append({"file": path.name, **counts, "sha256": files.sha256_file(path)})
    return shards


def _write_shard(path: Path, articles: Iterator[tuple[str, str]], shard_bytes: int) -> dict[str, int]:
    """Write articles to `path` until their text reaches `shard_bytes` or they end; the rest stays in `articles`."""
    count = total = pending_bytes = 0
    pending: list[tuple[str, str]] = []
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        for title, text in articles:
            size = len(text.encode())
            pending.append((_encodable(title), text))
            count, total, pending_bytes = count + 1, total + size, pending_bytes + size
            if pending_bytes >= ROW_GROUP_BYTES or total >= shard_bytes:
                writer.write_table(_table(pending))
                pending, pending_bytes = [], 0
            if total >= shard_bytes:
                break
        if pending:
            writer.write_table(_table(pending))
    return {"articles": count, "text_bytes": total}


def _table(rows: list[tuple[str, str]]) -> pa.Table:
    titles, texts = zip(*rows, strict=True)
    return pa.table([pa.array(titles, pa.string()), pa.array(texts, pa.string())], schema=_SCHEMA)


def _encodable(text: str) -> str:
    """`text` with lone surrogates (JSON and HTML entities can spell them, UTF-8 cannot) replaced by "?"."""
    return text.encode("utf-8", "replace").decode()


# -------------------------------------------------------------------------------------------------------- reading


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a finished articles folder; UsageError when it is unfinished, another thing, or newer."""
    path = Path(folder) / "manifest.json"
    if not path.exists():
        raise UsageError(
            f"{folder} is not a finished articles folder: it has no manifest.json. Make one with "
            "`pruneonce data wikipedia` or `pruneonce data text`"
        )
    return check_manifest(files.read_json(path), path, format_name=FORMAT, version=VERSION, keys=_KEYS)


def check_manifest(manifest: Any, path: Path, *, format_name: str, version: int, keys: Sequence[str]) -> dict[str, Any]:
    """`manifest` if it is a `format_name` of a version that this code reads and has the `keys`; else UsageError.

    PruneonceError unless its shards are files of its own folder.
    """
    if not isinstance(manifest, dict) or manifest.get("format") != format_name:
        raise UsageError(f"{path} is not the manifest of a {format_name} folder")
    files.check_format_version(path, manifest.get("version"), version, error=UsageError)
    missing = [key for key in keys if key not in manifest]
    if missing:
        raise UsageError(f"{path} has no '{missing[0]}': delete the folder and make it again")
    shards = manifest["shards"]
    if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
        raise UsageError(f"{path}: 'shards' must be a list of objects")
    for shard in shards:
        files.require_plain_name(path, shard.get("file"))
    return manifest


def read(folder: str | Path) -> Iterator[tuple[str, str]]:
    """Every (title, text) of a finished articles folder, in order, in constant memory."""
    for shard in read_manifest(folder)["shards"]:
        yield from read_shard(Path(folder) / shard["file"])


def read_shard(path: Path) -> Iterator[tuple[str, str]]:
    """Every (title, text) of one shard, one row group in memory at a time."""
    try:
        for row in parquet_rows(path, _SCHEMA.names):
            yield row["title"], row["text"]
    except PruneonceError as error:
        raise PruneonceError(f"{error}: delete the articles folder and make it again") from error
    except KeyError as error:
        raise PruneonceError(
            f"{path} cannot be read (it has no column {error}): delete the articles folder and make it again"
        ) from error
