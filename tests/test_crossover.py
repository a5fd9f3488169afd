"""The picture of where zeros pay: right numbers, right curves, and a reason where there is none."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from test_bench import record

from pruneonce.bench.inference.record import read_bench
from pruneonce.report.crossover import crossover
from pruneonce.report.write import SPEED, picture_file, write_report


def measured(sparsity, pattern="unstructured", ours=1.0, rival=2.0, shape="bert-base", name="random"):
    """A record with one batch in which a dense int8 rival takes `rival`, and we `ours` milliseconds."""
    case = dict(record()["cases"][0])
    case["seconds"] = {"pruneonce": [0.003], "pruneonce-int8": [ours / 1e3], "openvino-int8": [rival / 1e3]}
    case["max_difference"] = dict.fromkeys(case["seconds"], 0.0)
    model = {"name": name, "prunable": 1000, "sparsity": sparsity, "weight_bytes": 400}
    engines = dict.fromkeys(case["seconds"], "1")
    return record(cases=[case], model=model | {"shape": shape, "pattern": pattern}, engines=engines)


RECORDS = [
    measured(0.0, ours=2.0),
    measured(0.5, ours=2.5),
    measured(0.9, ours=0.5),
    measured(0.8, "1x4", ours=0.8),
    measured(0.9, "1x4", ours=0.4),
]


def marks(figure):
    return [title.text for title in figure.charts[0][1].iter("title") if " % zeros: " in title.text]


def test_each_pattern_is_a_curve_and_the_dense_model_begins_both():
    figure, reason = crossover([read_bench(each, "record") for each in RECORDS])
    assert reason == ""
    assert [name for name, _ in figure.legend] == ["unstructured zeros", "zeros in blocks of 1×4"]
    notes = marks(figure)
    assert [note.split(" %")[0] for note in notes] == ["0", "50", "90", "0", "80", "90"]
    assert [note.split(": ")[1] for note in notes] == ["1.00", "0.80", "4.00", "1.00", "2.50", "5.00"]


@pytest.mark.parametrize(
    "records",
    [
        [],
        RECORDS[:2],
        [measured(sparsity, shape="") for sparsity in (0.1, 0.5, 0.9)],
        [measured(0.1, shape="minilm"), measured(0.5), measured(0.9)],
        [record(), record(), record()],
    ],
    ids=["nothing", "two points", "other models", "two shapes", "no int8"],
)
def test_too_little_for_a_curve_is_said(records):
    figure, reason = crossover([read_bench(each, "record") for each in records])
    assert figure is None
    assert "3 sparsities" in reason


def test_the_page_links_a_picture_that_is_there_and_is_one_file(tmp_path):
    files = []
    for number, each in enumerate(RECORDS):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(each))
    written = write_report(files, tmp_path / "out" / "results.md", tmp_path / "out" / "results.html")
    assert written[-1] == picture_file(tmp_path / "out" / "results.md", SPEED)
    assert "](results-crossover.svg)" in (tmp_path / "out" / "results.md").read_text()
    svg = ElementTree.parse(written[-1]).getroot()
    assert svg.tag.endswith("svg")
    assert "http" not in written[-1].read_text().replace("http://www.w3.org/2000/svg", "")
    assert "where zeros pay" in (tmp_path / "out" / "results.html").read_text()


def test_no_picture_no_link(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(record()))
    assert len(write_report([tmp_path / "one.json"], tmp_path / "r.md", tmp_path / "r.html")) == 2
    assert "svg" not in (tmp_path / "r.md").read_text()
