"""`bench-train`: its three processes and their record, what makes it stop, its arithmetic on fabricated clocks."""

from __future__ import annotations

import contextlib
import json
import mmap
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from pruneonce import _native
from pruneonce.bench.inference import resident_memory
from pruneonce.bench.training import parts as training_parts
from pruneonce.bench.training import run as training_run
from pruneonce.bench.training.case import PHASES, SUBJECTS, TrainingCase
from pruneonce.bench.training.parts import PARTS, PartClock, part_clock
from pruneonce.bench.training.record import StepMemory, load_training_bench
from pruneonce.bench.training.results import step_rows, step_seconds
from pruneonce.bench.training.run import TrainingBenchSettings, check_losses, run_on_folder
from pruneonce.bench.training.subject import TrainingSubject
from pruneonce.cli import app as cli
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import read_json
from pruneonce.models import family_of
from pruneonce.report.collect import collect
from pruneonce.report.write import write_report

STEPS = 2


@pytest.fixture(scope="module")
def record_file(sparse_tiny_bert, tmp_path_factory):
    """What the command writes; it starts three processes, so once for all tests."""
    file = tmp_path_factory.mktemp("record") / "step.json"
    command = ["pruneonce", "bench-train", sparse_tiny_bert, "--grid", "3x16", "--rounds", STEPS, "--threads", 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(map(str, [*command, "--kernel", "sparse", "--json", file])))
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code in (0, None)
    return file


@pytest.mark.slow
def test_the_record_has_every_step_of_every_training_and_what_it_was_measured_on(record_file, sparse_tiny_bert):
    record = read_json(record_file)
    assert (record["kind"], record["format"], record["task"]) == ("training step", 1, "classification")
    assert (record["dropout"], record["precision"], record["threads"]) == (0.0, "fp32", 1)
    assert {"processor", "peak_gflops", "load_average"} <= record["machine"].keys()
    assert {"python", "torch", "transformers"} <= record["versions"].keys()
    assert record["model"]["name"] == sparse_tiny_bert.name
    assert record["model"]["sparsity"] == pytest.approx(0.9, abs=0.001)
    assert str(sparse_tiny_bert) not in json.dumps(record)
    (case,) = record["cases"]
    assert (case["name"], case["sequences"], case["tokens"]) == ("3x16", 3, 16)
    for key in ("seconds", "losses", "memory", "parts"):
        assert list(case[key]) == list(SUBJECTS)
    for name in SUBJECTS:
        assert {phase: len(values) for phase, values in case["seconds"][name].items()} == dict.fromkeys(PHASES, STEPS)
        assert len(case["losses"][name]) == 1 + STEPS, "the first step is not timed, its loss is kept"
        assert list(case["parts"][name]) == list(PARTS)
        assert all(seconds["forward"] > 0 for seconds in case["parts"][name].values())
        assert all(seconds["backward"] > 0 for seconds in case["parts"][name].values())
    assert case["kernels"] == {"layers": 13, "sparse": 13, "dense": []}


@pytest.mark.slow
def test_trainings_compute_the_same_and_ours_holds_less(record_file):
    (case,) = read_json(record_file)["cases"]
    losses, memory = case["losses"], case["memory"]
    assert losses["ours"][0] == pytest.approx(losses["dense"][0], rel=1e-5)
    assert losses["ours"] == pytest.approx(losses["masked"], rel=1e-5)
    assert losses["masked"][1] != losses["masked"][0], "nothing was learnt"
    for kind in ("weights", "gradients", "optimizer"):
        assert memory["ours"][kind] < memory["masked"][kind] == memory["dense"][kind]
    assert memory["dense"]["weights"] == memory["dense"]["gradients"], "counted after a step"
    assert memory["dense"]["optimizer"] > 2 * memory["dense"]["weights"]
    assert (memory["ours"]["masks"], memory["masked"]["patterns"], memory["dense"]["masks"]) == (0, 0, 0)
    assert min(memory["ours"]["patterns"], memory["masked"]["masks"]) > 0


@pytest.mark.slow
def test_report_has_a_table_of_the_step_and_one_of_its_parts(record_file, tmp_path):
    files = write_report([record_file], tmp_path / "results.md", tmp_path / "results.html")
    markdown, html = (file.read_text(encoding="utf-8") for file in files)
    for heading in ("A training step", "Parts of a training step"):
        assert f"## {heading}\n" in markdown
        assert f"<h2>{heading}</h2>" in html
    assert "13 of 13 layers with zeros sparse" in markdown
    assert "dropout 0," in markdown
    rows = [line for line in markdown.splitlines() if "| 3x16 classification |" in line]
    assert [row.split(" | ")[2] for row in rows] == [*SUBJECTS, *SUBJECTS]
    assert "## Speed" not in markdown, "no inference was measured"


