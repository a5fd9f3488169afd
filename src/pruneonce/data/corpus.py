"""Articles to pre-training examples: the corpus folder that the teacher and the pruning run read.

The examples are those of the reference (Zafrir et al. 2021, https://arxiv.org/abs/2111.05754), in one of two layouts:

- `segment_pair_nsp` (BERT): [CLS] A [SEP] B [SEP], where B follows A in the document (label 0) or is from elsewhere
  (label 1), after Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1;
- `document_sentences` (DistilBERT): [CLS] s1 [SEP] s2 [SEP] ... [SEP], sentences of one document, no labels.

Masking is dynamic and so not stored. A corpus folder holds, per shard of articles and per split, one Arrow IPC file
(`train-00000.arrow`, `validation-00000.arrow`); `token_counts.npy`; and, written last, `manifest.json`. It holds no
clock, and every random draw comes from (seed, shard, document): the same parameters give the same bytes, whatever the
number of workers.
"""

from __future__ import annotations

import functools
import itertools
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pruneonce import files
from pruneonce.data import articles as articles_folder
from pruneonce.data import building
from pruneonce.data.executor import ordered_map
from pruneonce.data.sentences import split_sentences
from pruneonce.errors import OtherInputsError, PruneonceError, UsageError
from pruneonce.models.tokenizer import load_tokenizer, special_token_ids

FORMAT = "pruneonce-corpus"
VERSION = 1
SPLITS = ("train", "validation")
_KEYS = ("parameters", "vocab_size", "splits", "shards")
_MADE = (*(f"{split}-[0-9][0-9][0-9][0-9][0-9].arrow" for split in SPLITS), "token_counts.npy", "manifest.json")
EXAMPLES_PER_BATCH = 1024  # of an Arrow record batch: about 1 MB at 512 tokens
NO_LABEL = -1


class Example(NamedTuple):
    """One pre-training example, special tokens included, without padding or masking."""

    input_ids: NDArray[np.int64]  # [tokens]
    segment_b_start: int  # index of B's first token; `tokens` when there is no B
    next_sentence_label: int  # 0: B follows A; 1: B is random (as in transformers); -1: the layout has no pairs


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
        if self.layout not in _LAYOUTS:
            raise UsageError(f"layout must be one of {', '.join(_LAYOUTS)}; got '{self.layout}'")
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
    workers: int = 1,
    on_progress: articles_folder.Progress = articles_folder.no_progress,
) -> articles_folder.Outcome:
    """Turn the articles folder `articles` into the corpus folder `out`.

    tokenizer: model folder or Hub id.
    layout: "segment_pair_nsp" or "document_sentences".
    max_tokens: longest example, special tokens included.
    short_sequence_probability: of a document being cut into examples of a random, smaller length.
    random_next_probability: of B coming from another document.
    validation_fraction: expected share of documents held out; see `_validation_threshold`.

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
        return articles_folder.Outcome(finished, time.perf_counter() - started, reused=True)
    building.claim(out, identity, _MADE, resumable=True)
    vocabulary = _Vocabulary.of(loaded)
    threshold = _validation_threshold(source, validation_fraction, seed)
    jobs = (
        _Job(source / shard["file"], out, index, parameters, threshold, tokenizer_json, vocabulary)
        for index, shard in enumerate(source_manifest["shards"])
    )
    shards, token_counts = _run(jobs, source_manifest, vocabulary, workers, on_progress)
    manifest = {**identity, "vocab_size": vocabulary.size, "splits": _totals(shards), "shards": shards}
    if not manifest["splits"]["train"]["examples"]:
        raise PruneonceError(f"{articles} gives no training example: it needs documents of two sentences or more")
    with files.replacing(out / "token_counts.npy") as temporary, open(temporary, "wb") as stream:
        np.save(stream, token_counts)
    files.write_json(out / "manifest.json", manifest)
    building.release(out)
    return articles_folder.Outcome(manifest, time.perf_counter() - started, reused=False)


def _finished(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest in `out` if it was made with these parameters, None if there is none; else UsageError."""
    path = out / "manifest.json"
    if not path.exists():
        return None
    manifest = articles_folder.check_manifest(
        files.read_json(path), path, format_name=FORMAT, version=VERSION, keys=_KEYS
    )
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
    workers: int,
    on_progress: articles_folder.Progress,
) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """Do the jobs: the manifest's entries of all shards, and the train split's token counts, int64 [vocabulary]."""
    shards: list[dict[str, Any]] = []
    token_counts = np.zeros(vocabulary.size, np.int64)
    done, total = 0, source_manifest["articles"]
    on_progress(done, total, "documents")
    results = ordered_map(_build_shard, jobs, workers=min(workers, len(source_manifest["shards"])))
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
    def dtype(self) -> type[np.uint16] | type[np.int32]:
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


