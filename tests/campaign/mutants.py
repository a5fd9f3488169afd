"""Mutated files: whoever reads one refuses it in one line, or answers, the same however often it is asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_format import NUMBERS, change_something, flip_bits, mutate, sample_model, use

from campaign.case import Case
from campaign.models import TEXTS, TINY, made, make_tiny
from pruneonce import _native
from pruneonce.convert.inspect import inspect
from pruneonce.convert.to_onnx import export_onnx
from pruneonce.convert.to_packed import export_packed
from pruneonce.data import articles
from pruneonce.data import text as text_files
from pruneonce.data.build import build
from pruneonce.data.corpus import Corpus
from pruneonce.errors import PruneonceError
from pruneonce.evaluation import predictions
from pruneonce.evaluation.predictions import Split, read_predictions, write_predictions
from pruneonce.files import write_json
from pruneonce.formats import record, scales_file
from pruneonce.formats.packed_file import read_packed, write_packed
from pruneonce.formats.record import Provenance, read_provenance
from pruneonce.recipe import load_recipes, recipes_folder, stage_of
from pruneonce.run.model import load_model
from pruneonce.run.pipelines import pipeline
from pruneonce.study.index import StudyIndex, read_study
from pruneonce.study.plan import make_plan
from pruneonce.study.recipe import load_study
from pruneonce.tasks.table import read_table

REFUSED, ANSWERED = "refused", "answered"
GIB = 1 << 30


def refused_or(answer: Callable[[], object]) -> str:
    """What became of a file; AssertionError for a refusal of several lines."""
    try:
        answer()
    except PruneonceError as error:
        if "\n" in str(error):
            raise
        return REFUSED
    return ANSWERED


def written(folder: Path, name: str, raw: bytes) -> Path:
    """A new file: an older mapping of the last one may still be alive."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.unlink(missing_ok=True)
    file.write_bytes(raw)
    return file


# ------------------------------------------------------------------------------------------------- the reader


def _sample(scratch: Path) -> tuple[Path, bytes]:
    write_packed(scratch / "sample.pruneonce", sample_model())
    return scratch, (scratch / "sample.pruneonce").read_bytes()


def _read(given: tuple[Path, bytes], seed: int) -> str:
    scratch, raw = given
    file = written(scratch, "mutant.pruneonce", mutate(raw, np.random.default_rng(seed)))
    return refused_or(lambda: use(read_packed(file)))


# ------------------------------------------------------------------------------------------------- the engine


def _tiny_files(scratch: Path) -> tuple[Path, list[bytes]]:
    folder = made(scratch.parent / "tiny", make_tiny)
    return scratch, [(folder / f"{name}.pruneonce").read_bytes() for name in TINY]


def mutate_model(raw: bytes, generator: np.random.Generator) -> bytes:
    """As `mutate`, but mostly so that the reader lets it through: weights, config and tokenizer are what it changes."""
    choice = generator.random()
    if choice < 0.1:
        return mutate(raw, generator)
    length = int.from_bytes(raw[:8], "little")
    if choice < 0.4:
        return raw[: 8 + length] + flip_bits(raw[8 + length :], generator)
    header = json.loads(raw[8 : 8 + length])
    if choice < 0.5:  # two tensors of one type change places
        names = [name for name in header if name != "__metadata__"]
        one, two = generator.choice(names, 2)
        header[one], header[two] = header[two], header[one]
    else:
        part = "config.json" if choice < 0.9 else "tokenizer.json"
        value = json.loads(header["__metadata__"][part])
        for _ in range(generator.integers(1, 3)):
            change_something(value, generator)
        header["__metadata__"][part] = json.dumps(value)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + raw[8 + length :]


def answer(file: Path, isa: str, kernels: Any) -> None:
    """Ask a packed file twice, of two texts and of one; AssertionError if what it says of a text differs."""
    model = load_model(file, isa=isa, kernels=kernels)
    ask = pipeline(None, model)
    if model.task == "question-answering":
        together, alone = (
            ask([{"question": "which city?", "context": text} for text in some]) for some in (TEXTS, TEXTS[1:])
        )
    elif model.task == "fill-mask":
        together, alone = (ask([f"{text} [MASK]" for text in some]) for some in (TEXTS, TEXTS[1:]))
        alone = [alone]
    elif model.task == "feature-extraction":
        together, alone = (ask(list(some), pooling="mean").tolist() for some in (TEXTS, TEXTS[1:]))
    else:
        together, alone = (ask(list(some)) for some in (TEXTS, TEXTS[1:]))
    assert repr(together[1:]) == repr(alone), "a text is answered otherwise beside another"


def _engine(isa: str) -> Callable[[tuple[Path, list[bytes]], int], str]:
    def attempt(given: tuple[Path, list[bytes]], seed: int) -> str:
        scratch, files = given
        file = written(scratch, "mutant.pruneonce", mutate_model(files[seed % len(files)], np.random.default_rng(seed)))
        with np.errstate(all="ignore"):
            return refused_or(lambda: answer(file, isa, ("sparse", "dense")[seed % 2]))

    return attempt


