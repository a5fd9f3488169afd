"""The command line as a person meets it: answers, JSON, exit codes, one-line errors."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertConfig, BertForPreTraining, BertForSequenceClassification

from pruneonce.errors import PruneonceError
from pruneonce.formats.model_folder import WEIGHTS_FILE as WEIGHTS
from pruneonce.recipe import recipes_folder
from pruneonce.sparsity.masks import magnitude_mask


@pytest.fixture(scope="module")
def wide_sparse(tiny_bert, tmp_path_factory):
    """Two layers of BERT-large's width with 90 % zeros and no record of ours, like a published sparse checkpoint."""
    folder = tmp_path_factory.mktemp("wide")
    config = BertConfig(
        vocab_size=AutoTokenizer.from_pretrained(tiny_bert).vocab_size,
        hidden_size=1024,
        num_hidden_layers=2,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    model = BertForPreTraining(config)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name.startswith("bert."):
                module.weight.mul_(magnitude_mask(module.weight, 0.9))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return folder


@pytest.fixture
def reviews(tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text("text,label\n" + "a good film,yes\na bad film,no\n" * 10)
    return file


def write_recipe(path, model, reviews, steps=3):
    path.write_text(
        f'stage = "finetune"\nmodel = "{model}"\nlock = "require"\n'
        f'[task]\nname = "classification"\ntrain = "{reviews}"\nvalidation = "{reviews}"\n'
        f"[training]\nsteps = {steps}\nbatch_size = 4\nlearning_rate = 1e-4\n"
    )
    return path


@pytest.mark.slow
def test_foreign_sparse_checkpoint_is_recognised_locked_and_finetuned(pruneonce, wide_sparse, reviews, tmp_path):
    code, out, _ = pruneonce("inspect", wide_sparse, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["prunable"]["sparsity"] == pytest.approx(0.9, abs=1e-5)
    assert report["lock_intact"] is None

    recipe = write_recipe(tmp_path / "task.toml", wide_sparse, reviews)
    code, out, err = pruneonce("finetune", recipe, "--out", tmp_path / "out")
    assert code == 0, err
    assert "accuracy" in out
    code, out, _ = pruneonce("inspect", tmp_path / "out", "--json")
    after = json.loads(out)
    digests = [{m["name"]: m["mask_digest"] for m in r["matrices"] if m["prunable"]} for r in (report, after)]
    assert digests[0] == digests[1]
    assert after["lock_intact"] is True

    code, out, _ = pruneonce("evaluate", tmp_path / "out", "--task", "classification", "--data", reviews, "--json")
    assert code == 0
    assert 0 <= json.loads(out)["metrics"]["accuracy"] <= 1


def test_inspect_prints_totals_with_and_without_embeddings(pruneonce, wide_sparse):
    code, out, _ = pruneonce("inspect", wide_sparse)
    assert code == 0
    assert "all but the embeddings" in out
    assert "90.00%" in out


def weights_folder(folder, **weights):
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    save_file({f"bert.encoder.layer.0.{name}.dense.weight": each for name, each in weights.items()}, folder / WEIGHTS)
    return folder


def test_inspect_measures_bfloat16_by_what_is_zero(pruneonce, tmp_path):
    weight = torch.randn(8, 8).bfloat16() * (torch.rand(8, 8) < 0.5)  # with zeros of both signs
    assert (weight.view(torch.int16) == -(2**15)).any()
    reports = []
    for name, each in ("bf16", weight), ("fp32", weight.float()):
        code, out, err = pruneonce("inspect", weights_folder(tmp_path / name, output=each), "--json")
        assert code == 0, err
        reports.append([(m["zeros"], m["mask_digest"]) for m in json.loads(out)["matrices"]])
    assert reports[0] == reports[1]


def test_inspect_refuses_what_it_cannot_measure_in_one_line(pruneonce, tmp_path):
    (weights_folder(tmp_path / "folder", output=torch.ones(2, 2)) / "model-x.safetensors").mkdir()
    weights_folder(tmp_path / "float8", output=torch.ones(2, 2).to(torch.float8_e4m3fn))
    for name, message in [
        ("folder", "model-x.safetensors: it is not a file"),
        ("float8", "tensor bert.encoder.layer.0.output.dense.weight: dtype 'F8_E4M3' is not one of"),
    ]:
        code, _, err = pruneonce("inspect", tmp_path / name)
        assert (code, len(err.splitlines())) == (1, 1)
        assert message in err


def test_dry_run_lists_targets_and_trains_nothing(pruneonce, tiny_bert, tmp_path):
    recipe = tmp_path / "prune.toml"
    recipe.write_text(f'model = "{tiny_bert}"\ncorpus = "none"\n[training]\nsteps = 10\nlearning_rate = 1e-4\n')
    code, out, _ = pruneonce("prune", recipe, "--dry-run", "--no-pooler")
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if line.count("│") > 3}
    assert code == 0
    assert "90.0%" in rows["bert.encoder.layer.1.output.dense"]
    assert "dense" in rows["bert.pooler.dense"].split("│")[3]
    assert "dense" in rows["cls.predictions.decoder"].split("│")[3]
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_doctor_estimates_a_published_recipe_before_its_teacher_exists(pruneonce, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = pruneonce("doctor", recipes_folder() / "distilbert" / "prune-90.toml", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["machine"]["matmul_gflops"] > 0
    assert answer["recipe"]["hours"] == pytest.approx(answer["recipe"]["seconds_per_step"] * 100_000 / 3600)
    parameters = 66_985_530  # of DistilBertForMaskedLM
    assert answer["recipe"]["memory_bytes"] > 16 * parameters
    assert not list(tmp_path.iterdir())


def test_doctor_estimates_a_quantisation_and_refuses_one_that_trains_nothing(pruneonce, tiny_bert, tmp_path):
    recipe = tmp_path / "int8.toml"
    lines = f'stage = "quantize"\nmodel = "{tiny_bert}"\n[task]\nname = "sst2"\nmax_tokens = 16\n'
    recipe.write_text(lines + "[training]\nepochs = 1\nlearning_rate = 1e-5\n")
    code, out, err = pruneonce("doctor", recipe, "--json")
    assert code == 0, err
    assert json.loads(out)["recipe"]["steps"] == round(67_349 / 32)
    code, _, err = pruneonce("doctor", recipe, "--set", "method=ptq", "--set", "training=false")
    assert (code, "trains nothing" in err) == (2, True)


@pytest.mark.slow
def test_doctor_knows_that_locked_zeros_are_neither_computed_nor_kept(pruneonce, tiny_bert, tmp_path):
    from transformers import BertForPreTraining

    model = BertForPreTraining.from_pretrained(tiny_bert)
    for layer in model.bert.encoder.modules():
        if hasattr(layer, "weight") and layer.weight.dim() == 2:
            layer.weight.data.view(-1)[: int(0.9 * layer.weight.numel())] = 0
    model.bert.pooler.dense.weight.data[:, : int(0.9 * model.config.hidden_size)] = 0
    model.save_pretrained(tmp_path / "sparse")
    (tmp_path / "sparse" / "tokenizer.json").write_bytes((tiny_bert / "tokenizer.json").read_bytes())
    recipe = tmp_path / "task.toml"
    recipe.write_text(
        'stage = "finetune"\nmodel = "sparse"\n[task]\nname = "sst2"\nmax_tokens = 16\n'
        "[training]\nsteps = 10\nlearning_rate = 1e-5\nbatch_size = 1\n"
    )

    def estimate(*overrides):
        settings = [word for override in overrides for word in ("--set", override)]
        code, out, err = pruneonce("doctor", recipe, "--json", *settings)
        assert code == 0, err
        return json.loads(out)["recipe"]

    locked, free = (estimate(f"model={tmp_path / 'sparse'}", f"lock={lock}") for lock in ("require", "off"))
    assert "90% of the weights locked" in locked["probe"]
    assert "locked" not in free["probe"]
    assert locked["memory_bytes"] < free["memory_bytes"]
    assert locked["disk_bytes"] < free["disk_bytes"], "moments of zeros are not kept"
    dense = estimate(f"model={tiny_bert}", "lock=auto")
    assert "locked" not in dense["probe"]
    # A published model that is not here, and not pruned by any run of ours: what such models have is taken for granted.
    assert "90% of the weights locked" in estimate("model=distilbert-sparse", "lock=require")["probe"]


def test_quantize_from_the_command_line_refuses_in_one_line(pruneonce, tiny_bert, reviews, tmp_path):
    code, _, err = pruneonce("quantize", "nowhere.toml")
    assert (code, "nowhere.toml does not exist" in err) == (2, True)
    recipe = tmp_path / "int8.toml"
    recipe.write_text(
        f'stage = "quantize"\nmodel = "{tiny_bert}"\nmethod = "ptq"\n[task]\nname = "classification"\n'
        f'train = "{reviews}"\nvalidation = "{reviews}"\n'
    )
    code, _, err = pruneonce("quantize", recipe, "--out", tmp_path / "out")
    assert (code, "was not fine-tuned for classification" in err) == (2, True), err


def test_data_commands_make_a_corpus_and_say_how_fast(pruneonce, tiny_bert, tmp_path):
    (tmp_path / "notes.txt").write_text(
        "The city was old. The river was great.\n\nThe king had a war. It was not good.\n"
    )
    code, out, err = pruneonce("data", "text", tmp_path / "notes.txt", "--out", tmp_path / "articles")
    assert (code, "2 articles" in out) == (0, True), err
    arguments = ["--tokenizer", tiny_bert, "--out", tmp_path / "corpus", "--max-tokens", "32", "--workers", "1"]
    code, out, err = pruneonce("data", "pretraining", tmp_path / "articles", *arguments)
    assert code == 0, err
    assert "tokens/s" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["inspect", "nowhere"], 2, "'nowhere' is not a folder"),
        (["prune", "nowhere.toml"], 2, "recipe nowhere.toml does not exist"),
        (["finetune", "RECIPE", "--set", "training.stepz=3"], 2, "did you mean 'training.steps'"),
        (["prune", "RECIPE"], 2, "is a recipe for `pruneonce finetune`"),
        (["finetune", "RECIPE", "--set", "task.name=sst3"], 2, "unknown task 'sst3' (did you mean 'sst2'?)"),
        (["finetune", "RECIPE", "--set", "task.text=sentence"], 2, "has no column 'sentence'"),
        (["evaluate", "MODEL", "--task", "squad", "--data", "REVIEWS"], 2, "was not fine-tuned for question answering"),
        (["predict", "nowhere.pruneonce", "a"], 2, "'nowhere.pruneonce' does not exist"),
        (["embed", "nowhere.pruneonce", "--input", "REVIEWS", "--output", "v.npy"], 2, "does not exist"),
        (["serve", "nowhere.pruneonce"], 2, "does not exist"),
        (["data", "pretraining", "ARTICLES", "--tokenizer", "/no/where", "--out", "OUT"], 2, "'/no/where' does not"),
        (["data", "text", "EMPTY", "--out", "OUT"], 1, "no"),
    ],
)
def test_mistakes_are_one_line_with_the_right_exit_code(
    arguments, code, message, pruneonce, tiny_bert, reviews, articles, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    names = {
        "RECIPE": write_recipe(tmp_path / "task.toml", tiny_bert, reviews),
        "MODEL": tiny_bert,
        "REVIEWS": reviews,
        "EMPTY": tmp_path / "empty.txt",
        "ARTICLES": articles,
        "OUT": tmp_path / "out",
    }
    found, _, err = pruneonce(*(names.get(argument, argument) for argument in arguments))
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert found == code
    assert "Traceback" not in err


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize("command", ["evaluate", "finetune", "export", "inspect"])
@pytest.mark.parametrize("damage", ["cut off", "git-lfs pointer"])
def test_weights_that_are_not_whole_are_one_line(command, damage, pruneonce, sparse_tiny_bert, reviews, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(sparse_tiny_bert, folder)
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(LFS if damage == "git-lfs pointer" else whole[:20_000])
    words = {
        "evaluate": [folder, "--task", "classification", "--data", reviews],
        "finetune": [write_recipe(tmp_path / "task.toml", folder, reviews), "--out", tmp_path / "out"],
        "export": [folder, "--to", "onnx", "--out", tmp_path / "m.onnx"],
        "inspect": [folder],
    }
    code, _, err = pruneonce(command, *words[command])
    last = err.strip().splitlines()[-1]
    assert (code, "Traceback" in err) == (1, False), err
    if damage == "git-lfs pointer":
        assert "this is a git-lfs pointer, not the file: run `git lfs pull`" in last
    elif command != "inspect":
        assert f"the file is cut off: 20,000 of {len(whole):,} bytes" in last


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("runs/bert-base/teacher", "'runs/bert-base/teacher' does not exist: make it with `pruneonce teacher`"),
        ("../mine", "'../mine' does not exist"),
        ("runs/my-task", "'runs/my-task' does not exist"),
    ],
)
def test_a_path_that_leads_nowhere_is_not_taken_for_a_hub_id(path, message, pruneonce, reviews, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = pruneonce("evaluate", path, "--task", "classification", "--data", reviews)
    assert (code, err.strip().splitlines()[-1]) == (2, f"error: {message}")


def test_ctrl_c_says_where_it_stopped_and_that_the_same_command_goes_on(
    pruneonce, sparse_tiny_bert, reviews, tmp_path, monkeypatch
):
    def interrupt(self, args, state, control, **_):
        if state.global_step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("pruneonce.train.trainer._StepCallback.on_step_end", interrupt)
    recipe = write_recipe(tmp_path / "task.toml", sparse_tiny_bert, reviews)
    code, _, err = pruneonce("finetune", recipe, "--out", tmp_path / "out")
    assert code == 130
    assert err.strip().splitlines()[-1] == "stopped at step 2 of 3; last checkpoint: step 1. The same command goes on"


def test_a_model_of_other_labels_is_not_scored(pruneonce, tiny_bert, tmp_path):
    folder = tmp_path / "m"
    names = {0: "negative", 1: "positive"}
    BertForSequenceClassification.from_pretrained(tiny_bert, id2label=names).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    (tmp_path / "dev.tsv").write_text("gj04\t1\t\tthe film was good\ngj04\t0\t*\tfilm the good was\n")
    code, _, err = pruneonce("evaluate", folder, "--task", "cola", "--data", tmp_path / "dev.tsv")
    assert (code, "Traceback" in err) == (2, False)
    assert err.strip().splitlines()[-1] == (
        f"error: {folder} answers negative, positive; task 'cola' has unacceptable, acceptable"
    )


@pytest.mark.parametrize("arguments", [["-h"], ["data", "-h"], ["data", "text", "-h"], ["predict", "-h"]])
def test_h_is_help_everywhere(arguments, pruneonce):
    code, out, _ = pruneonce(*arguments)
    assert (code, "Usage" in out) == (0, True)


def test_capital_v_is_the_version(pruneonce):
    assert pruneonce("-V") == pruneonce("--version")
    assert pruneonce("-V")[0] == 0


def test_a_shell_gets_its_completion(pruneonce, monkeypatch):
    monkeypatch.setenv("_PRUNEONCE_COMPLETE", "source_bash")
    # Under `python -m pytest` click would take the program's name from there.
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "", raising=False)
    code, out, _ = pruneonce()
    assert (code, "complete" in out, "pruneonce" in out) == (0, True, True)


def test_offline_without_assets_is_one_clear_line(pruneonce, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEONCE_ASSETS", str(tmp_path / "assets"))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    code, _, err = pruneonce("quickstart", "--assets-only")
    assert code == 1
    assert err.strip().count("\n") == 0
    assert "could not be downloaded" in err
    assert not (tmp_path / "assets").exists()


def test_doctor_says_what_it_does_before_the_minutes_that_it_takes(
    pruneonce, tiny_bert, reviews, tmp_path, monkeypatch
):
    """The machine, and that steps are timed, stand there already when the first of them is."""
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f'stage = "finetune"\nmodel = "{tiny_bert}"\n[task]\nname = "classification"\ntrain = "{reviews}"\n'
        f'validation = "{reviews}"\n[training]\nsteps = 2\nbatch_size = 4\nlearning_rate = 1e-3\n'
    )

    def no_probe(*_, **__):
        raise PruneonceError("probed")

    monkeypatch.setattr("pruneonce.cost.estimate.probe", no_probe)
    code, out, err = pruneonce("doctor", recipe)
    assert code == 1
    assert "GFLOP/s" in out
    assert err.startswith("timing a few steps of r here")
    code, out, err = pruneonce("doctor", recipe, "--json")
    assert out == ""
    assert err.startswith("timing a few steps of r here")
