"""Studies on a tiny model: shared runs, resuming, failures, budgets, hostile names."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.record import read_provenance
from pruneonce.recipe import FinetuneRecipe, load_recipes, recipes_folder
from pruneonce.stages import RUNNERS
from pruneonce.study import cost
from pruneonce.study import run as study_run
from pruneonce.study.index import index_file, read_study
from pruneonce.study.plan import make_plan
from pruneonce.study.recipe import load_study
from pruneonce.study.run import run_study

TRAINING = "training = { steps = 4, batch_size = 4, learning_rate = 1e-3, dropout = 0.0 }"
STUDY = f"""
source = "a test"
seeds = [1, 2]
sparsities = [0.5, 0.8]
reference = "once"
corpus = {{ texts = ["leads.jsonl"], title_column = "title", max_tokens = 32 }}
[stages]
teacher = {{ stage = "teacher", validation_examples = 8, {TRAINING} }}
prune = {{ stage = "prune", validation_examples = 8, pruning = {{}}, {TRAINING} }}
locked = {{ stage = "finetune", lock = "require", distillation = {{ teacher = "@dense" }}, {TRAINING} }}
finetune = {{ stage = "finetune", {TRAINING} }}
[tasks.reviews.task]
name = "classification"
train = "reviews.jsonl"
validation = "reviews.jsonl"
max_tokens = 32
[methods.dense]
stages = ["teacher", "finetune"]
[methods.once]
title = "Prune Once"
stages = ["teacher", "prune", "locked"]
"""
LATE = """
[methods.late]
stages = ["teacher", "finetune"]
equal_steps = "once"
sparsities = [0.8]
seeds = [1]
set.finetune = { pruning = { rewind = "off" } }
"""


@contextmanager
def silent(_):
    yield lambda *_: None


def write_data(folder):
    """Texts and a task, as files."""
    leads = [{"title": f"{n}", "text": "The city was old. The river was great. " * 3} for n in range(40)]
    reviews = [
        {"text": f"a {word} film {n}", "label": label}
        for n in range(10)
        for word, label in (("good", "positive"), ("bad", "negative"))
    ]
    for name, rows in (("leads.jsonl", leads), ("reviews.jsonl", reviews)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with them."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture
def study(tiny_bert, data, tmp_path):
    """Make the plan of a study's text."""

    def plan(text=STUDY, overrides=(), model=tiny_bert, files=data):
        file = tmp_path / "tiny.toml"
        file.write_text(text)
        return make_plan(load_study(file, [f"model={model}", f"data={files}", *overrides]), tmp_path / "out")

    return plan


def written(plan):
    return {name: (plan.out / name / "pruneonce.json").stat().st_mtime_ns for name in plan.nodes}


@pytest.mark.slow
def test_common_ancestors_are_made_once_and_a_second_run_makes_nothing(study):
    plan = study(STUDY + LATE, ["methods.once.sparsities=[0.8]"])
    assert len(plan.cells) == 2 + 2 + 1
    stages = [node.stage for node in plan.nodes.values()]
    assert (stages.count("teacher"), stages.count("prune"), stages.count("finetune")) == (1, 1, 2 + 2 + 1)
    assert not run_study(plan, silent).failures
    times = written(plan)
    assert run_study(plan, silent).records.keys() == times.keys()
    assert written(plan) == times

    late = next(cell for cell in plan.cells if cell.method == "late")
    record = read_provenance(plan.out / late.chain[-1])
    assert record.steps == 4 + 4, "the steps of prune and locked together"
    assert list(record.sparsity.values()) == pytest.approx([0.8] * len(record.sparsity), abs=0.01)
    sparse = read_provenance(plan.out / next(cell for cell in plan.cells if cell.method == "once").chain[-1])
    assert sparse.masks == read_provenance(plan.out / plan.cells[2].chain[1]).masks
    assert read_study(index_file(plan)).runs.keys() == plan.nodes.keys()


VECTORS = """
[tasks.pairs]
as_is = true
task = { name = "embedding", validation = "pairs.jsonl", max_tokens = 32 }
"""


