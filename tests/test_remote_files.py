"""Files of an object store read and written by URL, against an S3 on this machine; rows that hold no text set aside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from pruneonce import remote_files
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.run.embed_file import embed_file
from pruneonce.run.pipelines import pipeline
from pruneonce.run.predict_file import predict_file

TEXTS = ["a good film", "the old city", "bad water", "king of the north", "a house", "great music by the river"]


def jsonl(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of botocore's and aiohttp's own
def test_what_is_read_from_s3_and_written_there_is_what_local_files_give(s3, packed_files, tmp_path, pruneonce):
    for part in (0, 1):
        s3.pipe_file(f"texts/in/part-{part}.jsonl", jsonl(TEXTS[3 * part : 3 * part + 3]))
    (tmp_path / "all.jsonl").write_bytes(jsonl(TEXTS))
    vectors, classes = packed_files / "vectors.pruneonce", packed_files / "classes.pruneonce"
    source = "s3://texts/in/part-*.jsonl"
    code, out, err = pruneonce("embed", vectors, "--input", source, "--output", "s3://texts/out/v.npy", "--json")
    assert (code, json.loads(out or "{}")) == (0, {"file": "s3://texts/out/v.npy", "texts": 6, "size": 32}), err
    embed_file(pipeline("embeddings", vectors), tmp_path / "all.jsonl", tmp_path / "v.npy")
    assert s3.cat_file("texts/out/v.npy") == (tmp_path / "v.npy").read_bytes()
    code, _, err = pruneonce("predict", classes, "--input", source, "--output", "s3://texts/out/a.jsonl")
    assert code == 0, err
    predict_file(pipeline(None, classes), tmp_path / "all.jsonl", tmp_path / "a.jsonl")
    assert s3.cat_file("texts/out/a.jsonl") == (tmp_path / "a.jsonl").read_bytes()
    # What is not there is one line, and so is a bucket that is not.
    for missing in ("s3://texts/in/none.jsonl", "s3://nowhere/a.jsonl", "s3://texts/none-*.jsonl"):
        code, _, err = pruneonce("embed", vectors, "--input", missing, "--output", tmp_path / "n.npy")
        assert (code in (1, 2), err.count("\n")) == (True, 1), err
        assert missing in err
        assert not (tmp_path / "n.npy").exists()
    # A run that fails leaves nothing there.
    s3.pipe_file("texts/bad.jsonl", jsonl(TEXTS) + b"{]\n")
    code, _, err = pruneonce("embed", vectors, "--input", "s3://texts/bad.jsonl", "--output", "s3://texts/out/bad.npy")
    assert code == 1
    assert "s3://texts/bad.jsonl, line 7" in err
    assert "texts/out/bad.npy" not in s3.find("texts/out", withdirs=False)


POISON = b'{"text": 5}\n{"other": "x"}\n[1]\nnot json\n{"text": "\xff"}\n{"text": "\\ud800"}\n'


def test_rows_that_hold_no_text_go_to_the_errors_and_move_no_other(packed_files, tmp_path, monkeypatch):
    from pruneonce.run import embed_file as module

    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 4)
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS[:2]) + POISON + jsonl(TEXTS[2:]))
    (tmp_path / "good.jsonl").write_bytes(jsonl(TEXTS))
    embeddings = pipeline("embeddings", packed_files / "vectors.pruneonce")
    with pytest.raises(PruneonceError, match="line 3"):
        embed_file(embeddings, tmp_path / "a.jsonl", tmp_path / "v.npy")
    assert not (tmp_path / "v.npy").exists()
    errors = tmp_path / "errors.jsonl"
    written = embed_file(embeddings, tmp_path / "a.jsonl", tmp_path / "v.npy", errors=errors)
    assert written == (12, 32, 6)
    embed_file(embeddings, tmp_path / "good.jsonl", tmp_path / "good.npy")
    vectors, good = np.load(tmp_path / "v.npy"), np.load(tmp_path / "good.npy")
    assert np.isnan(vectors[2:8]).all()
    np.testing.assert_array_equal(np.delete(vectors, range(2, 8), 0), good)
    said = [json.loads(line)["error"] for line in errors.read_text().splitlines()]
    assert [f"line {number}" in line for number, line in enumerate(said, start=3)] == [True] * 6

    parquet = pytest.importorskip("pyarrow.parquet")
    embed_file(embeddings, tmp_path / "a.jsonl", tmp_path / "v.parquet", errors=errors, keep=["text"])
    table = parquet.read_table(tmp_path / "v.parquet").to_pydict()
    assert [vector is None for vector in table["embedding"]] == [False] * 2 + [True] * 6 + [False] * 4
    assert [text for text in table["text"] if text is not None] == TEXTS

    classes = pipeline(None, packed_files / "classes.pruneonce")
    assert predict_file(classes, tmp_path / "a.jsonl", tmp_path / "a.out.jsonl", errors=errors) == (12, 6)
    lines = [json.loads(line) for line in (tmp_path / "a.out.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [*TEXTS[:2], *[None] * 6, *TEXTS[2:]]
    assert [line["answer"] for line in lines if line["text"]] == classes(TEXTS)


def test_a_file_of_bad_rows_alone_is_an_error_and_leaves_nothing(packed_files, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(POISON)
    embeddings = pipeline("embeddings", packed_files / "vectors.pruneonce")
    with pytest.raises(PruneonceError, match="holds no texts"):
        embed_file(embeddings, tmp_path / "a.jsonl", tmp_path / "v.npy", errors=tmp_path / "e.jsonl")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl"]


def test_patterns_take_local_files_in_order_and_one_that_fits_none_is_an_error(packed_files, tmp_path):
    for part in (1, 0):
        (tmp_path / f"p-{part}.txt").write_text("".join(f"{text}\n" for text in TEXTS[3 * part : 3 * part + 3]))
    (tmp_path / "all.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    embeddings = pipeline("embeddings", packed_files / "vectors.pruneonce")
    assert embed_file(embeddings, tmp_path / "p-*.txt", tmp_path / "a.npy").texts == 6
    embed_file(embeddings, tmp_path / "all.txt", tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    with pytest.raises(UsageError, match="no such file"):
        embed_file(embeddings, tmp_path / "q-*.txt", tmp_path / "c.npy")
    (tmp_path / "p-2.txt").write_bytes(b"\xff\n")
    with pytest.raises(PruneonceError, match=r"p-2\.txt, line 1"):
        embed_file(embeddings, tmp_path / "p-*.txt", tmp_path / "c.npy")


@pytest.mark.parametrize("url", ["github://o:r@main/a.jsonl", "simplecache::s3://b/a", "reference://a", "ssh://h/a"])
def test_protocols_that_run_programs_or_follow_files_are_none_of_ours(url):
    assert not remote_files.is_url(url)


def test_what_a_killed_process_had_not_sent_goes_with_the_next_start(tmp_path, monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = """if True:
        import os, signal
        from pruneonce.remote_files import delivered

        with delivered("memory://out/a.txt") as place:
            place.write_text("half of it")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert [file.read_text() for file in left.iterdir()] == ["half of it"]
    os.utime(left, (0, 0))  # what was only just made may be another command's
    with remote_files.delivered("memory://kept/b.txt") as place:
        place.write_text("whole")
        assert not left.exists()
        os.utime(place.parent, (0, 0))
        with remote_files.fetched(f"file://{place}") as again:  # what is held stays, however old it is
            assert again.read_text() == "whole"
    assert not list(tmp_path.iterdir())


def test_what_is_sent_is_whole_and_a_failure_sends_nothing(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    with remote_files.delivered("memory://out/a.txt") as place:
        place.write_text("whole")
    assert fsspec.filesystem("memory").cat_file("/out/a.txt") == b"whole"

    def stop_halfway():
        with remote_files.delivered("memory://out/b.txt") as place:
            place.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stop_halfway()
    assert not fsspec.filesystem("memory").exists("/out/b.txt")
    with remote_files.delivered(f"file://{tmp_path}/new/c.txt") as place:
        place.write_text("whole")
    assert (tmp_path / "new/c.txt").read_text() == "whole"
    with remote_files.fetched(f"file://{tmp_path}/new/c.txt") as place:
        assert place.read_text() == "whole"
    with pytest.raises(PruneonceError, match="does not exist"), remote_files.fetched("memory://out/none.txt"):
        pass