class _Document(NamedTuple):
    """A tokenised document: `tokens[bounds[i] : bounds[i + 1]]` is its sentence i, never empty."""

    number: int  # within its shard of articles, counted before any split or shuffle
    tokens: NDArray[np.int32]  # [tokens]
    bounds: list[int]  # [sentences + 1]

    @property
    def sentences(self) -> int:
        return len(self.bounds) - 1

    def span(self, start: int, stop: int) -> NDArray[np.int32]:
        """Tokens of the sentences start ... stop - 1."""
        return self.tokens[self.bounds[start] : self.bounds[stop]]


def _build_shard(job: _Job) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """Write the shard's files unless a killed run already did; their manifest entries and train token counts."""
    if not all(job.target(split).exists() for split in SPLITS):
        split_documents = _read_documents(job)
        for split in SPLITS:
            _write_split(job, split, split_documents[split])
    entries = [_entry(job.target(split), split) for split in SPLITS]
    return entries, _count_tokens(job.target("train"), job.vocabulary)


def _read_documents(job: _Job) -> dict[str, list[_Document]]:
    """The shard's documents that have a token, by split, each in shuffled order."""
    tokenizer = _tokenizer(job.tokenizer_json)
    documents: dict[str, list[_Document]] = {split: [] for split in SPLITS}
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


def _tokenize(tokenizer: Tokenizer, number: int, text: str) -> _Document:
    encodings = tokenizer.encode_batch_fast(split_sentences(text), add_special_tokens=False)
    sentences = [encoding.ids for encoding in encodings if len(encoding)]
    bounds = list(itertools.accumulate(map(len, sentences), initial=0))
    return _Document(number, np.fromiter(itertools.chain.from_iterable(sentences), np.int32, bounds[-1]), bounds)


def _generator(seed: int, *key: int) -> np.random.Generator:
    """Random numbers that depend on (seed, key) alone. NumPy keeps the bit stream across versions, not the draws."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


# ---------------------------------------------------------------------------------------------- documents to examples


def _segment_pairs(
    documents: Sequence[_Document], position: int, rng: np.random.Generator, job: _Job
) -> Iterator[tuple[NDArray[Any], int, int]]:
    """Examples of `documents[position]` as (ids, segment_b_start, label).

    Sentences are gathered until they reach the target length, and cut at a random sentence into A and B. B is replaced
    by a run of sentences of another document of this shard and split with `random_next_probability`, or always when A
    is the only sentence; what B would have been is put back. Where there is no other document, B is always the actual
    next, and a sentence without a next is dropped.
    """
    document = documents[position]
    budget = job.parameters.max_tokens - 3
    target = _target_tokens(budget, rng, job.parameters)
    start = 0
    while start < document.sentences:
        stop = _reach(document, start, target)
        if len(documents) == 1:
            stop = max(stop, min(start + 2, document.sentences))  # B can only be the next sentence
        cut = start + int(rng.integers(1, stop - start)) if stop - start > 1 else stop
        a = document.span(start, cut)
        is_random = cut == stop or rng.random() < job.parameters.random_next_probability
        if is_random and len(documents) > 1:
            other = documents[_another(len(documents), position, rng)]
            first = int(rng.integers(other.sentences))
            b = other.span(first, _reach(other, first, target - len(a)))
            start = cut
        elif cut < stop:
            b = document.span(cut, stop)
            is_random = False
            start = stop
        else:
            return  # one sentence is left, and no other document to draw from
        yield _pair(*_truncate(a, b, budget), int(is_random), job.vocabulary)


def _target_tokens(budget: int, rng: np.random.Generator, parameters: _Parameters) -> int:
    """Tokens at which a document's examples are full: `budget`, or now and then any number from 2 to it."""
    is_short = rng.random() < parameters.short_sequence_probability
    return int(rng.integers(2, budget + 1)) if is_short else budget


def _reach(document: _Document, start: int, tokens: int) -> int:
    """The least stop > start such that sentences start ... stop - 1 have `tokens` tokens, or the document's end."""
    bounds = document.bounds
    stop = start + 1
    while stop < document.sentences and bounds[stop] - bounds[start] < tokens:
        stop += 1
    return stop


def _another(count: int, position: int, rng: np.random.Generator) -> int:
    """Uniform in 0 ... count - 1 without `position`."""
    drawn = int(rng.integers(count - 1))
    return drawn + (drawn >= position)


