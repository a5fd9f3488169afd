"""ModernBERT and NomicBERT through the stages: pruned, fine-tuned with zeros locked, rounded, exported, answering."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import tiny_stages
import torch
import transformers
from conftest import save_tokenizer
from test_quantize import LOGIT_BOUND, values

from pruneonce import _native
from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.convert.inspect_packed import inspect_packed
from pruneonce.convert.to_onnx import export_onnx
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import UsageError
from pruneonce.evaluation.packed import engine_predict
from pruneonce.evaluation.scoring import score_folder, score_packed_beside
from pruneonce.formats.record import read_provenance
from pruneonce.formats.scales_file import read_quantization
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.recipe import TaskData
from pruneonce.run.model import load_model
from pruneonce.run.pipelines import pipeline
from pruneonce.sparsity.native_attention import NativeAttention
from pruneonce.sparsity.quantizer import quantized
from pruneonce.tasks.recipe_data import task_of
from pruneonce.train.encoder_model import load_encoder_model
from pruneonce.train.task_model import load_task_model, torch_predict

FAMILIES = ["ModernBert", "NomicBert"]
MATRICES = {"ModernBert": 4, "NomicBert": 7}  # of a layer, as the model has them
LAYERS = 3


def save_tiny(family, folder, head="ForMaskedLM", **changes):
    """A random model in a folder with a tokenizer; of ModernBERT's layers the second and third see 4 tokens around."""
    config = {
        "vocab_size": save_tokenizer(folder),
        "hidden_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
    }
    if family == "ModernBert":
        special = {"pad": 0, "bos": 2, "cls": 2, "eos": 3, "sep": 3}
        config |= {"local_attention": 8} | {f"{name}_token_id": number for name, number in special.items()}
    torch.manual_seed(0)
    model = getattr(transformers, family + head)(
        getattr(transformers, family + "Config")(**config, num_labels=2, **changes)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.dim() == 2 else parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folders = {}

    def tiny(family):
        if family not in folders:
            folders[family] = save_tiny(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return tiny


@pytest.fixture(scope="module")
def stages(tiny, sentence_corpus, reviews, tmp_path_factory):
    """Folders of a family by stage: prune, finetune, quantize, each made from the one before."""
    made = {}

    def stages(family):
        if family not in made:
            root = tmp_path_factory.mktemp(f"{family}-stages")
            folders = {stage: root / stage for stage in ("prune", "finetune", "quantize")}
            tiny_stages.run("prune", tiny_stages.prune_values(tiny(family), sentence_corpus), folders["prune"])
            tiny_stages.run("finetune", tiny_stages.finetune_values(folders["prune"], reviews), folders["finetune"])
            tiny_stages.run("quantize", values(folders["finetune"], reviews), folders["quantize"])
            made[family] = folders
        return made[family]

    return stages


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_is_pruned_once_and_keeps_its_zeros_to_the_packed_file(family, stages, tmp_path):
    folders = stages(family)
    expected = MATRICES[family] * LAYERS
    for stage, folder in folders.items():
        inspection = inspect_folder(folder)
        prunable = [matrix for matrix in inspection.matrices if matrix.prunable and "pooler" not in matrix.name]
        assert len(prunable) == expected, stage
        assert all(matrix.sparsity > 0.8 for matrix in prunable), stage
        assert inspection.lock_intact, stage
        assert len(read_provenance(folder).masks) >= expected
    export_packed(folders["quantize"], tmp_path / "m.pruneonce")
    packed = inspect_packed(tmp_path / "m.pruneonce")
    assert packed.lock_intact
    assert sum(tensor.type == "int8" and tensor.sparse for tensor in packed.tensors) >= expected


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_task_is_learnt_with_zeros_locked(family, stages, reviews):
    data = TaskData("classification", validation=str(reviews), max_tokens=32)
    for stage in ("finetune", "quantize"):
        scores = score_folder(stages(family)[stage], data)
        assert scores.metrics["accuracy"] > 0.9, stage


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_int8_engine_answers_as_fake_quantised_torch_on_every_instruction_set(family, stages, reviews, tmp_path):
    folder, file = stages(family)["quantize"], tmp_path / "m.pruneonce"
    export_packed(folder, file, embeddings="fp32")
    data = TaskData("classification", validation=str(reviews), labels=("no", "yes"), max_tokens=32)
    task = task_of(data)
    model, _ = load_task_model(folder, task, trained=True)
    features = task.features(task.read(str(reviews)), load_tokenizer(folder), 32)
    with quantized(model, read_quantization(folder)):
        expected = np.stack(torch_predict(model, task, pad_id=0)(features))
    bound = LOGIT_BOUND * np.abs(expected).max()
    for isa in _native.available_isas():
        found = np.stack(engine_predict(load_model(file, isa=isa))(features))
        difference = np.abs(found - expected).max(axis=1)
        assert np.median(difference) < bound / 10, isa
        assert (difference < bound).mean() > 0.95, isa


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fine_tuned_folder_scores_the_same_in_torch_and_in_its_packed_file(family, stages, reviews, tmp_path):
    folder, file = stages(family)["finetune"], tmp_path / "m.pruneonce"
    export_packed(folder, file)
    data = TaskData("classification", validation=str(reviews), max_tokens=32)
    here, there = score_folder(folder, data), score_packed_beside(file, folder, data)
    assert here.metrics == there.metrics if hasattr(there, "metrics") else there


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_what_the_stages_wrote_with_nothing_missing(family, stages):
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        stages(family)["quantize"], output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(model).__name__ == f"{family}ForSequenceClassification"


HEADS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "Model": "AutoModel",
}
CASES = [
    *(
        (family, head, {})
        for family in FAMILIES
        for head in HEADS
        if (family, head) != ("NomicBert", "ForQuestionAnswering")
    ),
    ("ModernBert", "ForSequenceClassification", {"classifier_pooling": "mean"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "head", "changes"), CASES)
def test_an_onnx_file_answers_as_transformers_does_with_its_own_masks(family, head, changes, tmp_path):
    folder, file = save_tiny(family, tmp_path / "model", head, **changes), tmp_path / "m.onnx"
    written = export_onnx(folder, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    model = getattr(transformers, HEADS[head]).from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(0)
    for lengths in ((40,), (33, 3, 20)):
        shape = (len(lengths), max(lengths))
        real = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
        feed = {"input_ids": torch.randint(5, 90, shape, generator=generator) * real, "attention_mask": real}
        if family == "NomicBert":
            feed["token_type_ids"] = torch.randint(0, 2, shape, generator=generator)
        with torch.no_grad():
            expected = model(**feed)
        found = session.run(None, {name: each.numpy() for name, each in feed.items()})
        for name, array in zip(written.outputs, found, strict=True):
            theirs = expected[name].numpy()
            kept = real.bool().numpy() if theirs.shape[:2] == shape else ...
            np.testing.assert_allclose(array[kept], theirs[kept], atol=2e-5)


# ----------------------------------------------------------------------------------------------- attention in training


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [4, 5, 6, 40])
@pytest.mark.parametrize("padded", [False, True])
def test_our_attention_in_training_sees_a_window_where_the_model_has_one(family, tokens, padded, tiny):
    """Five tokens: all of them are within a window of four. Beyond it torch attends, in layers that have one."""
    model = load_encoder_model(tiny(family))
    lengths = torch.tensor([tokens, 3 if padded else tokens])
    batch = {
        "input_ids": torch.randint(5, 90, (2, tokens), generator=torch.Generator().manual_seed(0)),
        "attention_mask": (torch.arange(tokens) < lengths[:, None]).long(),
        "token_type_ids": torch.zeros(2, tokens, dtype=torch.long),
    }
    real = batch["attention_mask"].bool()

    def states_and_gradient():
        model.zero_grad()
        states = model(**batch)[-1][real]
        states.square().sum().backward()
        return states.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    attention = NativeAttention(model.model)
    before = states_and_gradient()
    attention.switch(native=True)
    after = states_and_gradient()
    attention.switch(native=False)
    for ours, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------- pipelines


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_filled_as_transformers_fills_them(family, tiny, tmp_path):
    folder = tiny(family)
    export_packed(folder, tmp_path / "m.pruneonce", embeddings="fp32")
    text = "the film was [MASK] in the city"
    theirs = transformers.pipeline("fill-mask", model=str(folder), device="cpu")(text)
    ours = pipeline("fill-mask", tmp_path / "m.pruneonce")(text)
    assert [each["token"] for each in ours] == [each["token"] for each in theirs]
    np.testing.assert_allclose([each["score"] for each in ours], [each["score"] for each in theirs], atol=1e-5)


def test_a_question_for_nomicbert_is_refused_before_training(tiny, tmp_path):
    recipe = {
        "model": str(tiny("NomicBert")),
        "task": {"name": "question_answering", "train": "t.json", "validation": "v.json"},
        "training": {"steps": 1, "batch_size": 1},
    }
    with pytest.raises(UsageError, match="nomic_bert") as caught:
        tiny_stages.run("finetune", recipe, tmp_path / "out")
    assert "\n" not in str(caught.value)
