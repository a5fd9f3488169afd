"""Articles to pre-training examples: makes a corpus folder.

The examples are those of the reference (Zafrir et al. 2021, https://arxiv.org/abs/2111.05754). A corpus holds no clock,
and every random draw comes from (seed, shard, document): the same parameters give the same bytes, whatever the number
of workers.
"""

from __future__ import annotations

import functools
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pruneonce import files
from pruneonce.data import articles as articles_folder
from pruneonce.data import building
from pruneonce.data.building import Built
from pruneonce.data.corpus import (
    FORMAT,
    MANIFEST,
    SPLITS,
    TOKEN_COUNTS,
    VERSION,
    TokenType,
    read_blocks,
    read_manifest,
    write_shard,
)
from pruneonce.data.executor import ordered_map
from pruneonce.data.layouts import LAYOUTS, Cutting, Document
from pruneonce.data.sentences import split_sentences
from pruneonce.errors import OtherInputsError, PruneonceError, UsageError
from pruneonce.folder_lock import filling
from pruneonce.machine import available_cores
from pruneonce.models.tokenizer import LONG_TEXT, load_tokenizer, pieces, special_token_ids
from pruneonce.progress import Advance, no_progress

_MADE = (*(f"{split}-[0-9][0-9][0-9][0-9][0-9].arrow" for split in SPLITS), TOKEN_COUNTS, MANIFEST)


