"""Folders of every stage in transformers' own pipelines, and the code on their cards as it stands."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard

import pruneonce
from pruneonce.convert.to_packed import export_packed
from pruneonce.data import text
from pruneonce.data.build import build
from pruneonce.files import read_json
from pruneonce.formats.record import read_provenance
from pruneonce.recipe import parse_recipe
from pruneonce.stages import RUNNERS, StageOptions

pytestmark = pytest.mark.slow

TRAINING = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_steps": 100}
TEXTS = ["The old film was not good, but the music was great!", "a king", "the war of the city and the river"]


@pytest.fixture(scope="module")
def folders(tiny_bert, tmp_path_factory):
    """The chain on a tiny BERT: stage -> its folder."""
    root = tmp_path_factory.mktemp("chain")
    (root / "notes.txt").write_text(
        "The city was old. The river was great.\n\nThe king had a war. It was not good.\n" * 8
    )
    text.collect([root / "notes.txt"], root / "articles")
    build(
        root / "articles",
        root / "corpus",
        tokenizer=tiny_bert,
        layout="segment_pair_nsp",
        max_tokens=32,
        validation_fraction=0.3,
    )
    (root / "reviews.csv").write_text("text,label\n" + "a good film,yes\na bad film,no\n" * 10)
    asked = {"question": "who had a war ?", "context": "the king had a war", "answers": ["king"]}
    (root / "asked.jsonl").write_text("".join(json.dumps(asked | {"id": str(n)}) + "\n" for n in range(8)))

    def run(stage, name, values):
        RUNNERS[stage](parse_recipe(values, stage), StageOptions(root / name))
        return root / name

    made = {}
    base = {"corpus": str(root / "corpus"), "training": TRAINING, "validation_examples": 4}
    made["teacher"] = run("teacher", "teacher", base | {"model": str(tiny_bert)})
    made["prune"] = run("prune", "pruned", base | {"model": str(made["teacher"])})
    sparse = {"model": str(made["prune"]), "lock": "require", "training": TRAINING}
    reviews = {"name": "classification", "train": str(root / "reviews.csv"), "validation": str(root / "reviews.csv")}
    made["finetune"] = run("finetune", "reviews", sparse | {"task": reviews})
    answers = {
        "name": "question_answering",
        "train": str(root / "asked.jsonl"),
        "validation": str(root / "asked.jsonl"),
    }
    made["answers"] = run("finetune", "answers", sparse | {"task": answers})
    quantized = {"model": str(made["finetune"]), "method": "ptq", "task": reviews, "calibration_examples": 8}
    made["quantize"] = run("quantize", "int8", quantized)
    return made


@pytest.mark.parametrize(
    ("stage", "task"),
    [
        ("teacher", "fill-mask"),
        ("prune", "fill-mask"),
        ("prune", "feature-extraction"),
        ("finetune", "text-classification"),
        ("quantize", "text-classification"),
    ],
)
def test_transformers_takes_the_folder_as_it_is(folders, tmp_path, stage, task):
    assert not {"auto_map", "quantization_config"} & read_json(folders[stage] / "config.json").keys()
    theirs = transformers.pipeline(task, model=str(folders[stage]), device="cpu")
    texts = [f"{each} [MASK]" for each in TEXTS] if task == "fill-mask" else TEXTS
    answers = theirs(texts)
    assert len(answers) == len(TEXTS)
    if stage == "quantize":
        assert {each["label"] for each in answers} <= {"yes", "no"}
        return  # 8 bits in the engine, floats in transformers
    export_packed(folders[stage], tmp_path / "m.pruneonce", embeddings="fp32")
    ours = pruneonce.pipeline(task, tmp_path / "m.pruneonce")(texts)
    for one, other in zip(ours, answers, strict=True):
        if task == "feature-extraction":
            np.testing.assert_allclose(one, other, atol=1e-5)
        elif task == "fill-mask":
            assert [each["token"] for each in one] == [each["token"] for each in other]
        else:
            assert one == {"label": other["label"], "score": pytest.approx(other["score"], abs=1e-5)}


def test_a_question_answering_folder_loads_with_every_weight(folders):
    _, info = transformers.AutoModelForQuestionAnswering.from_pretrained(folders["answers"], output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("stage", ["teacher", "prune", "finetune", "answers", "quantize"])
def test_the_code_on_the_card_runs_and_the_chain_is_told(folders, monkeypatch, tmp_path, pruneonce, stage):
    folder = folders[stage]
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers"
    stages = re.findall(r"(?m)^\d\. \*\*(\w+)\*\*", card.text)
    whole = ["teacher", "prune", "finetune", "quantize"]
    assert stages == whole[: whole.index(read_provenance(folder).stage) + 1]
    monkeypatch.chdir(folder.parent)
    for code in re.findall(r"(?ms)^```python\n(.*?)^```", card.text)[:1]:
        namespace = {}
        exec(code, namespace)
        if stage == "answers":
            tokens = namespace["tokenizer"]("a king", "the king", return_tensors="pt")
            assert torch.isfinite(namespace["model"](**tokens).start_logits).all()
        else:
            assert namespace["answer"]("the [MASK]")
    command = re.search(r"(?m)^pruneonce (export .*)$", card.text).group(1)
    arguments = command.replace("model.pruneonce", str(tmp_path / "model.pruneonce")).split()
    code, _, err = pruneonce(*arguments)
    assert code == 0, err