def _truncate(a: NDArray[Any], b: NDArray[Any], budget: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Drop tokens one by one from the end of the longer (of b when equal) until both fit: "longest_first"."""
    if len(a) + len(b) <= budget:
        return a, b
    b_tokens = budget // 2
    if min(len(a), len(b)) <= b_tokens:
        b_tokens = len(b) if len(b) <= len(a) else budget - len(a)
    return a[: budget - b_tokens], b[:b_tokens]


def _pair(a: NDArray[Any], b: NDArray[Any], label: int, vocabulary: _Vocabulary) -> tuple[NDArray[Any], int, int]:
    ids = np.concatenate([[vocabulary.cls], a, [vocabulary.sep], b, [vocabulary.sep]])
    return ids, len(a) + 2, label


def _document_sentences(
    documents: Sequence[_Document], position: int, rng: np.random.Generator, job: _Job
) -> Iterator[tuple[NDArray[Any], int, int]]:
    """Examples of `documents[position]` as (ids, number of ids, NO_LABEL): whole sentences joined by [SEP].

    A sentence longer than the maximum is cut into pieces. One longer than a short document's target stays whole.
    """
    budget = job.parameters.max_tokens - 2
    target = _target_tokens(budget, rng, job.parameters)
    packed: list[NDArray[Any]] = []
    tokens = 0  # of `packed` joined, which has a [SEP] between any two
    for piece in _pieces(documents[position], budget):
        if packed and tokens + 1 + len(piece) > target:
            yield _joined(packed, job.vocabulary)
            packed, tokens = [], 0
        tokens += len(piece) + (1 if packed else 0)
        packed.append(piece)
    yield _joined(packed, job.vocabulary)


def _pieces(document: _Document, longest: int) -> Iterator[NDArray[np.int32]]:
    for start, stop in itertools.pairwise(document.bounds):
        for first in range(start, stop, longest):
            yield document.tokens[first : min(first + longest, stop)]


def _joined(pieces: Sequence[NDArray[Any]], vocabulary: _Vocabulary) -> tuple[NDArray[Any], int, int]:
    separator = [vocabulary.sep]
    ids = np.concatenate([[vocabulary.cls], *itertools.chain.from_iterable((piece, separator) for piece in pieces)])
    return ids, len(ids), NO_LABEL


_Layout = Callable[[Sequence[_Document], int, np.random.Generator, _Job], Iterator[tuple[NDArray[Any], int, int]]]
_LAYOUTS: dict[str, _Layout] = {"segment_pair_nsp": _segment_pairs, "document_sentences": _document_sentences}


def _examples(job: _Job, documents: Sequence[_Document]) -> Iterator[tuple[NDArray[Any], int, int]]:
    layout = _LAYOUTS[job.parameters.layout]
    for position, document in enumerate(documents):
        rng = _generator(job.parameters.seed, job.index, document.number)
        yield from layout(documents, position, rng, job)


# --------------------------------------------------------------------------------------------------------- Arrow files


def _write_split(job: _Job, split: str, documents: Sequence[_Document]) -> None:
    # The count is there so that a shard can be listed without being rebuilt.
    schema = _schema(job.vocabulary.dtype).with_metadata({"documents": str(len(documents))})
    examples = _examples(job, documents)
    with files.replacing(job.target(split)) as temporary, pa.ipc.new_file(str(temporary), schema) as writer:
        while rows := list(itertools.islice(examples, EXAMPLES_PER_BATCH)):
            writer.write_batch(_record_batch(rows, schema, job.vocabulary))


def _record_batch(rows: list[tuple[NDArray[Any], int, int]], schema: pa.Schema, vocabulary: _Vocabulary) -> Any:
    ids, starts, labels = zip(*rows, strict=True)
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int32)
    values = np.concatenate(ids).astype(vocabulary.dtype)
    columns = [
        pa.ListArray.from_arrays(offsets, values),
        pa.array(np.array(starts, np.int32)),
        pa.array(np.array(labels, np.int8)),
    ]
    return pa.record_batch([column.cast(field.type) for column, field in zip(columns, schema, strict=True)], schema)


class _Block(NamedTuple):
    """One record batch as numpy views of the mapped file."""

    ids: NDArray[Any]  # [tokens of all examples], uint16 or int32
    offsets: NDArray[np.int32]  # [examples + 1]
    segment_b_starts: NDArray[np.int32]  # [examples]
    labels: NDArray[np.int8]  # [examples]


def _read_blocks(path: Path) -> tuple[list[_Block], dict[bytes, bytes]]:
    """Views of a shard's record batches, and its schema's metadata. The views keep the mapping alive."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema.remove_metadata() not in (_schema(np.uint16), _schema(np.int32)):
            columns = ", ".join(f"{field.name}: {field.type}" for field in reader.schema)
            raise pa.ArrowInvalid(f"its columns are {columns}")
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)  # lengths and offsets in the file are believed by everything else
    except (OSError, pa.ArrowException) as error:
        raise PruneonceError(f"{path} cannot be read ({error}): delete the corpus folder and build it again") from error
    return [_block(batch) for batch in batches], reader.schema.metadata


