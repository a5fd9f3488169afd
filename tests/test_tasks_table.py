"""Files as they are found in the wild: no quoting, quoting, byte order marks, torn rows; and what each error says."""

import csv
import json
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.tasks.table import HubData, did_you_mean, from_hub, read_source, read_table


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_tsv_quotation_marks_do_not_swallow_rows(write):
    path = write("a.tsv", 'sentence\tlabel\n"open\t1\nplain\t0\n')
    assert read_table(path).rows == [{"sentence": '"open', "label": "1"}, {"sentence": "plain", "label": "0"}]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_byte_order_mark_is_not_part_of_the_first_column(write, name):
    content = {"a.tsv": "text\tlabel\nx\t1\n", "a.csv": "text,label\nx,1\n", "a.jsonl": '{"text": "x", "label": "1"}\n'}
    assert read_table(write(name, b"\xef\xbb\xbf" + content[name].encode())).column("text") == ["x"]


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0c", "\x1c"])
def test_unicode_line_separators_inside_a_text_do_not_split_rows(write, separator):
    text = f"one{separator}two"
    assert read_table(write("a.tsv", f"text\tlabel\r\n{text}\t1\r\n")).rows == [{"text": text, "label": "1"}]
    line = json.dumps({"text": text, "label": 1}, ensure_ascii=False)
    if separator > "\x1f":  # JSON wants control characters escaped
        assert read_table(write("a.jsonl", line)).column("text") == [text]