@pytest.mark.slow
def test_the_command_prints_tables(record_file, sparse_tiny_bert, pruneonce, monkeypatch):
    record = load_training_bench(record_file)
    monkeypatch.setattr(training_run, "run_on_folder", lambda *_: record)
    code, out, err = pruneonce("bench-train", sparse_tiny_bert)
    assert code == 0, err
    for word in (*SUBJECTS, *PARTS, "13 of 13 layers", "17,408 prunable weights", "loss of the first step"):
        assert word in out


def fabricated(record_file):
    """A record of which every figure can be worked out by hand."""
    slow = {"forward": [0.2, 0.4, 0.2], "backward": [0.5, 1.0, 0.5], "optimizer": [0.1, 0.2, 0.1]}
    fast = {"forward": [0.1, 0.2, 0.1], "backward": [0.2, 0.4, 0.2], "optimizer": [0.1, 0.2, 0.1]}
    real = load_training_bench(record_file)
    case = replace(
        real.cases[0],
        name="1x2",
        seconds={"ours": fast, "dense": slow},
        memory={
            "ours": StepMemory(10**6, 0, 0, patterns=10**6, masks=0, peak=9 * 10**6, peak_of_steps=True),
            "dense": StepMemory(10**6, 10**6, 2 * 10**6, 0, 0, peak=9 * 10**6, peak_of_steps=False),
        },
    )
    return replace(real, model=replace(real.model, name="m"), task="question_answering", cases=[case])


@pytest.mark.slow
def test_rows_say_what_the_raw_seconds_and_bytes_say(record_file):
    ours, dense = step_rows(fabricated(record_file))
    assert ours[:3] == ("m", "1x2 question answering", "ours")
    assert ours[3:] == (
        "100.0 (100.0)",
        "200.0 (200.0)",
        "100.0 (100.0)",
        "400.0 (400.0)",
        "",
        "",
        "1",
        "25%",
        "1",
        "9",
    )
    assert dense[6:9] == ("800.0 (800.0)", "2.00", "2.00 to 2.00"), "a slow round is slow for both"
    assert dense[9:] == ("4", "100%", "0", "9 (of the whole process)")
    assert step_seconds({"forward": [1.0], "backward": [2.0], "optimizer": [4.0]}) == [7.0]


@pytest.mark.slow
def test_training_records_are_told_from_others_and_damaged_ones_are_named(record_file, tmp_path):
    material = collect([record_file])
    assert (len(material.training_benches), material.benches) == (1, [])
    assert json.loads(json.dumps(material.training_benches[0].as_json())) == read_json(record_file)
    file = tmp_path / "other.json"
    file.write_text(json.dumps({**read_json(record_file), "format": 2}))
    with pytest.raises(UsageError, match=r"other\.json is no record of `pruneonce bench-train`"):
        collect([file])


def test_losses_that_differ_are_an_error_and_nan_is_never_the_same():
    same = {"ours": [1.0, 0.9], "dense": [1.00005, 0.7], "masked": [1.0, 0.9005]}
    check_losses(same)
    for change in ({"dense": [1.001, 0.9]}, {"dense": [float("nan"), 0.9]}, {"ours": [float("nan"), 0.9]}):
        with pytest.raises(PruneonceError, match="first step's loss"):
            check_losses({**same, **change})
    for later in (0.89, float("nan")):
        with pytest.raises(PruneonceError, match="at step 1 the loss is"):
            check_losses({**same, "masked": [1.0, later]})


