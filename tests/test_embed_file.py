"""`pruneonce embed`: vectors of a file's texts into a file, whatever its form and length."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import pruneonce as library
from pruneonce.convert.to_packed import export_packed
from pruneonce.run import embed_file as module

TEXTS = ["the king", "", 'a film,\nwith "music"', "zürich\u2028river", "war " * 90, "a\tb"]


@pytest.fixture(scope="module")
def packed(tiny_bert, tmp_path_factory):
    import shutil

    import transformers

    folder = tmp_path_factory.mktemp("encoder")
    transformers.AutoModel.from_pretrained(tiny_bert).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_bert / name, folder / name)
    export_packed(folder, folder / "model.pruneonce")
    return folder / "model.pruneonce"


def write(file, texts):
    if file.suffix == ".jsonl":
        lines = [json.dumps({"n": n, "text": text}) for n, text in enumerate(texts)]
        file.write_text("\n".join(lines) + "\n\n")
    elif file.suffix == ".csv":
        import csv

        with open(file, "w", newline="") as stream:
            csv.writer(stream).writerows([("n", "text"), *enumerate(texts)])
    elif file.suffix == ".parquet":
        import pyarrow as pa

        pq.write_table(pa.table({"n": range(len(texts)), "text": texts}), file)
    elif file.suffix == ".tsv":
        file.write_text("n\ttext\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(texts)))
    else:
        file.write_text("".join(f"{text}\r\n" for text in texts))
    return file


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".txt", ".parquet"])
def test_row_n_is_the_vector_of_text_n(pruneonce, packed, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 4)
    plain = [text for text in TEXTS if not set(text) & set("\n\t")] if suffix in (".tsv", ".txt") else TEXTS
    texts = plain * 3
    source = write(tmp_path / f"texts{suffix}", texts)
    code, output, _ = pruneonce("embed", packed, "--input", source, "--output", tmp_path / "v.npy", "--json")
    assert code == 0
    assert json.loads(output) == {"file": str(tmp_path / "v.npy"), "texts": len(texts), "size": 32}
    vectors = np.load(tmp_path / "v.npy", allow_pickle=False)
    np.testing.assert_array_equal(vectors, library.embed(packed, texts))
    assert isinstance(np.load(tmp_path / "v.npy", mmap_mode="r"), np.memmap)


def test_parquet_keeps_the_columns_that_are_named(pruneonce, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 4)
    source, out = write(tmp_path / "texts.jsonl", TEXTS), tmp_path / "v.parquet"
    code, *_ = pruneonce("embed", packed, "--input", source, "--output", out, "--keep", "n,text", "--dimensions", 8)
    assert code == 0
    table = pq.read_table(out)
    assert table.column_names == ["embedding", "n", "text"]
    assert table["n"].to_pylist() == list(range(len(TEXTS)))
    assert table["text"].to_pylist() == TEXTS
    found = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(found, library.embed(packed, TEXTS, dimensions=8))


def test_standard_input_has_a_text_per_line(pruneonce, packed, tmp_path, monkeypatch):
    import io
    import sys
    from types import SimpleNamespace

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"the king\n\na film")))
    code, output, _ = pruneonce("embed", packed, "--input", "-", "--output", tmp_path / "v.npy", "--normalize")
    assert (code, output) == (0, f"{tmp_path / 'v.npy'}: 3 vectors of 32\n")
    expected = library.embed(packed, ["the king", "", "a film"], normalize=True)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), expected)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("t.jsonl", b'{"text": "a"}\n{"text": 3}\n', (), "line 2: 'text' is int, not a string"),
        ("t.jsonl", b'{"text": "a"}\n{"tex": "b"}\n', (), "line 2 has no column 'text'; it has tex"),
        ("t.jsonl", b'{"text": "a"}\n[1]\n', (), "line 2: expected a JSON object, found list"),
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', (), "line 2: expected one JSON object per line"),
        ("t.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', (), "line 2: the text is not Unicode"),
        ("t.jsonl", b'{"text": "a"}\n\xff\n', (), "line 2: not UTF-8 text"),
        ("t.jsonl", b"", (), "holds no texts"),
        ("t.csv", b"n,text\n1,a\n2\n", (), "line 3: expected 2 fields, found 1"),
        ("t.csv", b'n,text\n1,"a\n', (), "not CSV"),
        ("t.csv", b"n,words\n1,a\n", (), "has no column 'text'; it has n, words"),
        ("t.csv", b"", (), "has no column 'text'; it has none"),
        ("t.parquet", b"PAR1", (), "cannot be read as Parquet"),
        ("t.xml", b"a", (), "cannot tell the format"),
        ("t.txt", None, (), "does not exist"),
        ("t.txt", b"a\n", ("--keep", "n"), "columns are kept in .parquet"),
        ("t.txt", b"a\n", ("--prompt-name", "query"), "prompt_name is 'query': this model has none at all"),
        ("t.txt", b"a\n", ("--dimensions", "33"), "dimensions is 33: a number of 1 to 32"),
        ("t.txt", b"a\n", ("--pooling", "median"), "pooling is 'median'"),
    ],
)
def test_what_cannot_be_embedded_is_one_line_and_nothing_is_written(
    pruneonce, packed, tmp_path, name, content, options, message
):
    source, out = tmp_path / name, tmp_path / "v.npy"
    if content is not None:
        source.write_bytes(content)
    code, _, errors = pruneonce("embed", packed, "--input", source, "--output", out, *options)
    assert code in (1, 2)
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert {file.name for file in tmp_path.iterdir()} <= {name}


def test_other_forms_of_output_are_refused(pruneonce, packed, tmp_path):
    source = write(tmp_path / "t.txt", ["a"])
    code, _, errors = pruneonce("embed", packed, "--input", source, "--output", tmp_path / "v.csv")
    assert (code, errors.count("\n")) == (2, 1)
    assert "vectors are written as .npy or .parquet" in errors


def test_a_column_that_changes_its_type_is_named(pruneonce, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 1)
    source = tmp_path / "t.jsonl"
    source.write_text('{"text": "a", "n": 1}\n{"text": "b", "n": "two"}\n')
    code, _, errors = pruneonce("embed", packed, "--input", source, "--output", tmp_path / "v.parquet", "--keep", "n")
    assert code == 1
    assert "line 2 and the rows after it: 'n' is not of one type" in errors
    assert not (tmp_path / "v.parquet").exists()


def test_predict_prints_an_order_by_a_query_and_vectors(pruneonce, packed, tmp_path):
    code, output, _ = pruneonce("predict", packed, "the king", "--task", "embeddings", "--json")
    assert code == 0
    np.testing.assert_allclose(json.loads(output)["answer"], library.embed(packed, "the king"))
    code, _, errors = pruneonce("predict", packed, "the king", "--task", "embeddings", "--query", "a")
    assert code == 2
    assert "--query is for text-ranking" in errors
