"""Reports from run folders: their numbers, what they say is missing, and hostile names in every place."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.evaluation.predictions import Split, write_predictions
from pruneonce.formats.record import Provenance
from pruneonce.report.charts import Axis, Point, Series, chart
from pruneonce.report.collect import collect
from pruneonce.report.write import ACCURACY, picture_file, write_report
from pruneonce.study.index import StudyIndex

HOSTILE = '</td><script>alert("x")</script>|`[a](javascript:b)` <img src=http://evil.test/x>'
LABELS = [0, 1] * 50


def run(folder, *, sparsity=0.0, accuracy=0.9, seed=1, task="sst2", metrics=None, stage="finetune", steps=100):
    """A run folder as a report sees it."""
    folder.mkdir(parents=True)
    recipe = {"training": {"batch_size": 8}} | ({"task": {"name": task}} if stage == "finetune" else {})
    names = [f"encoder.layer.{n}.{kind}" for n in (0, 1) for kind in ("output.dense", "intermediate.dense")]
    Provenance(
        stage=stage,
        recipe=recipe,
        inputs={},
        seed=seed,
        steps=steps,
        metrics=metrics or {"accuracy": accuracy},
        sparsity=dict.fromkeys(names, sparsity) if sparsity else {},
        versions={"torch": "2.0"},
        timings={"training": 60.0},
    ).write(folder)
    log = [{"loss": 1 / step, "learning_rate": 1e-4, "step": step, "sparsity": sparsity} for step in (1, 50, 100)]
    (folder / "training_log.json").write_text(json.dumps(log))
    if stage == "finetune":
        right = round(accuracy * len(LABELS))
        predictions = [label if number < right else 1 - label for number, label in enumerate(LABELS)]
        columns = {"predictions": predictions, "labels": LABELS}
        write_predictions(folder, task, {"": Split("digest", ("accuracy",), columns)})
    return folder


@pytest.fixture
def study(tmp_path):
    """Dense and two sparse methods, two seeds; one cell has not been run, one failed. Names and titles are hostile."""
    folder = tmp_path / "study"
    run(folder / "teacher", stage="teacher", metrics={"mlm_loss": 3.0, "mlm_accuracy": 0.4, "perplexity": 20.0})
    run(folder / "prune", stage="prune", sparsity=0.9, metrics={"mlm_loss": 3.5, "mlm_accuracy": 0.35})
    cells = []
    for method, sparsity, values in (
        ("dense", None, (0.90, 0.94)),
        ("once", 0.9, (0.88, 0.90)),
        ("late", 0.9, (0.6, 0.7)),
    ):
        for seed, value in zip((1, 2), values, strict=True):
            name = f"{method}-{seed}"
            run(folder / name, sparsity=sparsity or 0.0, accuracy=value, seed=seed)
            chain = ["teacher", *(["prune"] if method == "once" else []), name]
            cells.append({"method": method, "sparsity": sparsity, "task": "sst2", "seed": seed, "chain": chain})
    cells.append({"method": "late", "sparsity": 0.9, "task": "sst2", "seed": 3, "chain": ["teacher", "late-3"]})
    cells.append({"method": "late", "sparsity": 0.9, "task": "sst2", "seed": 4, "chain": ["teacher", "late-4"]})
    names = {name for cell in cells for name in cell["chain"]}
    record = StudyIndex(
        name=f"study {HOSTILE}",
        source=f"source {HOSTILE}",
        baseline="dense",
        reference="once",
        methods={"dense": "dense", "once": f"once {HOSTILE}", "late": "late"},
        tasks=("sst2",),
        cells=cells,
        runs={name: {"stage": "finetune", "steps": 1, "examples": 1} for name in names},
        failures={"late-4": f"the loss is nan {HOSTILE}"},
    )
    (folder / "s.study.json").write_text(json.dumps(asdict(record)))
    return folder


def pages(paths, tmp_path):
    files = write_report(paths, tmp_path / "report.md", tmp_path / "report.html")
    return [file.read_text(encoding="utf-8") for file in files[:2]]


def bench(model, **engines):
    return {
        "format": 1,
        "date": "2026-01-01T00:00",
        "machine": {
            "processor": f"cpu {HOSTILE}", "native_isa": "avx2", "isa": ["avx2"], "cores": 2, "memory_bytes": 2**30,
            "peak_gflops": 100.0, "bandwidth_gb_per_s": 10.0, "load_average": 0.0,
        },
        "versions": {"python": "3", "numpy": "2", "transformers": "5"},
        "model": {"name": model, "prunable": 1000, "sparsity": 0.9, "weight_bytes": 400},
        "threads": 2, "rounds": 3, "settle": 1, "inputs": "random words",
        "engines": dict.fromkeys(engines, "1.0"),
        "cases": [
            {
                "name": "1x128", "lengths": [128], "useful_flops": 1e9, "seconds": engines,
                "max_difference": dict.fromkeys(engines, 1e-6), "largest_output": 1.0,
            }
        ],
    }  # fmt: skip


class Tags(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes


def test_means_deviations_retention_and_differences_follow_from_the_folders(study, tmp_path):
    markdown, _ = pages([study], tmp_path)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    accuracy = {row.split("|")[1].strip()[:4]: row for row in rows if "±" in row}
    assert f"{92:.2f} ± {np.std([90, 94], ddof=1):.2f}" in accuracy["dens"]
    assert f"{89:.2f} ± {np.std([88, 90], ddof=1):.2f}" in accuracy["once"]
    retention = markdown.split("## Retention")[1].split("##")[0]
    assert f"{100 * 89 / 92:.1f} %" in retention
    assert f"{100 * 65 / 92:.1f} %" in retention
    assert "dense |" not in retention.replace("(dense)", "")
    gains = markdown.split("gains over the others")[1].split("##")[0]
    assert "+24.00" in gains
    assert "100" in gains


def test_means_over_tasks_are_of_those_that_both_methods_ran(study, tmp_path):
    file = study / "s.study.json"
    record = json.loads(file.read_text())
    for method, sparsity, value in (("once", 0.9, 0.80), ("late", 0.9, 0.70), ("dense", None, 0.9)):
        run(study / f"{method}-qnli", sparsity=sparsity or 0.0, accuracy=value, task="qnli")
        cell = {"method": method, "sparsity": sparsity, "task": "qnli", "seed": 1, "chain": [f"{method}-qnli"]}
        record["cells"].append(cell)
        record["runs"][f"{method}-qnli"] = {"stage": "finetune", "steps": 1, "examples": 1}
    record["methods"]["once-int8"] = "int8"  # on one task only: no mean
    run(study / "once-int8", sparsity=0.9, accuracy=0.8)
    record["cells"].append(record["cells"][2] | {"method": "once-int8", "chain": ["once-int8"]})
    file.write_text(json.dumps(record | {"tasks": ["sst2", "qnli"]}))
    gains = pages([study], tmp_path)[0].split("gains over the others")[1].split("##")[0]
    means = [[cell.strip() for cell in row.split("|")] for row in gains.splitlines() if "mean of 2" in row]
    assert [(row[1], row[4]) for row in means] == [("late", f"{(24 + 10) / 2:+.2f}")]
    low, high = map(float, means[0][5].split(" to "))
    assert 10 < low < 17 < high < 24


def test_the_picture_of_a_study_is_one_file_and_text_of_files_is_no_markup_in_it(study, tmp_path):
    written = write_report([study], tmp_path / "report.md", tmp_path / "report.html")
    picture = picture_file(tmp_path / "report.md", ACCURACY)
    assert picture in written
    assert "](report-accuracy.svg)" in (tmp_path / "report.md").read_text()
    root = ElementTree.parse(picture).getroot()  # well-formed, whatever titles hold
    assert not {each.tag.rpartition("}")[2] for each in root.iter()} & {"script", "image", "a", "foreignObject"}
    assert f"once {HOSTILE}" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_what_two_studies_of_one_folder_share_is_shown_once(study, tmp_path):
    (file,) = study.glob("*.study.json")
    values = json.loads(file.read_text())
    file.with_name("second.study.json").write_text(json.dumps(values | {"name": "second", "source": "again"}))
    alone, _ = pages([file], tmp_path)
    both, _ = pages([file, study / "second.study.json"], tmp_path)
    assert both.splitlines()[0] == f"{alone.splitlines()[0]} and second"
    assert both.split("## ", 1)[1] == alone.split("## ", 1)[1]


def test_what_has_not_been_run_or_failed_is_said(study, tmp_path):
    for page in pages([study], tmp_path):
        text = page.split("Not there")[1]
        assert "seed 3: not run yet" in text
        assert "seed 4: the loss is nan" in text
        assert "latency" in text or page.startswith("# ")


def test_text_of_files_is_never_markup(study, tmp_path):
    record = tmp_path / "bench.json"
    record.write_text(json.dumps(bench(HOSTILE, pruneonce=[0.001], **{HOSTILE: [0.002]})))
    markdown, html = pages([study, record], tmp_path)
    found = Tags(html)
    assert not {"script", "img", "a", "link", "iframe", "object"} & set(found.tags)
    assert not any(name.startswith("on") or name in ("href", "src") for name, _ in found.attributes)
    own = markdown.split("## Speed")[0]
    assert not re.search(r"(?<!\\)<script", own)
    assert not re.search(r"(?<!\\)\[a", own)
    widths = {
        len(re.findall(r"(?<!\\)\|", row)) for row in own.split("## Retention")[0].splitlines() if row.startswith("|")
    }
    assert len(widths) == 1, "a | in a title must not make another column"


def test_page_needs_nothing_but_itself(study, tmp_path):
    _, html = pages([study], tmp_path)
    assert set(re.findall(r"https?://[\w.]*", html)) == {"http://evil.test"}, "only in the hostile text"
    assert "@import" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert len(html) < 300_000


def test_control_characters_and_broken_surrogates_do_not_stop_a_report(tmp_path):
    folder = run(tmp_path / "a")
    record = json.loads((folder / "pruneonce.json").read_text())
    record["versions"] = {"torch": "2\ud800\x00\x1b[31m"}
    (folder / "pruneonce.json").write_text(json.dumps(record))
    markdown, html = pages([folder], tmp_path)
    assert "\x1b" not in markdown + html
    assert "\x00" not in markdown + html


def test_plain_runs_and_seed_folders_make_a_report_too(tmp_path):
    dense = run(tmp_path / "dense", accuracy=0.9)
    for seed, value in ((1, 0.8), (2, 0.84)):
        run(tmp_path / "sparse" / f"seed-{seed}", sparsity=0.9, accuracy=value, seed=seed)
    markdown, html = pages([dense, tmp_path / "sparse"], tmp_path)
    assert f"82.00 ± {np.std([80, 84], ddof=1):.2f}" in markdown
    assert f"{100 * 82 / 90:.1f} %" in markdown
    assert "<svg" in html


def test_latency_is_drawn_for_scored_engines_and_the_rest_is_named(study, tmp_path):
    (study / "once-1.pruneonce").write_bytes(b"x" * 2_000_000)
    for name in ("once-1", "dense-1"):
        (study / name / "model.safetensors").write_bytes(b"x" * 10_000)
    files = []
    for name in ("once-1", "dense-1", "stranger"):
        files.append(tmp_path / f"{name}.json")
        engines = {"pruneonce": [0.001, 0.002, 0.003], "torch": [0.01] * 3, "openvino-int8": [0.004] * 3}
        record = bench(name, **engines)
        if name == "stranger":  # measured on another batch: no reason to draw nothing of ours
            record["cases"][0]["name"] = "16x32"
        files[-1].write_text(json.dumps(record))
    markdown, html = pages([study, *files], tmp_path)
    section = html.split("<h2>Accuracy by latency and size</h2>")[1].split("<h2>")[0]
    assert "2.00 ms, 2.0 MB" in section
    assert "their accuracy was not measured (bench --task): openvino-int8." in section
    assert "their file is not known: pruneonce." in section, "dense-1 has no packed file"
    assert "Of other models: stranger" in section
    assert "### once-1" in markdown
    assert "| pruneonce |" in markdown


def test_accuracy_and_bytes_that_a_benchmark_measured_come_before_those_of_the_run(study, tmp_path):
    record = bench("once-1", **{"pruneonce": [0.002], "pruneonce-int8": [0.001], "openvino-int8": [0.001]})
    record["accuracy"] = {"pruneonce": {"accuracy": 0.877}, "pruneonce-int8": {"accuracy": 0.8711}}
    record["file_bytes"] = {"pruneonce": 3_000_000, "pruneonce-int8": 1_500_000}
    (tmp_path / "bench.json").write_text(json.dumps(record))
    _, html = pages([study, tmp_path / "bench.json"], tmp_path)
    section = html.split("<h2>Accuracy by latency and size</h2>")[1].split("<h2>")[0]
    assert "87.70 %, 2.00 ms, 3.0 MB" in section
    assert "87.11 %, 1.00 ms, 1.5 MB" in section
    assert "(bench --task): openvino-int8." in section


def test_a_report_without_any_result_says_so(tmp_path):
    with pytest.raises(UsageError, match="holds no finished run"):
        collect([tmp_path])
    with pytest.raises(UsageError, match="needs a study"):
        collect([])


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["cells"][0].update(chain=["../../elsewhere"]),
        lambda record: record["runs"].update({"/etc": {}}),
        lambda record: record["cells"][0].pop("chain"),
        lambda record: record["cells"][0].update(method=3, more=4),
        lambda record: record.update(cells=3),
        lambda record: record.update(format_version=9),
    ],
)
def test_a_study_record_that_is_damaged_or_leads_elsewhere_is_refused(study, change):
    record = json.loads((study / "s.study.json").read_text())
    change(record)
    (study / "s.study.json").write_text(json.dumps(record))
    with pytest.raises(PruneonceError, match=r"s\.study\.json"):
        collect([study])


@pytest.mark.parametrize("text", ["[1, 2]", "{}", "nonsense"])
def test_damaged_log_is_named(tmp_path, text):
    folder = run(tmp_path / "a")
    (folder / "training_log.json").write_text(text)
    with pytest.raises(PruneonceError, match=r"training_log\.json"):
        collect([folder])


def test_percentages_of_squad_are_not_multiplied_again(tmp_path):
    folder = run(tmp_path / "a", task="squad", metrics={"f1": 81.5, "exact_match": 70.0})
    markdown, _ = pages([folder], tmp_path)
    assert "| 81.50 |" in markdown
    assert "| 70.00 |" in markdown


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e-9, 2e-9], [-3.0, 4e6]])
def test_charts_stand_any_range(values):
    points = tuple(Point(float(number), value) for number, value in enumerate(values))
    drawn = chart([Series("a", points, 0)], Axis("x"), Axis("y"), label="l")
    places = [float(mark.get("cy")) for mark in drawn.iter("circle")]
    assert len(places) == len(values)
    assert all(0 <= place <= 300 for place in places)


def test_compare_from_the_command_line(pruneonce, study):
    code, out, err = pruneonce("report", "--compare", study / "once-1", study / "late-1", "--samples", 200, "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["difference"] == pytest.approx(0.28)
    assert found["p_value"] < 0.05
    code, out, _ = pruneonce("report", "--compare", study / "once-1", study / "late-1", "--samples", 200)
    assert "+0.2800" in out
    code, _, err = pruneonce("report", "--compare", study / "once-1")
    assert (code, "takes two runs" in err) == (2, True)


def test_report_from_the_command_line_names_its_files(pruneonce, study):
    code, out, err = pruneonce("report", study)
    assert code == 0, err
    assert out.split() == [str(study / name) for name in ("report.md", "report.html", "report-accuracy.svg")]
    assert (study / "report.html").is_file()
