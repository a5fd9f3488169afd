from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruneonce.data import articles, text
from pruneonce.errors import PruneonceError, UsageError


def make(out, pairs, *, version=1, shard_bytes=articles.SHARD_BYTES, skipped=None):
    return articles.make(
        out,
        lambda: (pair for pair in pairs),
        source={"version": version},
        skipped=skipped or {},
        shard_bytes=shard_bytes,
    )


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------------------- the folder


def test_what_is_written_is_read_with_paragraphs_normalised(tmp_path):
    outcome = make(tmp_path / "a", [("T", " one \t two\r\n\n\nthree  "), ("blank", " \n "), ("é", "x")])
    assert list(articles.read(tmp_path / "a")) == [("T", "one two\nthree"), ("é", "x")]
    assert outcome.manifest["articles"] == 2
    assert outcome.manifest["text_bytes"] == len("one two\nthree") + 1
    assert not outcome.reused


def test_shards_are_cut_by_text_bytes_alone(tmp_path):
    pairs = [(str(i), "x" * 10) for i in range(7)]
    manifest = make(tmp_path / "a", pairs, shard_bytes=30).manifest
    assert [shard["articles"] for shard in manifest["shards"]] == [3, 3, 1]
    assert list(articles.read(tmp_path / "a")) == pairs


def test_row_groups_bound_what_the_writer_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(articles, "ROW_GROUP_BYTES", 20)
    make(tmp_path / "a", [(str(i), "x" * 10) for i in range(7)])
    assert pq.ParquetFile(tmp_path / "a" / "articles-00000.parquet").num_row_groups == 4


def test_same_articles_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        make(tmp_path / name, [(str(i), "x" * i) for i in range(1, 50)], shard_bytes=300)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_lone_surrogates_are_replaced_not_a_crash(tmp_path):
    make(tmp_path / "a", [("\ud800", "a \udfff b")])
    assert list(articles.read(tmp_path / "a")) == [("?", "a ? b")]


def test_rerun_with_the_same_source_does_nothing(tmp_path):
    make(tmp_path / "a", [("T", "text")])
    outcome = make(tmp_path / "a", [("other", "never read")])
    assert outcome.reused
    assert list(articles.read(tmp_path / "a")) == [("T", "text")]


def test_folder_of_another_source_is_refused_and_kept(tmp_path):
    make(tmp_path / "a", [("T", "text")])
    with pytest.raises(UsageError, match="other contents or settings"):
        make(tmp_path / "a", [("T", "text")], version=2)
    assert list(articles.read(tmp_path / "a")) == [("T", "text")]


def test_interrupted_run_leaves_nothing_readable_and_is_started_afresh(tmp_path):
    out = tmp_path / "a"

    def interrupted():
        yield "1", "x" * 10
        yield "2", "x" * 10
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        articles.make(out, interrupted, source={}, skipped={}, shard_bytes=10)
    (out / ".articles-00002.parquet.abc.tmp").write_bytes(b"left by a kill")
    with pytest.raises(UsageError, match="not a finished articles folder"):
        list(articles.read(out))
    make(out, [("new", "text")])
    assert sorted(snapshot(out)) == ["articles-00000.parquet", "manifest.json"]


def test_a_run_killed_after_its_last_file_leaves_nothing_once_it_is_found_finished(tmp_path):
    out = tmp_path / "a"
    make(out, [("T", "text")])
    whole = snapshot(out)
    for left in ("building.json", ".lock", ".manifest.json.abcdefgh.tmp"):
        (out / left).write_text("{}")
    assert make(out, [("T", "text")]).reused
    assert snapshot(out) == whole
    (out / ".lock").write_text("")  # killed one step later
    assert make(out, [("T", "text")]).reused
    assert snapshot(out) == whole


def test_a_finished_folder_that_may_not_be_written_is_used_as_it_is(tmp_path, monkeypatch):
    out = tmp_path / "a"
    make(out, [("T", "text")])
    (out / "building.json").write_text("{}")

    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert make(out, [("T", "text")]).reused


