"""The quickstart on tiny models: its report says what was measured, and a second run does nothing again."""

from __future__ import annotations

import json
import re
import shutil
import statistics

import pytest

from pruneonce.convert.inspect_folder import zeros_of_pruned
from pruneonce.data.assets import Assets, split_reviews
from pruneonce.formats.record import read_provenance
from pruneonce.quickstart import run as quickstart
from pruneonce.recipe import recipes_folder

pytestmark = pytest.mark.slow


@pytest.fixture
def small(tiny_bert, tmp_path, monkeypatch):
    """Tiny assets and the shipped recipes at a few steps each."""
    leads = [{"title": f"{n}", "text": "The city was old. The river was great. " * 3} for n in range(40)]
    reviews = [
        {"text": f"a {word} film {n}", "label": label}
        for n in range(30)
        for word, label in (("good", "positive"), ("bad", "negative"))
    ]
    assets = Assets(tiny_bert, *(tmp_path / name for name in ("leads.jsonl", "train.jsonl", "held-out.jsonl")))
    for file, rows in (
        (assets.wikipedia, leads),
        (assets.reviews_train, reviews),
        (assets.reviews_held_out, reviews[:21]),
    ):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipes = tmp_path / "recipes"
    shutil.copytree(recipes_folder(), recipes)
    for file in (recipes / "quickstart").iterdir():
        file.write_text(re.sub(r"(?m)^(steps|epochs) = .*$", "steps = 6", file.read_text()))
    compress = recipes / "quickstart" / "compress.toml"
    windows = "lengths = [16, 32]\nlate_lengths = [32, 64]\n"
    compress.write_text(f"{compress.read_text()}\n[matching]\n{windows}")
    monkeypatch.setattr(quickstart, "HELD_OUT", 0.2)
    monkeypatch.setattr(quickstart, "fetch_assets", lambda: assets)
    monkeypatch.setattr(quickstart, "recipes_folder", lambda: recipes)
    monkeypatch.setattr(quickstart, "TIMED_TOKENS", 32)
    monkeypatch.setattr(quickstart, "fastest_precision", lambda: "bf16")  # whatever processor this is
    monkeypatch.setattr(quickstart, "BF16_STEPS", 6)
    return recipes


def test_report_holds_what_the_folders_say_and_a_second_run_trains_nothing(small, tmp_path):
    out = tmp_path / "runs"
    report = quickstart.run_quickstart(out)
    dense, onnxruntime, onnxruntime_int8, sparse, packed, int8, majority = report.rows
    assert sparse.accuracy == read_provenance(out / "sparse").metrics["accuracy"]
    assert sparse.sparsity == zeros_of_pruned(out / "sparse", read_provenance(out / "sparse"))
    assert sparse.sparsity == pytest.approx(0.9, abs=0.01), "of what was pruned: the pooler is dense"
    assert dense.sparsity < 0.01
    assert sparse.file_bytes == (out / "sparse" / "model.safetensors").stat().st_size
    assert packed.accuracy == sparse.accuracy
    assert packed.sparsity == sparse.sparsity
    assert packed.file_bytes == (out / "sparse.pruneonce").stat().st_size
    assert 0 < report.largest_difference < 1e-3, "embeddings are rounded, nothing else"
    assert int8.accuracy == pytest.approx(read_provenance(out / "int8").metrics["accuracy"], abs=0.05)
    assert int8.sparsity >= sparse.sparsity
    assert int8.file_bytes == (out / "int8.pruneonce").stat().st_size < packed.file_bytes
    assert 0 < report.largest_difference_int8 < 1e-2, "embeddings are rounded, nothing else"
    case = json.loads((out / "speed.json").read_text())["bench"]["cases"][0]
    assert case["max_difference"]["pruneonce"] < 1e-5 < case["max_difference"]["pruneonce-int8"]
    for row, engine in (
        (dense, "torch"),
        (onnxruntime, "onnxruntime"),
        (onnxruntime_int8, "onnxruntime-int8"),
        (packed, "pruneonce"),
        (int8, "pruneonce-int8"),
    ):
        assert row.milliseconds == pytest.approx(1e3 * statistics.median(case["seconds"][engine])), engine
    assert dense.speedup == 1
    assert majority.accuracy == pytest.approx(11 / 21)  # the first of two equally frequent labels
    assert json.loads((out / "report.json").read_text())["rows"][3]["accuracy"] == sparse.accuracy
    assert 0 < report.vectors["cosine"] < 1
    assert f"{report.vectors['neighbours']:.3f}" in (out / "report.md").read_text()
    assert f"{sparse.accuracy:.1%}" in (out / "report.md").read_text()

    written = {path: path.stat().st_mtime_ns for path in out.glob("*/model.safetensors")}
    again = quickstart.run_quickstart(out)
    assert again.rows == report.rows
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/model.safetensors")} == written

    sparse_recipe = small / "quickstart" / "sparse.toml"
    sparse_recipe.write_text(sparse_recipe.read_text().replace("learning_rate = 3e-4", "learning_rate = 4e-4"))
    quickstart.run_quickstart(out)
    changed = {path.parent.name for path in written if path.stat().st_mtime_ns != written[path]}
    assert changed == {"sparse", "int8"}, "only the step whose recipe changed and what follows from it runs again"


def test_without_onnx_runtime_its_line_is_left_out(small, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "_installed", lambda *packages: False)
    report = quickstart.run_quickstart(tmp_path / "runs")
    assert [row.engine for row in report.rows] == ["PyTorch", "PyTorch", "pruneonce", "pruneonce", ""]


def test_reviews_are_split_by_their_own_text_and_neutral_ones_dropped():
    lines = "".join(f"{n}\t{score}\tsentence {n % 50}\n" for n in range(200) for score in ("2.5", "0.4", "-3"))
    train, held_out = split_reviews(lines)
    assert len(train) + len(held_out) == 400
    assert not {example["text"] for example in train} & {example["text"] for example in held_out}
    assert {example["label"] for example in train} == {"positive", "negative"}
