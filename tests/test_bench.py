"""The benchmark's arithmetic on fabricated clocks, its page, its messages, and that engines compute the same."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from transformers import BertForQuestionAnswering, BertForSequenceClassification, DistilBertForSequenceClassification

from pruneonce import _native
from pruneonce.bench.inference import results
from pruneonce.bench.inference.cases import Batch, Inputs, mixed_lengths, parse_grid
from pruneonce.bench.inference.deepsparse_worker import receive, send
from pruneonce.bench.inference.engine_process import start_engine
from pruneonce.bench.inference.int8_subject import float_subject, int8_subject, is_int8
from pruneonce.bench.inference.record import load_bench, read_bench
from pruneonce.bench.inference.rivals import DeepSparse, EngineSettings, Ours, Torch, make_engine, pack, require, rows
from pruneonce.bench.inference.run import BenchSettings, run_on_folder, take_turns
from pruneonce.bench.inference.subject import make_random, read_subject
from pruneonce.bench.measure import paired_ratio, timed
from pruneonce.bench.speed_limits import SpeedLimits, best_of
from pruneonce.bench.training.record import is_training, load_training_bench
from pruneonce.cli import app as cli
from pruneonce.convert.to_packed import DEFAULT_EMBEDDINGS
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import read_json
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.recipe import TaskData

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def folders(tiny_bert, tiny_distilbert, tmp_path_factory):
    """Tiny models with heads, one matrix of each half zeros."""
    found = {}
    for name, source, loader in (
        ("classes", tiny_bert, BertForSequenceClassification),
        ("spans", tiny_bert, BertForQuestionAnswering),
        ("distilbert", tiny_distilbert, DistilBertForSequenceClassification),
    ):
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(1)
        model = loader.from_pretrained(source)
        weight = next(
            parameter for key, parameter in model.named_parameters() if "lin1" in key or "intermediate" in key
        )
        with torch.no_grad():
            weight[::2] = 0
        model.save_pretrained(folder)
        (folder / "tokenizer.json").write_bytes((Path(source) / "tokenizer.json").read_bytes())
        found[name] = folder
    return found


def test_a_slow_moment_of_the_machine_does_not_move_the_ratio():
    ours, rival = [1.0, 1.0, 9.0, 1.0, 1.0], [2.0, 2.0, 18.0, 2.0, 2.0]
    ratio = paired_ratio(rival, ours)
    assert (ratio.lower, ratio.median, ratio.upper) == (2.0, 2.0, 2.0)
    assert paired_ratio([3.0, 1.0, 2.0], [1.0, 1.0, 1.0]).median == 2.0
    assert paired_ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5).lower == 2.0


@pytest.mark.parametrize(("rival", "ours"), [([1.0], [1.0, 2.0]), ([], [])])
def test_timings_of_different_rounds_are_never_paired(rival, ours):
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_ratio(rival, ours)


def test_timed_charges_exactly_the_function():
    ticks = iter([10.0, 12.5])
    assert timed(lambda: "answer", clock=lambda: next(ticks))() == (2.5, "answer")


def record(**changes):
    case = {
        "name": "2x3",
        "lengths": [3, 3],
        "useful_flops": 2_000_000,
        "seconds": {"pruneonce": [0.001, 0.002, 0.001], "torch": [0.004, 0.008, 0.004]},
        "max_difference": {"pruneonce": 2e-7, "torch": 0.0},
        "largest_output": 0.5,
    }
    mixed = {**case, "name": "2 of 1 to 5", "lengths": [1, 5], "uniform": "2x3"}
    mixed["seconds"] = {"pruneonce": [0.001] * 3, "torch": [0.008] * 3}
    return {
        "format": 1,
        "date": "2026-01-02T03:04+00:00",
        "machine": {
            "processor": "Test CPU",
            "isa": ["avx2"],
            "native_isa": "avx2",
            "cores": 2,
            "memory_bytes": 2**33,
            "peak_gflops": 100.0,
            "bandwidth_gb_per_s": 10.0,
            "load_average": 0.25,
        },
        "versions": {"python": "3.11", "numpy": "2", "transformers": "5"},
        "model": {"name": "random tiny", "prunable": 1000, "sparsity": 0.9, "weight_bytes": 400},
        "threads": 2,
        "rounds": 3,
        "settle": 1,
        "inputs": "random words",
        "engines": {"pruneonce": "0.1 (avx2)", "torch": "2.6"},
        "cases": [case, mixed],
        **changes,
    }


def test_sizes_of_packed_files_say_which_embeddings_they_count():
    """An fp32 engine is timed with fp32 embeddings; what `export` writes is smaller."""
    sizes = {"pruneonce": 53_300_000, "pruneonce-int8": 14_500_000}
    (line,) = [line for line in results.summary(read_bench(record(file_bytes=sizes), "r")) if "packed file" in line]
    assert "pruneonce 53.3 MB with fp32 embeddings" in line
    assert "pruneonce-int8 14.5 MB with int8 embeddings" in line
    assert line.endswith(f"(export writes {DEFAULT_EMBEDDINGS})")


def test_the_page_says_what_the_raw_seconds_say(tmp_path, monkeypatch):
    file, page = tmp_path / "r.json", tmp_path / "docs" / "results.md"
    file.write_text(json.dumps(record()))
    arguments = ["report", str(file), "--markdown", str(page), "--html", str(page.with_suffix(".html"))]
    monkeypatch.setattr(sys, "argv", ["pruneonce", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code in (None, 0)
    text = page.read_text()
    assert "| pruneonce | 1.00 | 1.00 |  |  | 6,000 | 2.0 | 2% | 2.0e-07 |" in text
    assert "| torch | 4.00 | 4.00 | 4.00 | 4.00 to 4.00 | 1,500 | 0.5 | 0% | 0.0e+00 |" in text
    assert "torch: 750 tokens/s on 2 of 1 to 5 tokens, 1,500 on 2x3: 50%" in text
    for condition in ("Test CPU", "avx2", "2026-01-02", "load average 0.25", "torch 2.6", "90.00% zeros", "2 threads"):
        assert condition in text
    assert "useful work at the peak: 0.02 ms" in text


def test_the_overview_compares_like_with_like():
    """An int8 rival with our int8 engine, an fp32 one with our fp32 engine; what was not measured is left empty."""
    seconds = {"pruneonce": [0.002], "pruneonce-int8": [0.001], "rival": [0.004], "rival-int8": [0.003]}
    both = record(cases=[{**record()["cases"][0], "seconds": seconds, "max_difference": dict.fromkeys(seconds, 0.0)}])
    lines = results.overview([read_bench(each, "record") for each in (both, record())])
    assert lines[0].endswith("| rival / ours | rival-int8 / ours | torch / ours |")
    assert lines[2] == "| random tiny | avx2, 2 threads | 2x3 | 2.00 | 1.00 | 2.00 | 3.00 |  |"
    assert lines[3] == "| random tiny | avx2, 2 threads | 2x3 | 1.00 |  |  |  | 4.00 |"


def test_a_file_that_is_no_record_is_named(tmp_path):
    file = tmp_path / "other.json"
    file.write_text(json.dumps(record(format=2)))
    with pytest.raises(UsageError, match=r"other\.json is no record"):
        load_bench(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(machine=None), "machine must be an object"),
        (lambda record: record["machine"].pop("peak_gflops"), "machine: 'peak_gflops' is missing"),
        (lambda record: record["model"].update(prunable="many"), "model: prunable must be of type int, got 'many'"),
        (lambda record: record["versions"].pop("numpy"), "'versions' lacks numpy"),
        (lambda record: record.update(cases=[]), "'cases' is empty"),
        (lambda record: record["cases"][0]["seconds"].update(torch=[0.1]), "as many timings of every engine"),
        (lambda record: record["cases"][0]["seconds"].update(torch=["fast"] * 3), "torch must be of type float"),
        (lambda record: record["cases"][0]["max_difference"].clear(), "'max_difference' lacks the engine 'pruneonce'"),
        (lambda record: record["cases"][1].update(uniform="9x9"), "'9x9', which is no case"),
    ],
)
def test_a_damaged_record_is_an_error_that_names_the_field(tmp_path, change, message):
    file = tmp_path / "bench.json"
    damaged = json.loads(json.dumps(record()))
    change(damaged)
    file.write_text(json.dumps(damaged))
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        load_bench(file)
    assert str(error.value).startswith(str(file))


def test_eighty_columns_show_every_engine_and_figure():
    engines = [f"{name}{suffix}" for name in ("pruneonce", "onnxruntime", "openvino") for suffix in ("", "-int8")]
    seconds = {name: [1.23456, 1.34567] for name in engines}
    case = {**record()["cases"][0], "seconds": seconds, "max_difference": dict.fromkeys(engines, 1e-7)}
    page = io.StringIO()
    for table in results.tables(read_bench(record(cases=[case]), "record")):
        Console(file=page, width=80).print(table)
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(head in page.getvalue() for head in ("difference", "tokens/s", "ours,", "pruneonce's"))
    rows = [line.strip("│").split("│") for line in lines if line.startswith("│")]
    assert [row[0].strip() for row in rows] == engines * 2
    assert all(cell.strip() for row in rows[: len(engines)] for cell in row), "no figure is folded into the next line"


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_every_published_record_is_read_as_it_was_written(file):
    written = read_json(file)
    record = load_training_bench(file) if is_training(written) else load_bench(file)
    assert json.loads(json.dumps(record.as_json())) == written


@pytest.mark.parametrize("command", ["bench", "bench-train"])
def test_a_record_that_cannot_be_written_is_known_before_measuring(command, tmp_path, pruneonce, monkeypatch):
    def measure(*_, **__):
        raise AssertionError("measured for nothing")

    for module in "inference", "training":
        monkeypatch.setattr(f"pruneonce.bench.{module}.run.run_on_random", measure)
    (tmp_path / "file").write_text("")
    for where in tmp_path / "file" / "x.json", tmp_path:
        code, _, err = pruneonce(command, "--random", "minilm", "--json", where)
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith(f"error: {where} could not be written: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_measurement_is_shown_before_it_is_written(tmp_path, pruneonce, monkeypatch):
    def full(*_):
        raise PruneonceError("the disk is full")

    measured = read_bench(json.loads(json.dumps(record())), "record")
    monkeypatch.setattr("pruneonce.bench.inference.run.run_on_random", lambda *_, **__: measured)
    monkeypatch.setattr("pruneonce.cli.bench.write_json", full)
    code, out, err = pruneonce("bench", "--random", "minilm", "--json", tmp_path / "x.json")
    assert (code, err) == (1, "error: the disk is full\n")
    assert "│" in out


@pytest.mark.parametrize("name", ["classes", "spans", "distilbert"])
def test_engines_compute_the_same_from_ragged_and_from_padded_input(folders, tmp_path, name):
    subject = read_subject(folders[name])
    batch = Inputs(load_tokenizer(folders[name])).batch("mixed", [5, 17, 2])
    theirs = rows(Torch(subject).prepare(batch)()[1], batch.lengths)
    ours = rows(Ours(pack(subject, tmp_path)).prepare(batch)()[1], batch.lengths)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.shape == expected.shape
        np.testing.assert_allclose(mine, expected, atol=2e-6)


@pytest.mark.slow
def test_a_run_records_every_engine_round_and_case(folders):
    settings = BenchSettings(against=("torch",), grid="1x8,2x4", threads=1, rounds=2, mixed="squad")
    threads = torch.get_num_threads(), _native.num_threads()
    measured = run_on_folder(folders["classes"], settings, lambda *_: None)
    done = json.loads(json.dumps(measured.as_json()))
    assert read_bench(done, "record") == measured
    assert (torch.get_num_threads(), _native.num_threads()) == threads, "what runs next must not compute otherwise"
    assert [case["name"] for case in done["cases"]] == ["1x8", "2x4", "16 of 64 to 64", "16x64"]
    for case in done["cases"]:
        rounds = {name: len(seconds) for name, seconds in case["seconds"].items()}
        assert rounds == {"pruneonce": 2, "pruneonce-int8": 2, "torch": 2}
        assert case["max_difference"]["pruneonce"] < 1e-5 < case["max_difference"]["pruneonce-int8"] < 0.1
        assert case["first_seconds"].keys() == case["resident_bytes"].keys() == rounds.keys()
        assert min(case["resident_bytes"].values()) > 10e6
    assert all(case["same_bits"]["pruneonce"] and case["same_bits"]["pruneonce-int8"] for case in done["cases"][1:])
    for used in done["used"].values():
        assert used["wall"] > 0
        assert used["own"] >= 0
    assert done["load_seconds"].keys() == done["used"].keys()
    assert done["machine"]["peak_gflops"] > 0
    assert str(folders["classes"]) not in json.dumps(done)
    assert [case.get("uniform") for case in done["cases"]] == [None, None, "16x64", None]
    page = results.markdown([measured])
    assert "### 16x64" in page
    assert "| torch | " in page.partition("| engine | first call ms | memory MB |")[2]
    assert "time / pruneonce's | quartiles | time / pruneonce-int8's | quartiles" in page


class Scripted:
    """An engine process whose calls take what they are told, and which keeps who was asked."""

    def __init__(self, name, log):
        self.name, self._log, self._calls = name, log, 0

    def run(self, calls):
        self._log.append((self.name, calls))
        self._calls += calls
        return [(10 * self._calls + number, None) for number in range(calls)]


def test_turns_have_another_order_in_each_round_the_same_for_a_seed():
    def orders(seed):
        log = []
        engines = [Scripted(name, log) for name in "abcd"]
        seconds, first = take_turns(engines, 6, 2, np.random.default_rng(seed))
        assert seconds["a"] == [10 * 3 * each + 2 for each in range(1, 7)]
        assert first["a"] == [10 * 3 * each for each in range(1, 7)]
        assert {calls for _, calls in log} == {3}
        return ["".join(name for name, _ in log[at : at + 4]) for at in range(0, 24, 4)]

    assert all(sorted(order) == list("abcd") for order in orders(1))
    assert len(set(orders(1))) > 1
    assert orders(1) == orders(1) != orders(2)


def test_without_calls_that_settle_there_is_no_first_one():
    seconds, first = take_turns([Scripted("a", [])], 2, 0, np.random.default_rng(0))
    assert (len(seconds["a"]), first) == (2, {})


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are stopped by what /proc tells")
def test_an_engine_is_stopped_but_in_its_turn_and_ends_with_who_started_it(folders, tmp_path):
    subject = read_subject(folders["classes"])
    pack(subject, tmp_path)
    made_from = EngineSettings(subject, str(tmp_path), 1)
    batch = Inputs(load_tokenizer(folders["classes"])).batch("b", [5, 9])
    engine = start_engine("pruneonce", made_from, [])
    try:
        call = engine.prepare(batch)
        assert state_of(engine.pid) == "T"
        (first, _), (last, output) = engine.run(2)
        assert state_of(engine.pid) == "T"
        assert min(first, last) > 0
        assert engine.resident_bytes > 10e6
        expected = Ours(tmp_path / "pruneonce.pruneonce").prepare(batch)()[1]
        for answer in (output, call()[1]):
            for found, row in zip(answer, expected, strict=True):  # another start may choose another kernel
                np.testing.assert_allclose(found, row, atol=2e-6)
    finally:
        engine.close()
    assert not Path(f"/proc/{engine.pid}").exists()
    with pytest.raises(UsageError, match="unknown"):
        make_engine("abacus", made_from)
    with pytest.raises(PruneonceError, match="onnxruntime"):
        start_engine("onnxruntime", made_from, [])  # its file is not there


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.slow
def test_int8_is_left_out_where_it_is_not_wanted(folders):
    settings = BenchSettings(against=(), grid="1x8", threads=1, rounds=1, int8=False)
    done = run_on_folder(folders["classes"], settings, lambda *_: None)
    assert list(done.cases[0].seconds) == ["pruneonce"]
    assert "| pruneonce-int8 |" not in results.markdown([done])


@pytest.mark.parametrize("name", ["classes", "spans", "distilbert"])
def test_a_quantised_folder_is_measured_as_it_is_and_its_rivals_get_its_floats(folders, tmp_path, name):
    """Quantising twice gives the same model, and neither row is that of the other."""
    subject = read_subject(folders[name])
    inputs = Inputs(load_tokenizer(folders[name]))
    quantized = int8_subject(subject, tmp_path / "int8", [inputs.batch("", [20]) for _ in range(3)])
    assert not is_int8(subject)
    assert is_int8(quantized)
    assert int8_subject(quantized, tmp_path / "again", []) is quantized
    floats = float_subject(quantized, tmp_path / "floats")
    assert not is_int8(floats)
    assert float_subject(subject, tmp_path / "unused") is subject
    batch = inputs.batch("b", [9, 16])
    outputs = {}
    for key, each in {"int8": quantized, "floats": floats, "torch": floats}.items():
        folder = tmp_path / f"work-{key}"
        folder.mkdir()
        name = "pruneonce-int8" if key == "int8" else "pruneonce"
        engine = Torch(each) if key == "torch" else Ours(pack(each, folder, name), name)
        outputs[key] = np.concatenate([row.reshape(-1) for row in rows(engine.prepare(batch)()[1], batch.lengths)])
    np.testing.assert_allclose(outputs["floats"], outputs["torch"], atol=2e-6)
    difference = np.abs(outputs["int8"] - outputs["torch"]).max()
    assert 1e-6 < difference < 0.1


@pytest.mark.slow
def test_every_engine_answers_the_same_task(folders, tmp_path):
    data = tmp_path / "dev.tsv"
    data.write_text("sentence\tlabel\n" + "good film\t1\nbad story\t0\nbad bad film\t0\n")
    task = TaskData("sst2", validation=str(data))
    settings = BenchSettings(against=("torch",), grid="1x8", threads=1, rounds=1, task=task)
    done = run_on_folder(folders["classes"], settings, lambda *_: None)
    assert done.accuracy.keys() == {"pruneonce", "pruneonce-int8", "torch"}
    assert done.accuracy["pruneonce"] == done.accuracy["torch"]
    assert f"| torch | {done.accuracy['torch']['accuracy']:.4f} |" in results.markdown([done])


def test_random_blocks_are_zeros_in_fours(tmp_path):
    subject = make_random("minilm", "sequence-classification", 0.9, tmp_path, pattern="1x4")
    assert "in blocks of 1x4" in subject.name
    assert abs(subject.sparsity - 0.9) < 1e-3
    with safe_open(tmp_path / "model.safetensors", framework="np") as tensors:
        weight = tensors.get_tensor("bert.encoder.layer.0.output.dense.weight")
    assert set(np.count_nonzero(weight.reshape(len(weight), -1, 4), axis=2).reshape(-1)) == {0, 4}
    with pytest.raises(UsageError, match="--pattern '2x2' is unknown"):
        make_random("minilm", "sequence-classification", 0.9, tmp_path, pattern="2x2")


def test_a_limit_measured_in_a_bad_moment_is_not_the_limit():
    calm = SpeedLimits("cpu", ("avx2",), "avx2", 2, 1, peak_gflops=200.0, bandwidth_gb_per_s=10.0, load_average=0.1)
    best = best_of(calm, replace(calm, peak_gflops=100.0, bandwidth_gb_per_s=20.0, load_average=2.0))
    assert (best.peak_gflops, best.bandwidth_gb_per_s, best.load_average) == (200.0, 20.0, 0.1)


def test_work_is_counted_from_the_non_zeros(folders):
    dense, layers, hidden = 2 * (4 * 32 * 32 + 2 * 32 * 64), 2, 32
    subject = read_subject(folders["classes"])
    assert subject.nonzeros_per_token == dense - 32 * 32  # half of one 64 x 32 matrix is zero
    assert subject.nonzeros_per_sequence == 32 * 32
    weights = subject.nonzeros_per_token * 7 + 2 * 32 * 32
    assert subject.useful_flops([3, 4]) == 2 * (weights + 2 * layers * hidden * (9 + 16))


def test_a_rival_that_is_not_installed_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"openvino cannot be measured, onnx is not installed.*pruneonce\[bench\]"):
        require(["torch", "openvino"], deepsparse_python=None)


def test_an_unknown_rival_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="'tensorrt' is unknown: expected some of torch, onnxruntime"):
        require(["tensorrt"], deepsparse_python=None)


def test_deepsparse_without_its_python_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(UsageError, match=r"--deepsparse-python is missing: .*pip install deepsparse"):
        require(["deepsparse"], deepsparse_python=None)
    with pytest.raises(UsageError, match="there is no"):
        require(["deepsparse"], deepsparse_python=tmp_path / "python")


def test_a_python_without_deepsparse_is_an_error_not_a_hang(folders, tmp_path):
    with pytest.raises(PruneonceError, match=r"deepsparse has ended: ModuleNotFoundError.*pip install deepsparse"):
        DeepSparse(read_subject(folders["classes"]), tmp_path, 1, Path(sys.executable))


def test_messages_between_the_processes_survive_and_cut_ones_are_noticed():
    stream = io.BytesIO()
    arrays = [np.arange(6, dtype=np.int64).reshape(2, 3), np.float32([[0.5]]), np.zeros((0, 4), np.float32)]
    send(stream, {"run": True}, arrays)
    message, received = receive(io.BytesIO(stream.getvalue()))
    assert message == {"run": True}
    for sent, got in zip(arrays, received, strict=True):
        assert (sent.dtype, sent.shape) == (got.dtype, got.shape)
        np.testing.assert_array_equal(sent, got)
    with pytest.raises(EOFError):
        receive(io.BytesIO(stream.getvalue()[:-1]))


def test_padding_marks_exactly_the_real_tokens():
    sequences = np.array([7, 8, 9]), np.array([5])
    ids, mask, types = Batch("b", sequences, pad_id=3).padded()
    assert ids.tolist() == [[7, 8, 9], [5, 3, 3]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert not types.any()
    wide = Batch("b", sequences, 3, (np.array([0, 1, 1]), np.array([1])), padded_tokens=4).padded()
    assert [each.tolist() for each in wide] == [
        [[7, 8, 9, 3], [5, 3, 3, 3]],
        [[1, 1, 1, 0], [1, 0, 0, 0]],
        [[0, 1, 1, 0], [1, 0, 0, 0]],
    ]


def test_text_is_used_in_order_and_goes_round(tiny_bert, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("good film\nbad story\n")
    tokenizer = load_tokenizer(tiny_bert)
    batch = Inputs(tokenizer, texts=file).batch("t", [5, 4])
    assert [[tokenizer.id_to_token(i) for i in each] for each in batch.sequences] == [
        ["[CLS]", "good", "film", "bad", "[SEP]"],
        ["[CLS]", "story", "good", "[SEP]"],
    ]


@pytest.mark.parametrize("grid", ["1x", "0x8", "ax8", "1x65", "1x1", "", "1x8,"])
def test_a_bad_grid_cell_is_named(grid):
    with pytest.raises(UsageError, match="--grid cell"):
        parse_grid(grid, 64)


def test_lengths_of_a_file_are_read_and_cut_to_the_model(tmp_path):
    file = tmp_path / "lengths"
    file.write_text("3\n500\n")
    assert mixed_lengths(str(file), 64) == [3, 64]
    file.write_text("three\n")
    with pytest.raises(UsageError, match="a file of token counts is expected"):
        mixed_lengths(str(file), 64)