def test_own_files_in_the_folder_are_refused_and_kept(tmp_path):
    own = tmp_path / "articles-2024.parquet"
    pq.write_table(pa.table({"text": ["mine"]}), own)
    before = own.read_bytes()
    with pytest.raises(UsageError, match=r"holds other files \(articles-2024\.parquet\)"):
        text.collect([own], tmp_path)
    assert snapshot(tmp_path) == {own.name: before}


def test_only_what_the_killed_run_made_is_deleted(tmp_path):
    def interrupted():
        yield "1", "x"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        articles.make(tmp_path, interrupted, source={}, skipped={})
    (tmp_path / "articles-mine.parquet").write_bytes(b"put here since")
    make(tmp_path, [("new", "text")])
    assert (tmp_path / "articles-mine.parquet").read_bytes() == b"put here since"


def test_folder_that_something_else_is_being_made_in_is_refused(tmp_path):
    (tmp_path / "building.json").write_text('{"format": "pruneonce-corpus"}')
    with pytest.raises(UsageError, match="being filled with something else"):
        make(tmp_path, [("T", "text")])


def test_no_articles_is_an_error_not_an_empty_folder(tmp_path):
    with pytest.raises(PruneonceError, match="no articles"):
        make(tmp_path / "a", [("T", "  ")], skipped={"redirects": 3})
    assert not (tmp_path / "a" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("change", "message"), [({"version": 9}, "version 9"), ({"format": "x"}, "not the manifest")], ids=str
)
def test_manifest_of_another_kind_or_version_is_refused(tmp_path, change, message):
    manifest = make(tmp_path / "a", [("T", "text")]).manifest
    (tmp_path / "a" / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(UsageError, match=message):
        list(articles.read(tmp_path / "a"))


@pytest.mark.parametrize("name", ["../elsewhere.parquet", "/etc/hostname", None])
def test_a_manifest_cannot_have_a_file_of_elsewhere_read(tmp_path, name):
    manifest = make(tmp_path / "a", [("T", "text")]).manifest
    make(tmp_path / "b", [("T", "secret")])
    (tmp_path / "b" / "articles-00000.parquet").rename(tmp_path / "elsewhere.parquet")
    manifest["shards"][0]["file"] = name
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PruneonceError, match=r"a/manifest\.json names the file .*without a folder is expected$"):
        list(articles.read(tmp_path / "a"))


@pytest.mark.parametrize("shards", [{"file": "a"}, ["a"], "a"], ids=repr)
def test_shards_that_are_no_list_of_objects_are_refused(tmp_path, shards):
    manifest = make(tmp_path / "a", [("T", "text")]).manifest
    (tmp_path / "a" / "manifest.json").write_text(json.dumps({**manifest, "shards": shards}))
    with pytest.raises(UsageError, match="'shards' must be a list of objects"):
        articles.read_manifest(tmp_path / "a")


def test_manifest_without_its_shards_is_refused(tmp_path):
    manifest = make(tmp_path / "a", [("T", "text")]).manifest
    del manifest["shards"]
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="has no 'shards'"):
        list(articles.read(tmp_path / "a"))


def test_damaged_shard_is_an_error_that_names_it(tmp_path):
    make(tmp_path / "a", [("T", "text")])
    shard = tmp_path / "a" / "articles-00000.parquet"
    broken_text = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    for damage in (
        lambda: shard.write_bytes(b"PAR1 not really"),
        lambda: pq.write_table(pa.table({"title": ["T"]}), shard),
        lambda: pq.write_table(pa.table({"title": ["T"], "text": broken_text}), shard),
    ):
        damage()
        with pytest.raises(PruneonceError, match=r"articles-00000\.parquet cannot be read"):
            list(articles.read(tmp_path / "a"))


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "a").write_text("here first")
    with pytest.raises(PruneonceError, match="could not be written"):
        make(tmp_path / "a", [("T", "text")])


# ---------------------------------------------------------------------------------------------------------- text files


def collected(tmp_path, *inputs, **options):
    text.collect(inputs, tmp_path / "out", **options)
    return list(articles.read(tmp_path / "out"))


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("blank-line", [("f.txt:1", "a\nb"), ("f.txt:5", "c")]),
        ("line", [("f.txt:1", "a"), ("f.txt:2", "b"), ("f.txt:5", "c")]),
        ("file", [("f.txt:1", "a\nb\nc")]),
    ],
)
def test_txt_documents(tmp_path, documents, expected):
    file = write(tmp_path, "f.txt", "\ufeffa\r\n b\n\n \nc")
    assert collected(tmp_path, file, documents=documents) == expected