@pytest.mark.parametrize(("name", "separator"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_very_long_fields_are_read_and_the_csv_limit_is_put_back(write, name, separator):
    long = "x" * 300_000
    before = csv.field_size_limit()
    assert read_table(write(name, f"text{separator}label\n{long}{separator}1\n")).column("text") == [long]
    assert csv.field_size_limit() == before


def test_csv_field_may_hold_quotes_separators_and_line_breaks(write):
    table = read_table(write("a.csv", 'text,label\n"say ""hi"",\nthen go",1\n\nplain,0\n'))
    assert table.column("text") == ['say "hi",\nthen go', "plain"]
    assert table.where(1).endswith("a.csv, line 5")


@settings(deadline=None)  # writes files
@given(rows=st.lists(st.tuples(st.text(), st.text(min_size=1)), min_size=1))
def test_csv_round_trips_any_text(tmp_path_factory, rows):
    assume(sys.version_info >= (3, 11) or not any("\0" in field for row in rows for field in row))  # 3.10 refuses NUL
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8", errors="surrogatepass") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # a lone surrogate is not text
        with pytest.raises(PruneonceError, match="not UTF-8"):
            read_table(path)
        return
    table = read_table(path)
    assert list(zip(table.column("text"), table.column("label"), strict=True)) == rows


def test_json_is_a_list_or_one_object_per_line(write):
    rows = [{"text": "x", "label": 1}, {"text": "y", "label": 0}]
    lines = "\n\n".join(json.dumps(row) for row in rows)
    assert read_table(write("a.json", json.dumps(rows, indent=2))).rows == rows
    assert read_table(write("b.json", lines)).rows == rows
    assert read_table(write("b.jsonl", lines)).where(1).endswith("b.jsonl, line 3")


def test_parquet_equals_jsonl(write, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="parquet needs pyarrow")
    pyarrow = pytest.importorskip("pyarrow")
    rows = [{"text": "x", "label": 1}, {"text": "y", "label": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").rows == rows
    with pytest.raises(PruneonceError, match=r"broken\.parquet cannot be read as Parquet") as caught:
        read_table(write("broken.parquet", "PAR1"))
    assert "\n" not in str(caught.value)


def test_parquet_strings_that_are_not_utf_8_name_the_file(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="parquet needs pyarrow")
    pyarrow = pytest.importorskip("pyarrow")
    offsets = pyarrow.array([0, 1, 2], pyarrow.int32()).buffers()[1]
    text = pyarrow.StringArray.from_buffers(2, offsets, pyarrow.py_buffer(b"\xffa"))
    parquet.write_table(pyarrow.table({"text": text}), tmp_path / "a.parquet")
    with pytest.raises(PruneonceError, match=r"a\.parquet cannot be read as Parquet: .*utf-8"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "", r"a\.tsv is empty"),
        ("a.tsv", "text\tlabel\n", r"a\.tsv holds no rows"),
        ("a.jsonl", "\n", r"a\.jsonl holds no rows"),
        ("a.json", "[]", r"a\.json holds no rows"),
        ("a.tsv", "text\tlabel\nx\t1\ny\n", r"a\.tsv, line 3: expected 2 fields \(text, label\), found 1"),
        ("a.csv", "text,label\nx,1,2\n", r"a\.csv, line 2: expected 2 fields \(text, label\), found 3"),
        ("a.csv", 'text,label\nx,1\n"y,0\n', r"a\.csv, line 3: not CSV"),
        ("a.tsv", "text\ttext\nx\t1\n", r"column 'text' appears more than once"),
        ("a.tsv", b"text\tlabel\nx\t1\n\xff\t0\n", r"a\.tsv, line 3: not UTF-8"),
        ("a.jsonl", '{"text": "x"}\n{"text": \n', r"a\.jsonl, line 2: expected one JSON object per line"),
        ("a.jsonl", '{"text": "x"}\n[1]\n', r"a\.jsonl, line 2: expected a JSON object, found list"),
        ("a.json", '[{"text": "x"}, 3]', r"a\.json, item 2: expected a JSON object, found int"),
        ("a.json", "[{", r"a\.json is not JSON"),
        ("a.json", "[" * 100_000, r"a\.json is not JSON: .*nested too deeply"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, r"a\.jsonl, line 1: expected one JSON object per line: .*too deeply"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_file_names_the_place_on_one_line(write, name, content, message):
    with pytest.raises(PruneonceError, match=message) as caught:
        read_table(write(name, content))
    assert "\n" not in str(caught.value)


def test_missing_column_names_the_nearest_and_what_was_found(write):
    table = read_table(write("a.tsv", "sentence\tLabels\nx\t1\n"))
    with pytest.raises(UsageError, match=r"no column 'label' \(did you mean 'Labels'\?\).*found sentence, Labels"):
        table.column("label")


def test_json_row_without_the_key_is_named(write):
    table = read_table(write("a.jsonl", '{"text": "x", "label": 1}\n{"text": "y"}\n'))
    with pytest.raises(PruneonceError, match=r"line 2: 'label' is missing; found text"):
        table.column("label")


def test_headerless_file_keeps_its_first_row_and_a_header_is_recognised(write):
    names = ("source", "label", "mark", "sentence")
    bare = read_table(write("a.tsv", "gj04\t1\t\tOur friends.\nks08\t0\t*\tThey go.\n"), headerless=names)
    assert bare.column("sentence") == ["Our friends.", "They go."]
    headed = read_table(write("b.tsv", "sentence\tlabel\nOur friends.\t1\n"), headerless=names)
    assert headed.column("sentence") == ["Our friends."]


def test_broken_rows_are_dropped_only_on_request_and_counted(write, caplog):
    path = write("a.tsv", "q1\tq2\tlabel\na\tb\t1\ntorn\nc\td\t0\n")
    assert len(read_table(path, drop_broken=True).rows) == 2
    assert "left out 1 broken rows of 3" in caplog.text


def test_missing_file_folder_and_unknown_format_are_usage_errors(write, tmp_path):
    write("dev.tsv", "text\n")
    with pytest.raises(UsageError, match=r"dve\.tsv does not exist \(did you mean 'dev\.tsv'\?\)"):
        read_table(tmp_path / "dve.tsv")
    with pytest.raises(UsageError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(UsageError, match=r"expected \.tsv, \.csv"):
        read_table(write("a.xlsx", "x"))


def test_neither_file_nor_split_names_the_splits():
    hub = HubData("nyu-mll/glue", "sst2", ("train", "validation"))
    with pytest.raises(UsageError, match=r"neither a file nor .*\(train, validation\) \(did you mean 'train'\?\)"):
        read_source("trian", hub)


def test_split_slice_goes_to_the_hub_with_its_config(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    class Loaded:
        def to_list(self):
            return [{"sentence": "x", "label": 1}]

    def load_dataset(dataset, config, *, split):
        asked.append((dataset, config, split))
        return Loaded()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = read_source("train[:1]", HubData("nyu-mll/glue", "sst2", ("train",)))
    assert asked == [("nyu-mll/glue", "sst2", "train[:1]")]
    assert table.where(0) == "nyu-mll/glue sst2 train[:1], row 1"


def test_unreachable_hub_is_one_line_that_offers_a_local_file(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nwith details")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UsageError, match=r"Couldn't reach the Hub; give a local .* file instead") as caught:
        from_hub("nyu-mll/glue", "sst2", "train")
    assert "\n" not in str(caught.value)


def test_hub_without_datasets_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install pruneonce\[train\]"):
        from_hub("nyu-mll/glue", "sst2", "train")


def test_did_you_mean_ignores_case_and_keeps_silent_when_nothing_is_near():
    assert did_you_mean("SST-2", ["sst2", "qnli"]) == " (did you mean 'sst2'?)"
    assert did_you_mean("zzz", ["sst2", "qnli"]) == ""