ANSWERS_TWICE = """
import sys, os, signal
from pruneonce.bench.inference.deepsparse_worker import receive, send
answers = sys.stdout.buffer
receive(sys.stdin.buffer)
send(answers, {"kernels": {}})
receive(sys.stdin.buffer)
send(answers, {"answer": {"loss": 1.0}})
receive(sys.stdin.buffer)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise MemoryError('no room for weights')", "MemoryError: no room for weights"),
        ("", "it said nothing, exit code 0"),
        (ANSWERS_TWICE, "killed by signal 9"),
    ],
)
def test_a_process_that_dies_is_an_error_not_a_hang(sparse_tiny_bert, monkeypatch, script, reason):
    monkeypatch.setattr(training_run, "_command", lambda: [sys.executable, "-c", script])
    with pytest.raises(PruneonceError, match=f"the process of ours has ended: {reason}.*memory"):
        run_on_folder(sparse_tiny_bert, TrainingBenchSettings("1x8", "classification", threads=1), lambda *_: None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL", "--grid", "16by128"], "--grid cell '16by128' is not SEQUENCESxTOKENS"),
        (["MODEL", "--grid", "1x65"], "this model takes 2 to 64 tokens"),
        (["MODEL", "--task", "squad"], "--task 'squad' is unknown: expected one of classification, question_answering"),
        (["MODEL", "--kernel", "dense"], "--kernel 'dense' is unknown"),
        (["MODEL", "--dropout", "1"], "--dropout 1.0: expected at least 0"),
        (["MODEL", "--random", "bert-base"], "one model folder is expected, or --random"),
        (["--random", "bert-small"], "--random 'bert-small' is unknown"),
        (["--random", "minilm", "--sparsity", "1.5"], "--sparsity 1.5"),
        (["--random", "minilm", "--sparsity", "0"], "has no zeros"),
        ([], "one model folder is expected"),
        (["DENSE"], "has no zeros (less than 1% in every prunable matrix)"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(pruneonce, sparse_tiny_bert, tiny_bert, arguments, message):
    folders = {"MODEL": sparse_tiny_bert, "DENSE": tiny_bert}
    code, _, err = pruneonce("bench-train", *(folders.get(each, each) for each in arguments))
    assert (code, message in err) == (2, True), err


@contextlib.contextmanager
def subject(name, case):
    """In this process, whose number of threads stays what it was."""
    threads = torch.get_num_threads(), _native.num_threads()
    try:
        with contextlib.closing(TrainingSubject(name, case)) as made:
            yield made
    finally:
        torch.set_num_threads(threads[0])
    assert (torch.get_num_threads(), _native.num_threads()) == threads


@pytest.mark.slow
def test_answers_of_another_family_are_trained_alike_too_and_drop_the_same(sparse_tiny_distilbert):
    case = TrainingCase(str(sparse_tiny_distilbert), "question_answering", 3, 24, 1, dropout=0.1, kernel="sparse")
    losses, kernels = {}, {}
    for name in SUBJECTS:
        with subject(name, case) as made:
            losses[name] = [made.step()["loss"] for _ in range(3)]
            kernels[name] = made.kernels()
    check_losses(losses)
    assert losses["ours"][0] != losses["ours"][1]
    assert kernels["ours"]["sparse"] == kernels["ours"]["layers"] == 12
    assert (kernels["masked"]["sparse"], kernels["masked"]["layers"], kernels["dense"]["layers"]) == (0, 12, 0)


def test_what_opens_within_a_part_is_not_charged_to_it_too():
    ticks = iter([0, 1, 3, 6, 10, 15, 21, 21])
    clock = PartClock(lambda: float(next(ticks)))
    clock.enter("attention")  # 1
    clock.enter("attention linears")  # 3
    clock.leave("attention linears")  # 6
    clock.leave("attention")  # 10
    clock.leave("layer norm")  # 15: was never opened
    seconds = clock.lap()  # 21
    assert {part: taken for part, taken in seconds.items() if taken} == {
        "attention": 2 + 4,
        "attention linears": 3,
        "rest": 1 + 5 + 6,
    }


class LoggedClock(PartClock):
    """Keeps what opens and closes, in order."""

    def __init__(self):
        super().__init__()
        self.log = []

    def enter(self, part):
        self.log.append((part, len(self._open)))
        super().enter(part)

    def leave(self, part):
        assert self._open[-1] == part, "parts close in the order in which they opened"
        super().leave(part)


@pytest.mark.parametrize("family", ["sparse_tiny_bert", "sparse_tiny_distilbert"])
def test_every_part_opens_and_closes_in_both_passes(request, monkeypatch, family):
    folder = request.getfixturevalue(family)
    loader = AutoModelForSequenceClassification if family == "sparse_tiny_bert" else AutoModelForQuestionAnswering
    model = loader.from_pretrained(folder)
    monkeypatch.setattr(training_parts, "PartClock", LoggedClock)
    with part_clock(model, family_of(model.config.model_type)) as clock:
        output = model(input_ids=torch.ones(2, 8, dtype=torch.int64))
        counts = []
        for passing in (lambda: None, lambda: output[0].sum().backward()):
            passing()
            opened = [part for part, _ in clock.log]
            counts.append({part: opened.count(part) for part in PARTS[:-1]})
            clock.log.clear()
            clock.lap()
    expected = {"attention linears": 8, "feed-forward linears": 4, "attention": 2, "activation": 2, "layer norm": 5}
    assert counts == [{**expected, "embeddings": 1}] * 2
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc")
def test_a_peak_from_before_is_forgotten():
    if not resident_memory.reset_peak():
        pytest.skip("this system does not reset peaks")
    size = 64 << 20
    before = resident_memory.resident_bytes()
    with mmap.mmap(-1, size) as memory:  # given back at once, whatever the allocator keeps
        memory[::4096] = b"x" * (size // 4096)
    assert resident_memory.peak_bytes() > before + size // 2
    resident_memory.reset_peak()
    assert resident_memory.peak_bytes() < before + size // 2


def test_without_proc_the_process_says_its_most(monkeypatch, tmp_path):
    monkeypatch.setattr(resident_memory, "STATUS", tmp_path / "none")
    monkeypatch.setattr(resident_memory, "CLEAR", tmp_path / "none" / "either")
    assert not resident_memory.reset_peak()
    assert resident_memory.peak_bytes() == resident_memory.resident_bytes() > 1 << 20