@pytest.mark.slow
def test_a_task_that_takes_models_as_they_are_scores_what_came_before_its_stages(study, data):
    rows = [{"text": f"a good film {n}", "text_pair": f"it was a good film {n}"} for n in range(12)]
    (data / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = study(STUDY + VECTORS, ["seeds=[1]", "sparsities=[0.8]"])
    chains = {cell.method: cell.chain for cell in plan.cells if cell.task == "pairs"}
    assert [plan.nodes[name].stage for name in chains["dense"]] == ["teacher", "evaluate"]
    assert [plan.nodes[name].stage for name in chains["once"]] == ["teacher", "prune", "evaluate"]
    wanted = {name: node for name, node in plan.nodes.items() if name in {*chains["dense"], *chains["once"]}}
    some = replace(plan, nodes=wanted)
    result = run_study(some, silent)
    assert not result.failures
    for chain in chains.values():
        record, folder = result.records[chain[-1]], plan.out / chain[-1]
        assert list(record.metrics) == ["ndcg@10", "mrr@10", "accuracy@1", "recall@100"]
        assert (folder / "predictions.json").is_file()
        assert not list(folder.glob("*.safetensors")), "scores are not worth a copy of the model"
    times = written(some)
    run_study(some, silent)
    assert written(some) == times


TAUGHT = """
[stages.vectors]
stage = "finetune"
lock = "require"
distillation = { teacher = "@dense", hard_weight = 0.0, kd_weight = 1.0 }
training = { steps = 2, batch_size = 4, learning_rate = 1e-4 }

[methods.taught]
title = "taught"
stages = ["teacher", "prune", "vectors"]
tasks = ["pairs"]
"""


def test_a_stage_that_is_not_scored_as_is_trains_and_learns_from_the_model_that_the_score_was_of(study):
    names = 'as_is = ["finetune", "locked"]'
    plan = study(STUDY + VECTORS.replace("as_is = true", names) + TAUGHT, ["seeds=[1]", "sparsities=[0.8]"])
    chains = {cell.method: cell.chain for cell in plan.cells if cell.task == "pairs"}
    assert [plan.nodes[name].stage for name in chains["once"]] == ["teacher", "prune", "evaluate"]
    assert [plan.nodes[name].stage for name in chains["taught"]] == ["teacher", "prune", "finetune"]
    teacher, score = chains["dense"]
    assert plan.nodes[score].stage == "evaluate"
    taught = plan.nodes[chains["taught"][-1]]
    assert taught.recipe.distillation.teacher == str(plan.out / teacher), "a score has no model to learn from"
    assert taught.parents == (chains["taught"][1], teacher)


def test_without_a_stage_before_its_score_the_teacher_is_the_untouched_model(study):
    untouched = STUDY.replace('stages = ["teacher", "finetune"]', 'stages = ["finetune"]')
    assert untouched != STUDY
    names = 'as_is = ["finetune", "locked"]'
    plan = study(untouched + VECTORS.replace("as_is = true", names) + TAUGHT, ["seeds=[1]", "sparsities=[0.8]"])
    chain = next(cell.chain for cell in plan.cells if (cell.method, cell.task) == ("taught", "pairs"))
    taught = plan.nodes[chain[-1]]
    assert taught.recipe.distillation.teacher == plan.nodes[chain[0]].recipe.model
    assert taught.parents == (chain[1],)


@pytest.mark.parametrize("as_is", ['"dense"', '["dens"]', "3"])
def test_as_is_that_names_no_stage_is_an_error(study, as_is):
    with pytest.raises(UsageError, match="as_is"):
        study(STUDY + VECTORS.replace("as_is = true", f"as_is = {as_is}"))


@pytest.mark.slow
def test_interrupted_study_goes_on_where_it_was(study, monkeypatch):
    plan = study(overrides=["seeds=[1]", "sparsities=[0.8]"])
    finetune = RUNNERS["finetune"]

    def interrupt(recipe, options):
        raise KeyboardInterrupt

    monkeypatch.setitem(study_run.RUNNERS, "finetune", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_study(plan, silent)
    assert read_study(index_file(plan)).cells, "a report can say what is there so far"
    done = {name for name in plan.nodes if read_provenance(plan.out / name)}
    assert len(done) == 1
    monkeypatch.setitem(study_run.RUNNERS, "finetune", finetune)
    assert run_study(plan, silent).records.keys() == plan.nodes.keys()


@pytest.mark.slow
def test_failed_run_takes_only_its_children_with_it_and_is_tried_again(study, monkeypatch):
    plan = study(overrides=["seeds=[1]", "sparsities=[0.8]"])
    prune = RUNNERS["prune"]

    def diverge(recipe, options):
        raise PruneonceError("the loss is nan")

    monkeypatch.setitem(study_run.RUNNERS, "prune", diverge)
    outcome = run_study(plan, silent)
    dense, once = plan.cells
    assert set(dense.chain) <= outcome.records.keys()
    assert outcome.failures == {once.chain[1]: "the loss is nan", once.chain[2]: f"{once.chain[1]} has no result"}
    assert read_study(index_file(plan)).failures == outcome.failures
    monkeypatch.setitem(study_run.RUNNERS, "prune", prune)
    assert not run_study(plan, silent).failures
    assert read_study(index_file(plan)).failures == {}


@pytest.mark.slow
def test_runs_side_by_side_give_what_runs_one_by_one_give_and_note_failures_too(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study_run, "available_cores", lambda: 2)
    settings = ["sparsities=[0.8]", "seeds=[1]"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as a worker gets: more of them round sums in another order
    alone = run_study(study(STUDY, settings), silent)
    torch.set_num_threads(threads)
    broken = '[methods.broken]\nlike = "once"\nset.prune = { training = { learning_rate = 1e30 } }\n'
    plan = study(STUDY + broken, settings)
    plan = make_plan(plan.study, tmp_path / "side by side")
    together = run_study(plan, silent, jobs=2)
    assert {n: r.metrics for n, r in together.records.items()} == {n: r.metrics for n, r in alone.records.items()}
    assert {n: r.masks for n, r in together.records.items()} == {n: r.masks for n, r in alone.records.items()}
    chain = next(cell.chain for cell in plan.cells if cell.method == "broken")
    assert list(together.failures) == list(chain[1:])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_a_study_that_is_killed_leaves_no_worker_behind(study, data, tiny_bert, tmp_path):
    study(STUDY)
    command = [sys.executable, "-m", "pruneonce.cli", "study", str(tmp_path / "tiny.toml"), "--jobs", "2"]
    command += ["--set", f"model={tiny_bert}", "--set", f"data={data}", "--out", str(tmp_path / "out")]
    command += ["--set", "stages.teacher.training.steps=100000"]
    mark = f"PRUNEONCE_TEST={tmp_path}"  # in the environment of whatever it starts
    environment = os.environ | dict([mark.split("=")])
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        waited_for(lambda: list((tmp_path / "out").glob("teacher-*/run.json")))
        workers = processes_with(mark) - {started.pid}
    finally:
        started.kill()
        started.wait()
    assert workers
    waited_for(lambda: not any(alive(worker) for worker in workers))


def test_a_worker_that_is_killed_is_one_line(study, monkeypatch):
    monkeypatch.setattr(study_run, "_run_node", be_killed)
    with pytest.raises(PruneonceError, match="want of memory: give fewer --jobs, then run the same command") as caught:
        run_study(study(STUDY, ["sparsities=[0.8]", "seeds=[1]"]), silent, jobs=2)
    assert "\n" not in str(caught.value)


def be_killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def waited_for(condition, seconds=300.0):
    """What `condition` returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


def processes_with(mark):
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes():
                found.add(int(process.name))
    return found


def alive(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_another_learning_rate_is_another_run_beside_the_old_one(study):
    plan, other = study(), study(overrides=["stages.prune.training.learning_rate=2e-3"])
    changed = {name for name in plan.nodes if name not in other.nodes}
    assert {plan.nodes[name].stage for name in changed} == {"prune", "finetune"}
    assert all(name.startswith(("prune-", "locked-")) for name in changed)


def test_names_of_runs_do_not_depend_on_where_the_data_and_the_model_are(study, tmp_path):
    assert study().nodes.keys() == study(model="elsewhere", files=tmp_path).nodes.keys()


def test_only_the_wanted_cells_cost_anything_when_a_task_or_method_is_switched_off(study):
    text = STUDY + LATE + '\n[tasks.other.task]\nname = "classification"\ntrain = "x"\nvalidation = "x"\n'
    text += '[methods.special]\nlike = "once"\ntasks = ["other"]\n'
    assert {cell.task for cell in study(text).cells} == {"reviews", "other"}
    plan = study(
        text,
        ["tasks.other=false", "methods.once=false", "reference=", "methods.special=false", "methods.late.equal_steps="],
    )
    assert {(cell.method, cell.task) for cell in plan.cells} == {("dense", "reviews"), ("late", "reviews")}
    assert {node.stage for node in plan.nodes.values()} == {"teacher", "finetune"}
    plan = study(text, ["tasks.other=false"])
    assert "special" not in {cell.method for cell in plan.cells}, "it had no other task"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps = 4", "stepz = 4"), r"method 'dense', stage 'teacher': unknown key 'training\.stepz': did you mean"),
        (('source = "a test"', "sead = 1"), "unknown key 'sead'"),
        (('title = "Prune Once"', 'tilte = "x"'), r"unknown key 'methods\.once\.tilte'"),
        (("[tasks.reviews.task]", '[tasks."../../x".task]'), "cannot be part of a folder name"),
        (('stages = ["teacher", "prune", "locked"]', 'stages = ["teacher", "prun"]'), "names 'prun': expected one of"),
        (('stages = ["teacher", "prune", "locked"]', 'stages = ["teacher"]'), "must end with a stage for a task"),
        (('teacher = "@dense"', 'teacher = "@nobody"'), "'@nobody' names no method"),
        (('teacher = "@dense"', 'teacher = "@once"'), "methods need each other|is needed dense"),
        (("sparsities = [0.5, 0.8]", "sparsities = [80.0]"), "0.9 for 90 %"),
        (("seeds = [1, 2]", "seeds = [1, 1]"), "names a seed twice"),
        (('stage = "teacher",', 'stage = "teach",'), "must be one of teacher, compress, prune"),
        (('stage = "teacher",', 'stage = ["teacher"],'), "must be one of teacher, compress, prune"),
        (("seeds = [1, 2]", "seeds = [1, -2]"), "'seeds' must be at least 0"),
        (("[methods.dense]", "[methods.dense]\nset.finetun = {}"), "names 'finetun'"),
        (('title = "Prune Once"', 'equal_steps = "once"'), "methods need each other"),
        (('title = "Prune Once"', 'like = "later"'), "a method above it"),
        (('stage = "finetune", lock', 'stage = "finetune", model = "x", lock'), "'model' is the study's to say"),
        (('reference = "once"', 'reference = "twice"'), "names 'twice'"),
        (('distillation = { teacher = "@dense" }', "distillation = 0.5"), "distillation"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(study, change, message):
    assert change[0] in STUDY
    with pytest.raises(UsageError, match=message) as caught:
        study(STUDY.replace(*change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "near"), [("tasks.review", "reviews"), ("methods.onec", "once")])
def test_a_misspelt_task_or_method_is_not_switched_off_in_silence(study, tmp_path, key, near):
    message = rf"there is no \w+ '{key.split('.')[1]}' \(did you mean '{near}'\?\)"
    with pytest.raises(UsageError, match=message):
        study(overrides=[f"{key}=false"])
    (tmp_path / "more.toml").write_text(f'extends = "tiny.toml"\n{key} = false\n')
    with pytest.raises(UsageError, match=f"more.toml.*{message}"):
        load_study(tmp_path / "more.toml")


def test_json_of_a_study_is_all_that_standard_output_gets(study, tiny_bert, data, tmp_path, pruneonce, monkeypatch):
    plan = study()
    name = next(iter(plan.nodes))
    outcome = SimpleNamespace(records={name: SimpleNamespace(metrics={"accuracy": 1.0})}, failures={"other": "burnt"})
    monkeypatch.setattr(study_run, "run_study", lambda *_: outcome)
    settings = ["--set", f"model={tiny_bert}", "--set", f"data={data}"]
    found = pruneonce("study", tmp_path / "tiny.toml", "--out", tmp_path / "out", "--json", *settings)
    assert found[0] == 1
    assert json.loads(found[1]) == {"runs": {name: {"accuracy": 1.0}}, "failures": {"other": "burnt"}}
    assert "runs are done" in found[2]


def test_a_stage_that_trains_nothing_takes_no_steps_from_its_task(study):
    text = STUDY.replace("max_tokens = 32\n[methods", "max_tokens = 32\n[tasks.reviews.training]\nsteps = 7\n[methods")
    text = text.replace("[tasks", '[stages.int8]\nstage = "quantize"\nmethod = "ptq"\ntraining = false\n[tasks', 1)
    text += '[methods.small]\nstages = ["teacher", "prune", "locked", "int8"]\n'
    plan = study(text)
    small = next(cell for cell in plan.cells if cell.method == "small")
    assert [plan.nodes[name].steps for name in small.chain] == [4, 4, 7, 0]
    assert plan.nodes[small.chain[-1]].examples == 0
    assert small.chain[:-1] == next(cell for cell in plan.cells if cell.method == "once").chain, "shared"


def test_a_task_may_be_for_some_sparsities_only(study):
    plan = study(overrides=["tasks.reviews.sparsities=[0.8]"])
    assert [(cell.method, cell.sparsity) for cell in plan.cells] == [("dense", None)] * 2 + [("once", 0.8)] * 2
    assert plan.nodes.keys() < study().nodes.keys()


def test_a_study_may_extend_another_and_share_its_runs(study, tmp_path, tiny_bert, data):
    plan = study(STUDY)
    file = tmp_path / "more.toml"
    file.write_text(
        'extends = "tiny.toml"\nseeds = [1]\n[methods.hotter]\nlike = "once"\n'
        "set.locked = { distillation = { temperature = 5.5 } }\n"
    )
    more = make_plan(load_study(file, [f"model={tiny_bert}", f"data={data}"]), tmp_path / "out")
    assert {cell.method for cell in more.cells} == {"dense", "once", "hotter"}
    new = more.nodes.keys() - plan.nodes.keys()
    assert len(new) == 2
    assert all(name.startswith("locked-") for name in new)
    assert index_file(more) != index_file(plan)
    file.write_text('extends = "more.toml"\n')
    with pytest.raises(UsageError, match="extends itself"):
        load_study(file)


def test_equal_steps_that_cannot_be_counted_are_refused(study):
    with pytest.raises(UsageError, match=r"needs training\.steps in every stage"):
        study(
            (STUDY + LATE).replace(
                'distillation = { teacher = "@dense" }, training = { steps = 4',
                'distillation = { teacher = "@dense" }, training = { epochs = 4',
            )
        )
    with pytest.raises(UsageError, match="already as long"):
        study(
            STUDY + LATE,
            ["stages.teacher.training.steps=4", 'methods.late.stages=["teacher", "prune", "locked", "finetune"]'],
        )


@pytest.mark.slow
def test_dry_run_states_cells_budgets_and_cost_and_trains_nothing(pruneonce, study, data, tiny_bert, tmp_path):
    study(STUDY + LATE)
    command = ("study", tmp_path / "tiny.toml", "--set", f"model={tiny_bert}", "--set", f"data={data}", "--dry-run")
    code, out, err = pruneonce(*command, "--json", "--out", tmp_path / "none")
    assert code == 0, err
    assert err.startswith(f"{len(json.loads(out)['cells'])} cells of ")  # said before the minutes that it takes
    assert "timing a few steps of each kind of run here" in err
    plan = json.loads(out)
    late = next(cell for cell in plan["cells"] if cell["method"] == "late")
    assert (late["steps"], late["examples"], late["sparsity"]) == (4 + 8, 4 * (4 + 8), 0.8)
    assert plan["hours_left"] > 0
    assert all(run["hours"] > 0 and not run["done"] for run in plan["runs"].values())
    assert not (tmp_path / "none").exists()
    code, out, _ = pruneonce(*command, "--out", tmp_path / "none")
    assert code == 0
    assert "nothing has been trained" in out


@pytest.mark.slow
def test_a_locked_run_costs_what_its_inherited_zeros_leave(study, monkeypatch):
    """Its model is not there yet: the study knows how sparse it will be, and that a late pruning starts dense."""
    probed = set()
    original = cost.estimate

    def estimate(recipe, **given):
        if isinstance(recipe, FinetuneRecipe):
            probed.add((recipe.pruning is not None, given["sparsity"]))
        return original(recipe, **given)

    plan = study(STUDY + LATE)
    monkeypatch.setattr(cost, "estimate", estimate)
    assert cost.plan_costs(plan).keys() == plan.nodes.keys()
    assert probed == {(False, None), (False, 0.5), (False, 0.8), (True, None)}


@pytest.mark.parametrize("file", sorted((recipes_folder() / "studies").iterdir()), ids=lambda file: file.stem)
def test_shipped_study_plans_and_says_where_it_comes_from(file, tmp_path):
    study = load_study(file)
    assert study.source
    plan = make_plan(study, tmp_path)
    assert len(study.seeds) >= 2
    assert {cell.method for cell in plan.cells} == set(study.methods)
    text = file.read_text()
    assert not any(word in text for word in ("/root", "/home", "/work", str(Path.home()))), "no path of a machine"


# ------------------------------------------------------------------------------------------------------------- seeds


def seeds_recipe(path, model, data, seeds="seeds = [3, 4]"):
    path.write_text(
        f'stage = "finetune"\nmodel = "{model}"\n{seeds}\n[task]\nname = "classification"\n'
        f'train = "{data}/reviews.jsonl"\nvalidation = "{data}/reviews.jsonl"\nmax_tokens = 32\n'
        "[training]\nsteps = 3\nbatch_size = 4\nlearning_rate = 1e-3\n"
    )
    return path


@pytest.mark.slow
def test_every_seed_gets_its_folder_and_an_aggregate_says_mean_std_and_n(pruneonce, tiny_bert, data, tmp_path):
    recipe = seeds_recipe(tmp_path / "r.toml", tiny_bert, data)
    code, out, err = pruneonce("finetune", recipe, "--out", tmp_path / "out")
    assert code == 0, err
    assert "n = 2" in out
    records = [read_provenance(tmp_path / "out" / f"seed-{seed}") for seed in (3, 4)]
    assert [record.seed for record in records] == [3, 4]
    aggregate = json.loads((tmp_path / "out" / "seeds.json").read_text())
    values = [record.metrics["accuracy"] for record in records]
    found = aggregate["metrics"]["accuracy"]
    assert found["mean"] == pytest.approx(sum(values) / 2)
    assert found["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert (found["n"], aggregate["seeds"]) == (2, [3, 4])


def test_one_seed_stays_one_plain_folder(pruneonce, tiny_bert, data, tmp_path):
    recipe = seeds_recipe(tmp_path / "r.toml", tiny_bert, data, seeds="")
    code, _, err = pruneonce("finetune", recipe, "--out", tmp_path / "out")
    assert code == 0, err
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "seeds" not in read_provenance(tmp_path / "out").recipe


@pytest.mark.parametrize(
    ("seeds", "message"),
    [("seeds = 3", "list of integers"), ("seeds = []", "list of integers"), ("seeds = [1, true]", "list of integers"),
     ("seeds = [2, 2]", "twice"), ("seed = 1\nseeds = [2]", "both given")],
)  # fmt: skip
def test_seeds_that_are_none_are_refused(tmp_path, seeds, message):
    with pytest.raises(UsageError, match=message):
        load_recipes(seeds_recipe(tmp_path / "r.toml", "m", "d", seeds), "finetune")


def test_a_recipe_of_several_runs_is_refused_where_one_is_expected(tmp_path, pruneonce):
    from pruneonce.recipe import load_recipe

    recipe = seeds_recipe(tmp_path / "r.toml", "m", "d")
    with pytest.raises(UsageError, match="asks for several runs"):
        load_recipe(recipe, "finetune")
    assert len(load_recipes(recipe, "finetune", ["seeds=false"])) == 1


def test_aggregate_leaves_out_what_a_run_lacks():
    from pruneonce.evaluation.over_seeds import summarise_metrics

    found = summarise_metrics([{"a": 1.0, "b": 2.0}, {"a": 3.0}])
    assert set(found) == {"a"}
    assert summarise_metrics([{"a": 1.0}])["a"].std is None, "one run says nothing of its spread"
