"""`quantize` on tiny models: both methods, both families, the int8 engine beside torch, killed runs, broken input."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny_stages
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
)

from pruneonce import _native
from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.convert.inspect_packed import inspect_packed
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.evaluation.packed import engine_predict, score_packed
from pruneonce.evaluation.scoring import score_folder, score_packed_beside
from pruneonce.formats.packed_file import read_packed, write_packed
from pruneonce.formats.record import read_provenance
from pruneonce.formats.scales_file import FILE_NAME, read_quantization
from pruneonce.formats.stored_tensors import SparseMatrix
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.recipe import TaskData, parse_recipe
from pruneonce.run.model import load_model
from pruneonce.sparsity.layers import Sparse, WorkingLinear
from pruneonce.sparsity.quantizer import quantized
from pruneonce.tasks.recipe_data import task_of
from pruneonce.train.task_model import load_task_model, torch_predict

ISAS = _native.available_isas()
# Share of the largest logit by which torch and the engine may differ. Nearly always it is below 1e-6; but where floats
# differ in the last bit, an activation may round to the neighbouring code, and a logit moves by a part of a step.
LOGIT_BOUND = 1e-3
run = functools.partial(tiny_stages.run, "quantize")
LAYER_PARTS = {part: f"attention.self.{part}" for part in ("query", "key", "value")} | {
    "intermediate": "intermediate.dense"
}
HEADS = {
    ("bert", "task"): BertForSequenceClassification,
    ("bert", "pretrained"): BertForPreTraining,
    ("distilbert", "task"): DistilBertForSequenceClassification,
    ("distilbert", "pretrained"): DistilBertForMaskedLM,
}


@pytest.fixture(scope="module")
def sparse(tiny_bert, tiny_distilbert, tmp_path_factory):
    """Folder of a random model, 80 % of its encoder zeros: (family, "task" or "pretrained")."""
    folders = {}

    def sparse(family, kind):
        if (family, kind) not in folders:
            source = tiny_bert if family == "bert" else tiny_distilbert
            folder = tmp_path_factory.mktemp(f"{family}-{kind}")
            config = AutoConfig.from_pretrained(source)
            config.id2label, config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
            torch.manual_seed(3)
            model = HEADS[family, kind](config)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if parameter.dim() == 2 and (".layer." in name or "pooler" in name):
                        parameter.mul_((torch.rand_like(parameter) < 0.2) * 8)
            model.save_pretrained(folder)
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(source / name, folder / name)
            folders[family, kind] = folder
        return folders[family, kind]

    return sparse


def values(model, reviews, method="qat", kernel="sparse", **changes):
    training = {"steps": 12, "batch_size": 8, "learning_rate": 1e-3, "checkpoint_steps": 4, "micro_batch_size": 4}
    training["kernel"] = kernel
    return {
        "model": str(model),
        "task": {"name": "classification", "train": str(reviews), "validation": str(reviews), "max_tokens": 32},
        "method": method,
        "calibration_examples": 20,
        "lock": "require",
        **({"training": training} if method == "qat" else {}),
        **changes,
    }


@pytest.fixture(scope="module")
def quantised(sparse, reviews, tmp_path_factory):
    """Folder of a quantised model: (family, method, numbers of its attention)."""
    folders = {}

    def quantised(family, method, attention="fp32"):
        key = family, method, attention
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp(f"{family}-{method}-{attention}") / "out"
            run(values(sparse(family, "task"), reviews, method, attention=attention), folders[key])
        return folders[key]

    return quantised


# ---------------------------------------------------------------------------------------------- what a folder holds


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("method", ["qat", "ptq"])
def test_every_method_writes_whole_numbers_and_keeps_every_zero(family, method, sparse, quantised):
    before = load_file(sparse(family, "task") / "model.safetensors")
    folder = quantised(family, method)
    after, layers = load_file(folder / "model.safetensors"), read_quantization(folder)
    assert before.keys() == after.keys()
    assert len(layers) == (13 if family == "bert" else 12)
    vanished = 0
    for name, layer in layers.items():
        old, new = before[f"{name}.weight"], after[f"{name}.weight"]
        assert not new[old == 0].any()
        vanished += int(((new == 0) & (old != 0)).sum())
        whole = new.numpy() / layer.weight_scale[:, None]
        np.testing.assert_allclose(whole, np.rint(whole), atol=1e-4)
        assert np.abs(whole).max() == pytest.approx(127)
        assert layer.output_scale is None
    record = read_provenance(folder)
    assert record.stage == "quantize"
    assert record.rounded_to_zero == vanished or method == "qat"
    assert record.steps == (12 if method == "qat" else 0)
    assert inspect_folder(folder).lock_intact
    rest = [name for name in after if name.removesuffix(".weight") not in layers]
    assert all(torch.equal(before[name], after[name]) for name in rest) == (method == "ptq")
    assert not list(folder.glob("checkpoints"))
    assert not (folder / "run.json").exists()


@pytest.mark.slow
def test_transformers_loads_a_quantised_folder_as_a_plain_float_model(quantised):
    code = (
        "import sys, torch, transformers; f = sys.argv[1]; t = transformers.AutoTokenizer.from_pretrained(f); "
        "m = transformers.AutoModelForSequenceClassification.from_pretrained(f); "
        "assert type(m.bert.encoder.layer[0].output.dense) is torch.nn.Linear; "
        "m(**t('the film was good', return_tensors='pt')); assert 'pruneonce' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", code, str(quantised("bert", "qat"))], check=True
    )


def test_finished_quantisation_is_skipped_and_another_preset_is_refused(sparse, quantised, reviews):
    folder = quantised("bert", "ptq")
    written = (folder / FILE_NAME).stat().st_mtime_ns
    recipe = values(sparse("bert", "task"), reviews, "ptq")
    run(recipe, folder)
    assert (folder / FILE_NAME).stat().st_mtime_ns == written
    with pytest.raises(UsageError, match=r"finished run of other inputs \(recipe.preset is 'default' there"):
        run(recipe | {"preset": "paper"}, folder)


def test_a_quantised_folder_can_be_quantised_again_and_fine_tuned(quantised, reviews, tmp_path):
    record = run(values(quantised("bert", "ptq"), reviews, "ptq"), tmp_path / "again")
    first, second = (load_file(f / "model.safetensors") for f in (quantised("bert", "ptq"), tmp_path / "again"))
    assert record.rounded_to_zero == 0
    assert all(torch.allclose(first[name], value, rtol=1e-6) for name, value in second.items())


# ------------------------------------------------------------------------------------------------- the int8 engine


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("method", ["qat", "ptq"])
@pytest.mark.parametrize("attention", ["fp32", "int8"])
def test_fake_quantised_torch_answers_as_the_int8_engine_on_every_instruction_set(
    family, method, attention, quantised, reviews, tmp_path
):
    folder, file = quantised(family, method, attention), tmp_path / "m.pruneonce"
    export_packed(folder, file, embeddings="fp32")
    data = TaskData("classification", validation=str(reviews), labels=("no", "yes"), max_tokens=32)
    task = task_of(data)
    model, _ = load_task_model(folder, task, trained=True)
    features = task.features(task.read(str(reviews)), load_tokenizer(folder), 32)
    with quantized(model, read_quantization(folder)):
        expected = np.stack(torch_predict(model, task, pad_id=0)(features))
    plain = np.stack(torch_predict(model, task, pad_id=0)(features))
    bound = LOGIT_BOUND * np.abs(expected).max()
    assert np.abs(plain - expected).max() > 10 * bound, "rounding changes more than may differ between the two"
    for isa in ISAS:
        found = np.stack(engine_predict(load_model(file, isa=isa))(features))
        difference = np.abs(found - expected).max(axis=1)
        assert np.median(difference) < bound / 100, isa
        assert (difference < bound).mean() > 0.99, isa
        # Scores are whole numbers in the engine and floats in torch: more probabilities lie between two codes.
        assert difference.max() < (10 if attention == "fp32" else 20) * bound, isa
        assert np.array_equal(found.argmax(1), expected.argmax(1)), isa


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("attention", ["fp32", "int8"])
def test_an_int8_encoder_has_the_same_bits_wherever_there_are_fused_multiply_adds(
    family, attention, quantised, tmp_path
):
    """Sums are whole numbers, and floats are computed by the same steps in the same order, however wide vectors are."""
    file = tmp_path / "m.pruneonce"
    export_packed(quantised(family, "ptq", attention), file, embeddings="int8")
    ids = [np.arange(5, 5 + tokens) % 30 for tokens in (3, 17, 40)]
    states = {isa: load_model(file, isa=isa).hidden_states(ids) for isa in ISAS if isa != "scalar"}
    for isa, found in states.items():
        for mine, other in zip(found, next(iter(states.values())), strict=True):
            assert np.array_equal(mine, other), isa


@pytest.mark.parametrize("method", ["qat", "ptq"])
def test_attention_in_8_bits_is_asked_for_and_then_in_the_file_or_nothing_of_it_is(method, quantised, tmp_path):
    for attention, version in (("fp32", 2), ("int8", 4)):
        folder = quantised("bert", method, attention)
        coded = {name for name, layer in read_quantization(folder).items() if layer.attention_scale is not None}
        rows = {name for name in read_quantization(folder) if name.endswith(("query", "key", "value"))}
        assert coded == (rows if attention == "int8" else set())
        export_packed(folder, tmp_path / attention)
        packed = read_packed(tmp_path / attention)
        assert packed.version == version
        for name, layer in read_quantization(folder).items():
            found = packed.tensors[f"{name}.weight"].quantization
            for part in ("attention_scale", "attention_zero_point"):
                assert getattr(found, part) == getattr(layer, part), part
        layers = load_model(tmp_path / attention).encoder.layers
        assert all((layer.attention_codes is not None) == (attention == "int8") for layer in layers)


def test_a_file_in_which_some_layers_lack_codes_for_attention_or_others_have_them_is_refused(quantised, tmp_path):
    export_packed(quantised("bert", "ptq", "int8"), tmp_path / "m")
    packed = read_packed(tmp_path / "m")
    one, point = np.ones(1, np.float32), np.ones(1, np.uint8)
    for message, parts, scale, zero_point in (
        ("codes of queries, keys and values, or of none", ["query"], None, None),
        ("queries, keys and values of all layers have one, or none", ["intermediate"], one, point),
        ("queries, keys and values of all layers have one, or none", ["query", "key", "value"], None, None),
        ("the scales of queries and keys are too large", ["query", "key"], one * np.float32(1e20), point),
    ):
        changed = {}
        for name in (f"bert.encoder.layer.0.{LAYER_PARTS[part]}.weight" for part in parts):
            matrix = packed.tensors[name]
            codes = replace(matrix.quantization, attention_scale=scale, attention_zero_point=zero_point)
            changed[name] = replace(matrix, quantization=codes)
        write_packed(tmp_path / "lie", replace(packed, tensors=packed.tensors | changed))
        with pytest.raises(PruneonceError, match=message):
            load_model(tmp_path / "lie")


@pytest.mark.parametrize("attention", ["fp32", "int8"])
def test_scores_of_folder_file_and_record_are_one(attention, quantised, reviews, tmp_path):
    folder, file = quantised("bert", "qat", attention), tmp_path / "m.pruneonce"
    export_packed(folder, file, embeddings="fp32")
    data = TaskData("classification", validation=str(reviews), max_tokens=32)
    metrics, difference = score_packed_beside(file, folder, data)
    assert metrics == score_folder(folder, data) == score_packed(file, data) == read_provenance(folder).metrics
    assert 0 < difference < 0.1


def test_packed_matrices_are_int8_values_with_the_scales_of_the_folder(quantised, tmp_path):
    folder, file = quantised("bert", "ptq"), tmp_path / "m.pruneonce"
    export_packed(folder, file, embeddings="int8")
    packed, weights = read_packed(file), load_file(folder / "model.safetensors")
    for name, layer in read_quantization(folder).items():
        matrix = packed.tensors[f"{name}.weight"]
        assert isinstance(matrix, SparseMatrix)
        assert (matrix.type.name, matrix.values.dtype) == ("int8", np.int8)
        np.testing.assert_array_equal(matrix.quantization.scale, layer.weight_scale)
        np.testing.assert_allclose(matrix.to_dense(), weights[f"{name}.weight"].numpy(), rtol=1e-6)
    assert inspect_packed(file).lock_intact


def test_inspect_says_what_the_encoder_shrank_to_with_and_without_positions(quantised, tmp_path, pruneonce):
    file = tmp_path / "m.pruneonce"
    export_packed(quantised("bert", "ptq"), file, embeddings="int8")
    code, out, _ = pruneonce("inspect", file, "--json")
    report = json.loads(out)
    encoder = [tensor for tensor in report["tensors"] if tensor["kind"] == "encoder values"]
    dense = 4 * sum(int(np.prod(tensor["shape"])) for tensor in encoder)
    assert code == 0
    assert report["encoder_ratio_of_numbers"] == pytest.approx(dense / sum(tensor["stored"] for tensor in encoder))
    stored = sum(tensor["value_bytes"] + tensor["position_bytes"] for tensor in encoder)
    assert report["encoder_ratio"] == pytest.approx(dense / stored)
    assert report["ratio"] < report["encoder_ratio"] < report["encoder_ratio_of_numbers"]
    code, out, _ = pruneonce("inspect", file)
    assert f"as papers count: {report['encoder_ratio_of_numbers']:.1f}" in out


def changed(folder, tmp_path, change):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "pruneonce.json").unlink()
    change(broken)
    return broken


def test_weights_that_were_trained_after_quantising_are_refused(quantised, tmp_path):
    def train(folder):
        weights = load_file(folder / "model.safetensors")
        weights["bert.encoder.layer.1.output.dense.weight"] *= 1.01
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(PruneonceError, match=r"layer\.1\.output\.dense\.weight: .*quantise it again"):
        export_packed(changed(quantised("bert", "ptq"), tmp_path, train), tmp_path / "m")


def test_a_quantised_layer_that_the_folder_lacks_is_named(quantised, tmp_path):
    def rename(folder):
        tensors = load_file(folder / FILE_NAME)
        renamed = {name.replace("pooler", "cooler"): value for name, value in tensors.items()}
        save_file(renamed, folder / FILE_NAME, metadata={"format_version": "1"})

    broken = changed(quantised("bert", "ptq"), tmp_path, rename)
    with pytest.raises(PruneonceError, match=r"bert\.cooler\.dense is quantised, but the folder has no tensor"):
        export_packed(broken, tmp_path / "m")
    with pytest.raises(PruneonceError, match=r"bert\.cooler\.dense is not in the model"):
        score_folder(broken, TaskData("classification", validation=str(tmp_path / "m"), labels=("no", "yes")))


# ---------------------------------------------------------------------------------------------- the paper's preset


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_papers_preset_is_the_same_scheme_in_both_families_and_not_for_the_engine(
    family, sparse, reviews, tmp_path
):
    recipe = values(sparse(family, "task"), reviews, "ptq", preset="paper")
    record = run(recipe, tmp_path / "out")
    layers = read_quantization(tmp_path / "out")
    assert len(layers) == 14, "all linear layers: DistilBERT's pre_classifier stands for BERT's pooler"
    assert "classifier" in layers
    assert sum(layer.output_scale is not None for layer in layers.values()) == 6
    assert all(len(set(layer.weight_scale)) == 1 for layer in layers.values())
    data = TaskData("classification", validation=str(reviews), max_tokens=32)
    assert score_folder(tmp_path / "out", data) == record.metrics
    with pytest.raises(PruneonceError, match=r"the output of .* is quantised too.*preset = \"default\""):
        export_packed(tmp_path / "out", tmp_path / "m")
    assert not (tmp_path / "m").exists()


# -------------------------------------------------------------------------------------------------------- training


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_sparse_language_model_is_fine_tuned_distilled_locked_and_quantised_in_one_run(
    family, sparse, reviews, tmp_path
):
    model = sparse(family, "pretrained")
    recipe = values(model, reviews, distillation={"teacher": str(sparse(family, "task"))}, begin_step=2)
    record = run(recipe, tmp_path / "out")
    assert record.steps == 12
    before, after = (load_file(f / "model.safetensors") for f in (model, tmp_path / "out"))
    names = [name for name in read_quantization(tmp_path / "out") if f"{name}.weight" in before]
    assert len(names) >= 12
    for name in names:
        assert not after[f"{name}.weight"][before[f"{name}.weight"] == 0].any()
        assert not torch.equal(after[f"{name}.weight"], before[f"{name}.weight"])
    export_packed(tmp_path / "out", tmp_path / "m", embeddings="fp32")
    metrics = score_packed(tmp_path / "m", TaskData("classification", validation=str(reviews), max_tokens=32))
    assert metrics["accuracy"] == pytest.approx(record.metrics["accuracy"], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_training_by_the_non_zeros_alone_is_that_of_masked_layers(preset, sparse, reviews, tmp_path, monkeypatch):
    from pruneonce.train import trainer as training

    seen, original = [], training.StageTrainer.training_step

    def step(self, *args, **kwargs):
        layers = [each for each in self.run.hub_model.modules() if isinstance(each, WorkingLinear) and each.rounding]
        seen.append((sum(isinstance(each.form, Sparse) for each in layers), len(layers)))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(training.StageTrainer, "training_step", step)
    losses, weights = [], []
    for kernel in ("dense", "sparse"):
        recipe = values(sparse("bert", "task"), reviews, preset=preset, kernel=kernel)
        recipe["training"] |= {"log_steps": 1, "dropout": 0.0, "learning_rate": 1e-4}
        run(recipe, tmp_path / kernel)
        losses.append([entry["loss"] for entry in json.loads((tmp_path / kernel / "training_log.json").read_text())])
        weights.append(load_file(tmp_path / kernel / "model.safetensors"))
    classifier = int(preset == "paper")  # quantised there too, and dense
    assert set(seen) == {(0, 13 + classifier), (13, 13 + classifier)}
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    for name, value in weights[0].items():
        # Where a weight lies between two whole numbers the last bit of a float decides.
        close = torch.isclose(weights[1][name], value, atol=1e-4, rtol=0.02)
        assert float(close.float().mean()) > 0.97, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill_at", "preset", "kernel", "attention"),
    [
        ("step 7", "default", "sparse", "fp32"),
        ("step 7", "default", "sparse", "int8"),
        ("step 7", "paper", "dense", "fp32"),
        ("model saved, record not", "paper", "sparse", "fp32"),
    ],
)
def test_killed_quantisation_ends_bit_for_bit_like_an_uninterrupted_one(
    kill_at, preset, kernel, attention, sparse, reviews, tmp_path
):
    # dropout on, two accumulated parts
    recipe = values(sparse("bert", "task"), reviews, preset=preset, kernel=kernel, attention=attention)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run(recipe, straight, keep_checkpoints=True)
    tiny_stages.kill("quantize", recipe, killed, kill_at)
    run(recipe, killed, keep_checkpoints=True)
    last = "checkpoints/checkpoint-12"
    for file in ("model.safetensors", FILE_NAME, *(f"{last}/{name}.safetensors" for name in ("model", "quantizer"))):
        assert (killed / file).read_bytes() == (straight / file).read_bytes(), file
    logs = [json.loads((folder / "training_log.json").read_text()) for folder in (killed, straight)]
    assert [entry["loss"] for entry in logs[0]] == [entry["loss"] for entry in logs[1]]


# -------------------------------------------------------------------------------------------------------- bad input


def test_nothing_to_calibrate_with_is_one_line(sparse, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(PruneonceError, match=r"empty\.jsonl holds no rows"):
        run(values(sparse("bert", "task"), empty, "ptq"), tmp_path / "out")


def test_broken_weights_are_named_and_nothing_is_saved(sparse, reviews, tmp_path):
    broken = tmp_path / "model"
    shutil.copytree(sparse("bert", "task"), broken)
    weights = load_file(broken / "model.safetensors")
    weights["bert.encoder.layer.0.output.dense.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PruneonceError, match=r"the input of bert\.encoder\.layer\.1\.attention\.self\.query reaches"):
        run(values(broken, reviews, "ptq"), tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_row_of_zeros_goes_all_the_way_to_the_engine(sparse, reviews, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(sparse("bert", "task"), model)
    weights = load_file(model / "model.safetensors")
    weights["bert.encoder.layer.0.output.dense.weight"][5] = 0
    weights["bert.encoder.layer.1.intermediate.dense.weight"][:] = 0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    record = run(values(model, reviews, "ptq"), tmp_path / "out")
    export_packed(tmp_path / "out", tmp_path / "m", embeddings="fp32")
    data = TaskData("classification", validation=str(reviews), max_tokens=32)
    assert score_packed(tmp_path / "m", data) == record.metrics


def test_a_dense_model_is_quantised_too_and_answers_as_its_file(tiny_bert, reviews, tmp_path):
    config = AutoConfig.from_pretrained(tiny_bert)
    config.id2label, config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "dense")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_bert / name, tmp_path / "dense" / name)
    with pytest.raises(UsageError, match="has no zeros to lock"):
        run(values(tmp_path / "dense", reviews, "ptq"), tmp_path / "out")
    run(values(tmp_path / "dense", reviews, "ptq", lock="auto"), tmp_path / "free")
    export_packed(tmp_path / "free", tmp_path / "m", embeddings="fp32")
    data = TaskData("classification", validation=str(reviews), max_tokens=32)
    metrics, difference = score_packed_beside(tmp_path / "m", tmp_path / "free", data)
    assert metrics == read_provenance(tmp_path / "free").metrics
    assert difference < LOGIT_BOUND


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["fp32", "int8"])
def test_mixed_precision_trains_and_saves_whole_numbers(attention, sparse, reviews, tmp_path):
    recipe = values(sparse("bert", "task"), reviews, attention=attention, begin_step=1)
    recipe["training"] |= {"precision": "bf16", "steps": 3}
    run(recipe, tmp_path / "out")
    export_packed(tmp_path / "out", tmp_path / "m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ptq", "training": {"steps": 1, "learning_rate": 1e-3}}, '"ptq" trains nothing'),
        ({"training": False}, r'"qat" needs a section \[training\]'),
        ({"method": "ptq", "training": False, "distillation": {"teacher": "t"}}, r"neither \[distillation\]"),
        ({"method": "ptq", "training": False, "begin_step": 3}, "nor begin_step"),
        ({"begin_step": -1}, "begin_step must not be negative"),
        ({"calibration_examples": 0}, "calibration_examples must be above 0"),
        ({"preset": "int4"}, "'default', 'paper'"),
        ({"attention": "int4"}, "'fp32', 'int8'"),
        ({"attention": "int8", "preset": "paper"}, 'attention = "int8" is for preset = "default"'),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        parse_recipe(values("m", "r") | changes, "quantize")


def test_a_model_without_the_tasks_head_is_not_quantised_without_training(tiny_bert, reviews, tmp_path):
    with pytest.raises(UsageError, match="was not fine-tuned for"):
        run(values(tiny_bert, reviews, "ptq", lock="auto"), tmp_path / "out")


def test_several_processes_are_refused(sparse, reviews, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="runs in one process"):
        run(values(sparse("bert", "task"), reviews), tmp_path / "out")