def _schema(token_type: Any) -> pa.Schema:
    return pa.schema(
        [
            ("input_ids", pa.list_(pa.from_numpy_dtype(token_type))),
            ("segment_b_start", pa.int32()),
            ("next_sentence_label", pa.int8()),
        ]
    )


def _block(batch: Any) -> _Block:
    lists = batch.column(0)
    return _Block(lists.values.to_numpy(), lists.offsets.to_numpy(), *(batch.column(i).to_numpy() for i in (1, 2)))


def _entry(path: Path, split: str) -> dict[str, Any]:
    blocks, metadata = _read_blocks(path)
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
    for block in _read_blocks(path)[0]:
        counts += np.bincount(block.ids, minlength=vocabulary.size)
    counts[[vocabulary.cls, vocabulary.sep]] = 0
    return counts


# ------------------------------------------------------------------------------------------------------------- reading


class Corpus:
    """One split of a finished corpus folder: random access through memory maps. Picklable; a worker reopens it."""

    def __init__(self, folder: str | Path, split: str) -> None:
        """Open `split` ("train" or "validation"); PruneonceError when it is not whole or has no example."""
        self.folder, self.split = Path(folder), split
        self.manifest = _read_manifest(self.folder)
        if split not in SPLITS:
            raise UsageError(f"split must be one of {', '.join(SPLITS)}; got '{split}'")
        entries = [entry for entry in self.manifest["shards"] if entry["split"] == split]
        self._blocks = [block for entry in entries for block in _checked_blocks(self.folder, entry)]
        self._starts = list(itertools.accumulate((len(block.labels) for block in self._blocks), initial=0))
        if not len(self):
            raise UsageError(f"corpus {folder} has no {split} examples")

    @property
    def layout(self) -> str:
        """ "segment_pair_nsp" or "document_sentences"."""
        return str(self.manifest["parameters"]["layout"])

    @property
    def vocab_size(self) -> int:
        """Every id is below this."""
        return int(self.manifest["vocab_size"])

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds those of the shards: equal for equal corpora on any machine."""
        return files.sha256_json(self.manifest)

    @functools.cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each example, special tokens included: int32 [examples]."""
        return np.concatenate([np.diff(block.offsets) for block in self._blocks])

    @functools.cached_property
    def token_counts(self) -> NDArray[np.int64]:
        """Occurrences of each token in the train split, whatever this split: int64 [vocab_size]."""
        counts: NDArray[np.int64] = np.load(self.folder / "token_counts.npy")
        return counts

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        number = bisect_right(self._starts, index) - 1
        block, row = self._blocks[number], index - self._starts[number]
        ids = block.ids[block.offsets[row] : block.offsets[row + 1]].astype(np.int64)
        return Example(ids, int(block.segment_b_starts[row]), int(block.labels[row]))

    def __reduce__(self) -> tuple[type[Corpus], tuple[Path, str]]:
        return Corpus, (self.folder, self.split)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.exists():
        unfinished = (folder / building.FILE_NAME).exists()
        raise UsageError(
            f"{folder} is {'an unfinished' if unfinished else 'not a'} corpus: it has no manifest.json. "
            f"{'Run the command that was building it again' if unfinished else 'Make one with `pruneonce data`'}"
        )
    return _checked(path)


def _checked(manifest: Path) -> dict[str, Any]:
    return articles_folder.check_manifest(
        files.read_json(manifest), manifest, format_name=FORMAT, version=VERSION, keys=_KEYS
    )


def _checked_blocks(folder: Path, entry: dict[str, Any]) -> list[_Block]:
    """A shard's blocks, once its size and number of examples are what the manifest says."""
    path = folder / entry["file"]
    size = path.stat().st_size if path.exists() else 0
    if size != entry["bytes"]:
        raise PruneonceError(f"{path} has {size} bytes, its manifest says {entry['bytes']}: copy or build it again")
    blocks, _ = _read_blocks(path)
    examples = sum(len(block.labels) for block in blocks)
    if examples != entry["examples"]:
        raise PruneonceError(f"{path} has {examples} examples, its manifest says {entry['examples']}: build it again")
    return blocks