@dataclass(frozen=True)
class _Parameters:
    """What the examples depend on. Field order is the order in which differences are reported."""

    articles: str  # digest of the articles' manifest
    tokenizer: str  # digest of the tokenizer
    layout: str
    max_tokens: int  # special tokens included
    short_sequence_probability: float
    random_next_probability: float
    validation_fraction: float
    seed: int

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UsageError(f"layout must be one of {', '.join(LAYOUTS)}; got '{self.layout}'")
        if self.max_tokens < 5:  # [CLS] a [SEP] b [SEP]
            raise UsageError(f"max_tokens must be at least 5, got {self.max_tokens}")
        if self.seed < 0:
            raise UsageError(f"seed must not be negative, got {self.seed}")
        for name in ("short_sequence_probability", "random_next_probability", "validation_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


def build(
    articles: str | Path,
    out: str | Path,
    *,
    tokenizer: str | Path,
    layout: str,
    max_tokens: int = 512,
    short_sequence_probability: float = 0.1,
    random_next_probability: float = 0.5,
    validation_fraction: float = 0.05,
    seed: int = 42,
    workers: int | None = 1,
    on: str = "",
    on_progress: Advance | None = None,
) -> Built:
    """Turn the articles folder `articles` into the corpus folder `out`.

    tokenizer: model folder or Hub id.
    layout: "segment_pair_nsp" or "document_sentences".
    max_tokens: longest example, special tokens included.
    short_sequence_probability: of a document being cut into examples of a random, smaller length.
    random_next_probability: of B coming from another document.
    validation_fraction: expected share of documents held out; see `_validation_threshold`.
    workers: processes; None: one per core. on: "ray" or "ray://HOST:PORT", whose nodes share both folders; workers are
    then its tasks at once, None for all that fit. The result depends on neither.

    A finished folder with the same parameters is left alone; one with other parameters is a UsageError that names the
    first that differs. An unfinished one goes on from its finished shards when the parameters are the same, and starts
    afresh when not; a folder that holds anything else is a UsageError and stays as it is. Progress is in documents.
    """
    started = time.perf_counter()
    source, out = Path(articles), Path(out)
    source_manifest = articles_folder.read_manifest(source)
    loaded = load_tokenizer(tokenizer)
    tokenizer_json = loaded.to_str()
    parameters = _Parameters(
        articles=files.sha256_json(source_manifest),
        tokenizer=sha256(tokenizer_json.encode()).hexdigest(),
        layout=layout,
        max_tokens=max_tokens,
        short_sequence_probability=short_sequence_probability,
        random_next_probability=random_next_probability,
        validation_fraction=validation_fraction,
        seed=seed,
    )
    identity: dict[str, Any] = {"format": FORMAT, "version": VERSION, "parameters": asdict(parameters)}
    finished = _finished(out, identity)
    if finished is not None:
        building.tidy(out, _MADE)
        return Built(finished, time.perf_counter() - started, reused=True)
    with filling(out):
        building.claim(out, identity, _MADE, resumable=True)
        vocabulary = _Vocabulary.of(loaded)
        threshold = _validation_threshold(source, validation_fraction, seed)
        jobs = (
            _Job(source / shard["file"], out, index, parameters, threshold, tokenizer_json, vocabulary)
            for index, shard in enumerate(source_manifest["shards"])
        )
        shards, token_counts = _run(jobs, source_manifest, vocabulary, workers, on, out, on_progress or no_progress)
        manifest = {**identity, "vocab_size": vocabulary.size, "splits": _totals(shards), "shards": shards}
        if not manifest["splits"]["train"]["examples"]:
            raise PruneonceError(f"{articles} gives no training example: it needs documents of two sentences or more")
        with files.replacing(out / TOKEN_COUNTS) as temporary, open(temporary, "wb") as stream:
            np.save(stream, token_counts)
        files.write_json(out / MANIFEST, manifest)
        building.release(out)
        return Built(manifest, time.perf_counter() - started, reused=False)


def _finished(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest in `out` if it was made with these parameters, None if there is none; else UsageError."""
    path = out / MANIFEST
    if not path.exists():
        return None
    manifest = read_manifest(path)
    for name, wanted in identity["parameters"].items():
        found = manifest["parameters"][name]
        if found != wanted:
            raise OtherInputsError(
                f"{out} already holds a corpus made with {name} = {found}, not {wanted}: choose another folder, or "
                "delete this one"
            )
    return manifest


def _run(
    jobs: Iterable[_Job],
    source_manifest: dict[str, Any],
    vocabulary: _Vocabulary,
    workers: int | None,
    on: str,
    shared: Path,
    on_progress: Advance,
) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """Do the jobs: the manifest's entries of all shards, and the train split's token counts, int64 [vocabulary]."""
    shards: list[dict[str, Any]] = []
    token_counts = np.zeros(vocabulary.size, np.int64)
    done, total = 0, source_manifest["articles"]
    on_progress(done, total, "documents")
    if workers is None and not on:
        workers = available_cores()
    if workers is not None:
        workers = min(workers, len(source_manifest["shards"]))
    results = ordered_map(_build_shard, jobs, workers=workers, on=on, shared=shared)
    for source_shard, (entries, counts) in zip(source_manifest["shards"], results, strict=True):
        shards += entries
        token_counts += counts
        done += source_shard["articles"]
        on_progress(done, total, "documents")
    return shards, token_counts


def _totals(shards: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    totals = {split: Counter(documents=0, examples=0, tokens=0) for split in SPLITS}
    for shard in shards:
        totals[shard["split"]].update({name: shard[name] for name in ("documents", "examples", "tokens")})
    return {split: dict(counts) for split, counts in totals.items()}


# ---------------------------------------------------------------------------------------------- train or validation


def _validation_threshold(source: Path, fraction: float, seed: int) -> int:
    """Documents whose hash is below this number are the validation split.

    It is `fraction` of the range of the hash, unless that would leave a split empty: then it is moved just far enough
    for the document with the lowest hash to be held out, and the one with the highest to be trained on. A fraction of
    0 holds out nothing. Equal documents share a hash and so a split.
    """
    threshold = int(fraction * 2**64)
    if not threshold:
        return 0
    lowest, highest = 2**64, -1
    for title, text in articles_folder.read(source):
        value = _document_hash(seed, title, text)
        lowest, highest = min(lowest, value), max(highest, value)
        if lowest < threshold <= highest:  # on any real corpus after a few dozen documents
            return threshold
    return min(max(threshold, lowest + 1), highest)


def _document_hash(seed: int, title: str, text: str) -> int:
    """64 bits, uniform over documents and independent of where a document stands in the corpus."""
    digest = blake2b(f"{seed}\0{title}\0{text}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


# --------------------------------------------------------------------------------------------------- one shard's work


@dataclass(frozen=True)
class _Vocabulary:
    size: int  # one more than the highest id
    cls: int
    sep: int

    @staticmethod
    def of(tokenizer: Tokenizer) -> _Vocabulary:
        special = special_token_ids(tokenizer)
        return _Vocabulary(1 + max(tokenizer.get_vocab().values()), special["cls"], special["sep"])

    @property
    def token_type(self) -> TokenType:
        return np.uint16 if self.size <= 1 << 16 else np.int32


@dataclass(frozen=True)
class _Job:
    """What a worker process needs to turn one shard of articles into one shard per split."""

    source: Path
    out: Path
    index: int
    parameters: _Parameters
    threshold: int
    tokenizer_json: str
    vocabulary: _Vocabulary

    def target(self, split: str) -> Path:
        return self.out / f"{split}-{self.index:05d}.arrow"


def _build_shard(job: _Job) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """Write the shard's files unless a killed run already did; their manifest entries and train token counts."""
    if not all(job.target(split).exists() for split in SPLITS):
        split_documents = _read_documents(job)
        for split in SPLITS:
            _write_split(job, split, split_documents[split])
    entries = [_entry(job.target(split), split) for split in SPLITS]
    return entries, _count_tokens(job.target("train"), job.vocabulary)


def _read_documents(job: _Job) -> dict[str, list[Document]]:
    """The shard's documents that have a token, by split, each in shuffled order."""
    tokenizer = _tokenizer(job.tokenizer_json)
    documents: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for number, (title, text) in enumerate(articles_folder.read_shard(job.source)):
        document = _tokenize(tokenizer, number, text)
        if document.sentences:
            held_out = _document_hash(job.parameters.seed, title, text) < job.threshold
            documents["validation" if held_out else "train"].append(document)
    rng = _generator(job.parameters.seed, job.index)
    return {split: [documents[split][i] for i in rng.permutation(len(documents[split]))] for split in SPLITS}


@functools.lru_cache(maxsize=1)
def _tokenizer(serialised: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(serialised)
    tokenizer.encode_special_tokens = True  # not part of the serialised form; see load_tokenizer
    return tokenizer


def _tokenize(tokenizer: Tokenizer, number: int, text: str) -> Document:
    """In the memory that little of it takes at a time: one line of a file may be a book."""
    ids, bounds, open_sentence = array("i"), [0], -1
    for batch in _batches(enumerate(split_sentences(text))):
        encodings = tokenizer.encode_batch_fast([piece for _, piece in batch], add_special_tokens=False)
        for (sentence, _), encoding in zip(batch, encodings, strict=True):
            if not len(encoding):
                continue
            ids.extend(encoding.ids)
            if sentence == open_sentence:  # it goes on
                bounds.pop()
            bounds.append(len(ids))
            open_sentence = sentence
    return Document(number, np.array(ids, np.int32), bounds)


def _batches(sentences: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Numbered sentences, long ones in pieces, of LONG_TEXT characters together or a piece of more."""
    batch: list[tuple[int, str]] = []
    characters = 0
    for number, sentence in sentences:
        for piece in pieces(sentence):
            if batch and characters + len(piece) > LONG_TEXT:
                yield batch
                batch, characters = [], 0
            batch.append((number, piece))
            characters += len(piece)
    yield batch


def _generator(seed: int, *key: int) -> np.random.Generator:
    """Random numbers that depend on (seed, key) alone. NumPy keeps the bit stream across versions, not the draws."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _examples(job: _Job, documents: Sequence[Document]) -> Iterator[tuple[NDArray[Any], int, int]]:
    given, vocabulary = job.parameters, job.vocabulary
    layout = LAYOUTS[given.layout]
    cutting = Cutting(
        max_tokens=given.max_tokens,
        short_sequence_probability=given.short_sequence_probability,
        random_next_probability=given.random_next_probability,
        cls=vocabulary.cls,
        sep=vocabulary.sep,
    )
    for position, document in enumerate(documents):
        rng = _generator(job.parameters.seed, job.index, document.number)
        yield from layout(documents, position, rng, cutting)


def _write_split(job: _Job, split: str, documents: Sequence[Document]) -> None:
    examples = _examples(job, documents)
    write_shard(job.target(split), examples, documents=len(documents), token_type=job.vocabulary.token_type)


def _entry(path: Path, split: str) -> dict[str, Any]:
    blocks, metadata = read_blocks(path)
    return {
        "file": path.name,
        "split": split,
        "bytes": path.stat().st_size,
        "sha256": files.sha256_file(path),
        "documents": int(metadata[b"documents"]),
        "examples": sum(len(block.labels) for block in blocks),
        "tokens": sum(len(block.ids) for block in blocks),
    }


def _count_tokens(path: Path, vocabulary: _Vocabulary) -> NDArray[np.int64]:
    """Occurrences of each token, int64 [vocabulary]; [CLS] and [SEP] count 0, as they are never predicted."""
    counts = np.zeros(vocabulary.size, np.int64)
    for block in read_blocks(path)[0]:
        counts += np.bincount(block.ids, minlength=vocabulary.size)
    counts[[vocabulary.cls, vocabulary.sep]] = 0
    return counts