def test_jsonl_and_parquet_rows_in_the_order_given(tmp_path):
    lines = write(
        tmp_path, "f.jsonl", '{"body": "a", "name": "A"}\n\n{"body": null, "name": "B"}\n{"body":"c","name":"C"}'
    )
    table = tmp_path / "f.parquet"
    pq.write_table(pa.table({"body": ["d", None, "e"], "name": ["D", "x", "E"]}), table)
    assert collected(tmp_path, table, lines, text_column="body", title_column="name") == [
        ("D", "d"),
        ("E", "e"),
        ("A", "a"),
        ("C", "c"),
    ]
    assert articles.read_manifest(tmp_path / "out")["skipped"] == {"without text": 2}


def test_rows_without_a_title_are_named_after_their_place(tmp_path):
    table = tmp_path / "f.parquet"
    pq.write_table(pa.table({"text": ["d", "e"]}), table)
    assert collected(tmp_path, table) == [("f.parquet:1", "d"), ("f.parquet:2", "e")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.txt", b"fine\nbad \xff byte\n", r"f\.txt, line 2 is not UTF-8"),
        ("f.txt", b"", r"f\.txt holds no text"),
        ("f.jsonl", b'{"text": "a"}\n{"text": \n', r"f\.jsonl, line 2 is not JSON"),
        ("f.jsonl", b"[1]\n", r"f\.jsonl, line 1 is not a JSON object"),
        ("f.jsonl", b'{"body": "a"}\n', r"f\.jsonl, line 1 has no column 'text'; it has 'body'"),
        ("f.jsonl", b'{"text": 5}\n', r"f\.jsonl, line 1: 'text' is not a string"),
        ("f.jsonl", b"", r"f\.jsonl holds no text"),
        ("f.parquet", b"", r"f\.parquet cannot be read as Parquet"),
        ("f.csv", b"a", r"f\.csv is not a \.txt, \.jsonl or \.parquet file"),
    ],
)
def test_bad_file_is_one_line_that_names_file_and_line(tmp_path, name, content, message):
    file = write(tmp_path, name, content)
    with pytest.raises(PruneonceError, match=message) as caught:
        text.collect([file], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_parquet_columns_are_checked(tmp_path):
    pq.write_table(pa.table({"body": ["d"], "n": [1]}), tmp_path / "f.parquet")
    with pytest.raises(UsageError, match="has no column 'text'; it has 'body', 'n'"):
        text.collect([tmp_path / "f.parquet"], tmp_path / "out")
    with pytest.raises(PruneonceError, match="column 'n' holds int64, not strings"):
        text.collect([tmp_path / "f.parquet"], tmp_path / "out", text_column="n")


def test_missing_file_folder_and_unknown_option_are_usage_errors(tmp_path):
    (tmp_path / "d.txt").mkdir()
    for inputs, options, message in [
        ([tmp_path / "none.txt"], {}, "does not exist"),
        ([tmp_path / "d.txt"], {}, "is not a file"),
        ([], {}, "no text files"),
        ([tmp_path / "none.txt"], {"documents": "page"}, "blank-line, line, file"),
    ]:
        with pytest.raises(UsageError, match=message):
            text.collect(inputs, tmp_path / "out", **options)


def test_edited_input_of_the_same_size_is_noticed(tmp_path):
    file = write(tmp_path, "f.txt", "one")
    assert not text.collect([file], tmp_path / "out").reused
    assert text.collect([file], tmp_path / "out").reused
    with pytest.raises(UsageError, match="other contents or settings"):
        text.collect([file], tmp_path / "out", documents="line")
    write(tmp_path, "f.txt", "two")
    with pytest.raises(UsageError, match="other contents or settings"):
        text.collect([file], tmp_path / "out")


def test_progress_counts_files(tmp_path):
    inputs = [write(tmp_path, f"{i}.txt", "text") for i in range(2)]
    seen = []
    text.collect(inputs, tmp_path / "out", on_progress=lambda *step: seen.append(step))
    assert seen == [(0, 2, "files"), (1, 2, "files"), (2, 2, "files")]