# ------------------------------------------------------------------------------------------------- folders


def mutate_text(raw: bytes, generator: np.random.Generator) -> bytes:
    """JSON with other values in it, or any file with other bytes."""
    if generator.random() < 0.6:
        try:
            value = json.loads(raw)
            change_something(value, generator)
            return json.dumps(value).encode()
        except ValueError:
            pass
    return mutate(raw, generator)


def _mutated_copy(source: Path, target: Path, generator: np.random.Generator) -> Path:
    """`target` becomes a copy of a folder, one of whose files is mutated."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    files = sorted(file for file in target.iterdir() if file.is_file() and file.suffix != ".md")
    file = files[generator.integers(len(files))]
    written(target, file.name, mutate_text(file.read_bytes(), generator))
    return target


def _tiny_folders(scratch: Path) -> tuple[Path, list[Path]]:
    folder = made(scratch.parent / "tiny", make_tiny)
    return scratch, [folder / name for name in TINY]


def _pack(given: tuple[Path, list[Path]], seed: int) -> str:

    scratch, folders = given
    folder = _mutated_copy(folders[seed % len(folders)], scratch / "mutant", np.random.default_rng(seed))

    def pack() -> None:
        inspect(folder)
        export_packed(folder, scratch / "mutant.pruneonce")
        use(read_packed(scratch / "mutant.pruneonce"))

    return refused_or(pack)


def _corpus(scratch: Path) -> tuple[Path, Path]:

    tiny, notes = made(scratch.parent / "tiny", make_tiny), scratch / "notes.txt"
    if not (scratch / "corpus" / "manifest.json").exists():
        scratch.mkdir(parents=True, exist_ok=True)
        notes.write_text("\n\n".join("The old city was great. A good film. " * 9 for _ in range(40)))
        text_files.collect([notes], scratch / "articles")
        build(
            scratch / "articles",
            scratch / "corpus",
            tokenizer=tiny / "classes",
            layout="segment_pair_nsp",
            max_tokens=32,
        )
    return scratch, scratch / "corpus"


def _open_corpus(given: tuple[Path, Path], seed: int) -> str:

    scratch, source = given
    folder = _mutated_copy(source, scratch / "mutant", np.random.default_rng(seed))

    def read() -> None:
        corpus = Corpus(folder, ("train", "validation")[seed % 2])
        examples = [corpus[index] for index in range(min(len(corpus), 50))]
        assert [len(example.input_ids) for example in examples] == corpus.lengths[: len(examples)].tolist()
        assert corpus.token_counts is not None

    return refused_or(read)


def _to_onnx(given: tuple[Path, list[Path]], seed: int) -> str:
    scratch, folders = given
    folder = _mutated_copy(folders[seed % len(folders)], scratch / "mutant", np.random.default_rng(seed))

    def write() -> None:
        export_onnx(folder, scratch / "mutant.onnx")
        onnxruntime.InferenceSession(str(scratch / "mutant.onnx"))

    return refused_or(write)


def _articles(scratch: Path) -> tuple[Path, Path]:
    _corpus(scratch)
    return scratch, scratch / "articles"


def _read_articles(given: tuple[Path, Path], seed: int) -> str:
    scratch, source = given
    folder = _mutated_copy(source, scratch / "mutant", np.random.default_rng(seed))
    return refused_or(lambda: list(articles.read(folder)))


def _scales(scratch: Path) -> tuple[Path, bytes]:
    folder = made(scratch.parent / "tiny", make_tiny) / "int8"
    return scratch, (folder / scales_file.FILE_NAME).read_bytes()


def _read_scales(given: tuple[Path, bytes], seed: int) -> str:
    scratch, raw = given
    written(scratch, scales_file.FILE_NAME, mutate(raw, np.random.default_rng(seed)))

    def read() -> None:
        for layer in (scales_file.read_quantization(scratch) or {}).values():
            layer.check()

    return refused_or(read)


# ------------------------------------------------------------------------------------------ recipes and records


def mutate_toml(raw: bytes, generator: np.random.Generator) -> bytes:
    """Other bytes, or a line less, twice, or with another value."""
    if generator.random() < 0.2:
        return flip_bits(raw, generator)
    lines = raw.decode().splitlines()
    at = generator.integers(len(lines))
    choice = generator.random()
    if choice < 0.1:
        del lines[at]
    elif choice < 0.2:
        lines.insert(generator.integers(len(lines)), lines[at])
    else:
        given = [number for number, line in enumerate(lines) if "=" in line and not line.startswith("#")]
        at = given[generator.integers(len(given))]
        value = json.dumps(NUMBERS[generator.integers(len(NUMBERS))]).replace("null", '"null"')
        lines[at] = f"{lines[at].partition('=')[0]}= {value}"
    return "\n".join(lines).encode()


def _recipes(scratch: Path) -> tuple[Path, list[tuple[str, bytes]]]:
    """Each with its stage."""
    files = sorted(recipes_folder().glob("*/*.toml"))
    return scratch, [
        ("study" if file.parent.name == "studies" else stage_of(file), file.read_bytes())
        for file in files
        if b"extends" not in file.read_bytes()
    ]


def _read_recipe(given: tuple[Path, list[tuple[str, bytes]]], seed: int) -> str:
    scratch, files = given
    stage, raw = files[seed % len(files)]
    file = written(scratch, "recipe.toml", mutate_toml(raw, np.random.default_rng(seed)))
    if stage == "study":
        return refused_or(lambda: make_plan(load_study(file), scratch / "out"))
    return refused_or(lambda: load_recipes(file, stage))


def _records(scratch: Path) -> tuple[Path, list[tuple[str, bytes, Callable[[Path], object]]]]:
    """Of a run, its predictions, and a study; each with its reader."""
    scratch.mkdir(parents=True, exist_ok=True)
    Provenance("prune", {"model": "m"}, {"model": "0"}, 1, 2, {"loss": 1.5}, {"layer": 0.9}, {"layer": "0"}).write(
        scratch
    )
    write_predictions(scratch, "sst2", {"": Split("0", ("accuracy",), {"label": [0, 1, 1], "predicted": [0, 1, 0]})})
    cell = {"method": "once", "sparsity": 0.9, "task": "sst2", "seed": 1, "chain": ["prune-1", "locked-1"]}
    runs = {name: {"stage": "prune", "steps": 4, "examples": 9} for name in cell["chain"]}
    index = StudyIndex("s", "ours", "once", "", {"once": "Once"}, ("sst2",), [cell], runs)
    write_json(scratch / "s.study.json", asdict(index))
    readers = {
        record.FILE_NAME: lambda file: read_provenance(file.parent),
        predictions.FILE_NAME: lambda file: read_predictions(file.parent),
        "s.study.json": read_study,
    }
    return scratch, [(name, (scratch / name).read_bytes(), read) for name, read in readers.items()]


def _read_record(given: tuple[Path, list[tuple[str, bytes, Callable[[Path], object]]]], seed: int) -> str:
    scratch, files = given
    name, raw, read = files[seed % len(files)]
    file = written(scratch, name, mutate_text(raw, np.random.default_rng(seed)))
    return refused_or(lambda: read(file))


def _tables(scratch: Path) -> tuple[Path, list[tuple[str, bytes]]]:

    rows = [{"text": f'text {number}, of "a" film', "label": ("yes", "no")[number % 2]} for number in range(20)]
    scratch.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), scratch / "rows.parquet")
    lines = "\n".join(map(json.dumps, rows))
    csv = "text,label\n" + "\n".join(f'"{row["text"].replace(chr(34), chr(34) * 2)}",{row["label"]}' for row in rows)
    tsv = "text\tlabel\n" + "\n".join(f"{row['text']}\t{row['label']}" for row in rows)
    texts = {".jsonl": lines, ".json": json.dumps(rows), ".csv": csv, ".tsv": tsv}
    return scratch, [
        (".parquet", (scratch / "rows.parquet").read_bytes()),
        *((suffix, text.encode()) for suffix, text in texts.items()),
    ]


def _read_table(given: tuple[Path, list[tuple[str, bytes]]], seed: int) -> str:

    scratch, files = given
    suffix, raw = files[seed % len(files)]
    file = written(scratch, f"mutant{suffix}", mutate_text(raw, np.random.default_rng(seed)))
    return refused_or(lambda: read_table(file))


ENDS = (REFUSED, ANSWERED)
CASES = [
    Case("packed file, read", "refused, or every array is sound", 640_000, ENDS, _sample, _read, memory_bytes=GIB),
    *(
        Case(
            f"packed file, run with {isa}",
            "refused, or a text is answered the same alone and in company",
            40_000,
            ENDS,
            _tiny_files,
            _engine(isa),
            memory_bytes=4 * GIB,
        )
        for isa in _native.available_isas()
    ),
    Case("model folder, packed", "refused, or the packed file is sound", 20_000, ENDS, _tiny_folders, _pack),
    Case("scales of an int8 folder, read", "refused, or sound", 60_000, ENDS, _scales, _read_scales),
    Case("articles, read", "refused, or read", 20_000, ENDS, _articles, _read_articles),
    Case("corpus, opened", "refused, or every example can be read", 20_000, ENDS, _corpus, _open_corpus),
    Case("table, read", "refused, or read", 80_000, ENDS, _tables, _read_table),
    Case("recipe, read", "refused, or read; a study also planned", 60_000, ENDS, _recipes, _read_recipe),
    Case("record, read", "refused, or read", 60_000, ENDS, _records, _read_record),
    Case("model folder, written as ONNX", "refused, or ONNX Runtime loads it", 200, ENDS, _tiny_folders, _to_onnx, 300),
]
