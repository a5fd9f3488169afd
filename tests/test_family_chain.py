"""Every family through the chain: pruned on plain text, fine-tuned with its zeros locked, rounded, packed and run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_stages
import torch
from family_models import logits_of, save_family_model

from pruneonce import _native
from pruneonce.convert.inspect import inspect
from pruneonce.convert.to_onnx import export_onnx
from pruneonce.convert.to_packed import export_packed
from pruneonce.data.build import build
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.evaluation.packed import engine_predict
from pruneonce.formats.record import read_provenance
from pruneonce.formats.scales_file import read_quantization, write_quantization
from pruneonce.models import FAMILIES
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.recipe import TaskData
from pruneonce.run.model import load_model
from pruneonce.sparsity.cpu_training import as_served
from pruneonce.sparsity.in_place import quantize_
from pruneonce.sparsity.native_attention import NativeAttention
from pruneonce.sparsity.quantizer import quantized
from pruneonce.tasks.recipe_data import task_of
from pruneonce.train.task_model import load_task_model, torch_predict

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
WITHOUT_ATTENTION = {"attention_scale": None, "attention_zero_point": None}
TRAINING = {"steps": 6, "batch_size": 8, "micro_batch_size": 8, "checkpoint_steps": 6}


@pytest.fixture(scope="module")
def pretrained(articles, tmp_path_factory):
    """(dense folder, corpus of its vocabulary) of a family, made once."""
    made = {}

    def pretrained(family):
        if family.model_type not in made:
            folder = tmp_path_factory.mktemp(family.model_type)
            save_family_model(family, "ForMaskedLM", folder / "dense")
            build(articles, folder / "text", tokenizer=folder / "dense", layout="document_sentences", max_tokens=32)
            made[family.model_type] = folder / "dense", folder / "text"
        return made[family.model_type]

    return pretrained


@pytest.mark.slow
@every_family
def test_zeros_of_plain_text_stay_through_training_rounding_and_the_packed_file(family, pretrained, reviews, tmp_path):
    dense, text = pretrained(family)
    tiny_stages.run("prune", tiny_stages.prune_values(dense, text, **TRAINING), tmp_path / "sparse")
    masks = read_provenance(tmp_path / "sparse").masks
    matrices = sum(each.prunable for each in inspect(tmp_path / "sparse").matrices)
    assert len(masks) == matrices >= 12

    tuned = tiny_stages.finetune_values(tmp_path / "sparse", reviews, **TRAINING)
    tiny_stages.run("finetune", {**tuned, "training": {**tuned["training"], "epochs": None}}, tmp_path / "tuned")
    kept = read_provenance(tmp_path / "tuned").masks
    assert kept == {name: masks[name] for name in kept}
    assert len(kept) == matrices

    rounding = {
        "model": str(tmp_path / "tuned"),
        "task": tuned["task"],
        "method": "qat",
        "calibration_examples": 20,
        "lock": "require",
        "training": {"learning_rate": 1e-3, **TRAINING},
    }
    tiny_stages.run("quantize", rounding, tmp_path / "int8")
    export_packed(tmp_path / "int8", tmp_path / "m.pruneonce", embeddings="fp32")
    report = inspect(tmp_path / "m.pruneonce")
    assert report.lock_intact
    assert sum(each.type == "int8" for each in report.tensors) >= matrices  # and BERT's pooler, which is dense

    task = task_of(TaskData("classification", validation=str(reviews), labels=("no", "yes"), max_tokens=32))
    tokenizer = load_tokenizer(tmp_path / "int8")
    features, padding = (
        task.features(task.read(reviews), tokenizer, 32),
        tokenizer.token_to_id(family.special_tokens.pad),
    )
    model, _ = load_task_model(tmp_path / "int8", task, trained=True)
    with as_served(model, read_quantization(tmp_path / "int8")):
        expected = np.stack(torch_predict(model, task, padding)(features))
    for isa in _native.available_isas():
        found = np.stack(engine_predict(load_model(tmp_path / "m.pruneonce", isa=isa))(features))
        difference = np.abs(found - expected).max(axis=1) / np.abs(expected).max()
        # A float whose last bit differs may round to the neighbouring code: seldom, and by a part of a step.
        assert np.median(difference) < 1e-5, isa
        assert difference.max() < 1e-2, isa


@every_family
def test_attention_in_8_bits_is_scored_as_it_runs_or_refused_in_a_line(family, tmp_path):
    folder = tmp_path / "model"
    model = save_family_model(family, "Model", folder)
    before = model.config._attn_implementation
    generator = np.random.default_rng(0)
    texts = [generator.integers(5, 90, tokens) for tokens in range(20, 41)]
    calibration = [
        {name: torch.from_numpy(ids[None] * (name == "input_ids")) for name in family.inputs} for ids in texts
    ]
    if not family.encoder_plan(model.config.to_dict()).plain_attention:
        with pytest.raises(UsageError, match=f'attention = "int8" is not computed for {family.model_type}'):
            quantize_(model, calibration, attention="int8")
        if family.layer.query is not None:  # nor does the engine believe a file of codes for it
            scales = quantize_(model, calibration)
            codes = {"attention_scale": np.ones(1, np.float32), "attention_zero_point": np.ones(1, np.uint8)}
            model.save_pretrained(folder)
            reading = {name for name in scales if family.role_of(name) in ("query", "key", "value")}
            scales = {name: replace(each, **codes) if name in reading else each for name, each in scales.items()}
            write_quantization(folder, scales)
            export_packed(folder, tmp_path / "m.pruneonce")
            with pytest.raises(PruneonceError, match="without positions in its scores"):
                load_model(tmp_path / "m.pruneonce")
        return
    for batch in calibration:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    scales = quantize_(model, calibration, attention="int8")
    model.save_pretrained(folder)
    write_quantization(folder, scales)
    export_packed(folder, tmp_path / "m.pruneonce", embeddings="fp32")

    def answers():
        return np.concatenate([logits_of(model, ids, np.zeros_like(ids), family) for ids in texts])

    with quantized(model, {name: replace(each, **WITHOUT_ATTENTION) for name, each in scales.items()}):
        layers_alone = answers()
    with as_served(model, scales):
        expected = answers()
    assert model.config._attn_implementation == before
    assert not np.array_equal(answers(), expected), "outside nothing is rounded"
    largest = np.abs(expected).max()
    assert np.median(np.abs(layers_alone - expected).max(axis=1)) > 1e-4 * largest
    for isa in _native.available_isas():
        found = np.concatenate(load_model(tmp_path / "m.pruneonce", isa=isa)(texts))
        difference = np.abs(found - expected).max(axis=1)
        # A float whose last bit differs may round to the neighbouring code: seldom, and by a part of a step.
        assert np.median(difference) < 1e-5 * largest, isa
        assert difference.max() < 1e-2 * largest, isa


@every_family
@pytest.mark.parametrize("head", ["ForSequenceClassification", "Model"])
def test_onnx_answers_as_pytorch(family, head, tmp_path):
    save_family_model(family, head, tmp_path / "model")
    written = export_onnx(tmp_path / "model", tmp_path / "m.onnx")
    assert written.inputs == family.inputs
    assert written.max_difference < 1e-4


@every_family
def test_training_attends_by_our_kernels_as_torch_does_or_not_at_all(family, tmp_path):
    model = save_family_model(family, "Model", tmp_path)
    ids = np.arange(5, 40)
    expected = logits_of(model, ids, np.zeros_like(ids), family)
    attention = NativeAttention(model)
    attention.switch(True)
    np.testing.assert_allclose(logits_of(model, ids, np.zeros_like(ids), family), expected, rtol=0, atol=1e-5)
    attention.switch(False)
