"""A model folder that brings Python files along: no command runs one, or asks whether it may. A config of nonsense."""

from __future__ import annotations

import json
import re
import shutil

import pytest

UNKNOWN = "'theirs' is not supported"


@pytest.fixture
def arm(monkeypatch, tmp_path):
    """Copies a folder with code that every way we know of asks to be run; it leaves the file `ran` if it is."""
    ran = tmp_path / "ran"

    def arm(folder, model_type):
        target = tmp_path / f"armed-{model_type}"
        shutil.copytree(folder, target)
        code = f"open({str(ran)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\nclass Module: pass\n"
        for name in ("theirs.py", "__init__.py", "configuration.py", "modeling.py", "custom_generate.py"):
            (target / name).write_text(code)
        classes = ("Model", "ModelForPreTraining", "ModelForMaskedLM", "ModelForSequenceClassification")
        asks = {"AutoConfig": "theirs.Config", **{f"Auto{each}": "theirs.Model" for each in classes}}
        config = json.loads((target / "config.json").read_text())
        config |= {"model_type": model_type, "auto_map": asks, "custom_generate": "custom_generate"}
        (target / "config.json").write_text(json.dumps(config))
        tokens = json.loads((target / "tokenizer_config.json").read_text())
        tokens |= {"auto_map": {"AutoTokenizer": ["theirs.Model", "theirs.Model"]}}
        (target / "tokenizer_config.json").write_text(json.dumps(tokens))
        return target

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody asks whether to run a folder's code"))
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    yield arm
    assert not ran.exists()


def recipes(folder, model, corpus, reviews):
    """A recipe file of each stage for a model."""
    training = "[training]\nsteps = 2\nbatch_size = 4\nlearning_rate = 1e-3\n"
    task = f'[task]\nname = "classification"\ntrain = "{reviews}"\nvalidation = "{reviews}"\n'
    bodies = dict.fromkeys(("teacher", "prune"), f'corpus = "{corpus}"\nvalidation_examples = 4\n{training}')
    bodies |= dict.fromkeys(("finetune", "quantize"), task + training)
    found = {}
    for stage, body in bodies.items():
        found[stage] = folder / f"{stage}.toml"
        found[stage].write_text(f'stage = "{stage}"\nmodel = "{model}"\n{body}')
    return found


def commands(model, stages, articles, reviews, out):
    """Every command that is given a model folder, and whether it needs the encoder of a family that we know."""
    yield from ([stage, recipe, "--out", out / stage] for stage, recipe in stages.items())
    yield ["prune", stages["prune"], "--dry-run"]
    yield ["doctor", stages["finetune"]]
    yield ["compress", model, "--texts", reviews, "--budget", "1s", "--no-speed", "--out", out / "compress"]
    yield ["evaluate", model, "--task", "classification", "--data", reviews]
    yield ["inspect", model]
    yield ["export", model, "--out", out / "m.pruneonce"]
    yield ["export", model, "--to", "onnx", "--out", out / "m.onnx"]
    yield ["push", model, "--repo", "me/mine", "--dry-run"]
    yield ["import", model, "--out", out / "imported"]
    yield ["bench", model, "--against", "torch", "--grid", "1x8", "--rounds", "1", "--threads", "1"]
    yield ["bench-train", model, "--grid", "2x8", "--rounds", "1", "--threads", "1"]
    pretraining = ["data", "pretraining", articles, "--tokenizer", model, "--out", out / "corpus"]
    yield [*pretraining, "--max-tokens", "32", "--workers", "1"]


def test_an_unknown_family_is_refused_in_one_line_by_every_command(
    arm, pruneonce, sparse_tiny_bert, pair_corpus, articles, reviews, tmp_path
):
    model = arm(sparse_tiny_bert, "theirs")
    stages = recipes(tmp_path, model, pair_corpus, reviews)
    refused = 0
    for command in commands(model, stages, articles, reviews, tmp_path / "out"):
        code, _, err = pruneonce(*command)
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in err, (command, err)
        if command[0] == "data":  # a tokenizer has no family
            continue
        assert (code in (1, 2), len(errors)) == (True, 1), (command, err)
        refused += UNKNOWN in errors[0]
    assert refused >= 13


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_known_family_is_loaded_without_its_code_by_every_command(
    arm, pruneonce, sparse_tiny_bert, pair_corpus, articles, reviews, tmp_path
):
    model = arm(sparse_tiny_bert, "bert")
    stages = recipes(tmp_path, model, pair_corpus, reviews)
    codes = {}
    for command in commands(model, stages, articles, reviews, tmp_path / "out"):
        if command[0] in ("bench", "bench-train"):  # minutes on a busy machine, and `load_hub_model` as of the others
            continue
        codes[" ".join(map(str, command))], _, err = pruneonce(*command)
        assert "Traceback" not in err, (command, err)
    assert sum(code == 0 for code in codes.values()) >= 10, codes


def test_a_module_of_sentence_transformers_that_is_not_its_own_is_refused(arm, pruneonce, sparse_tiny_bert, tmp_path):
    model = arm(sparse_tiny_bert, "bert")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "theirs.Module"}]
    (model / "modules.json").write_text(json.dumps(modules))
    code, _, err = pruneonce("export", model, "--out", tmp_path / "m.pruneonce")
    assert (code, err.count("\n"), "'theirs.Module', which we do not compute" in err) == (2, 1, True), err


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bos_token_id", 0.5, "'bos_token_id' with value 0.5 doesn't match any"),
        ("use_cache", 3, "'use_cache' expected bool, got int .value: 3"),
        ("hidden_dropout_prob", 254, "dropout probability has to be between 0 and 1, but got 254"),
        ("type_vocab_size", 7, "token_type_embeddings.weight of the shape|weights have other shapes"),
        ("intermediate_size", 48, "intermediate.dense.bias of the shape|weights have other shapes"),
    ],
)
@pytest.mark.parametrize("command", ["finetune", "evaluate", "export"])
def test_a_config_that_transformers_cannot_use_is_one_line(
    command, key, value, message, pruneonce, sparse_tiny_bert, reviews, tmp_path
):
    folder = tmp_path / "model"
    shutil.copytree(sparse_tiny_bert, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    recipe = tmp_path / "task.toml"
    recipe.write_text(
        f'stage = "finetune"\nmodel = "{folder}"\n[task]\nname = "classification"\ntrain = "{reviews}"\n'
        f'validation = "{reviews}"\n[training]\nsteps = 1\nbatch_size = 4\nlearning_rate = 1e-3\n'
    )
    words = {
        "finetune": [recipe, "--out", tmp_path / "out"],
        "evaluate": [folder, "--task", "classification", "--data", reviews],
        "export": [folder, "--to", "onnx", "--out", tmp_path / "m.onnx"],
    }
    code, _, err = pruneonce(command, *words[command])
    assert (code, "Traceback" in err) == (2, False), err
    assert re.search(f"^error: .*{message}", err.strip().splitlines()[-1])
