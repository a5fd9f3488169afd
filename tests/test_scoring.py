"""A packed file is scored as the folder it came from."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest

from pruneonce.cli.app import main
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import UsageError
from pruneonce.evaluation import scoring
from pruneonce.evaluation.packed import score_packed
from pruneonce.evaluation.scoring import embeddings_as_exported, score, score_folder
from pruneonce.formats.packed_file import read_packed, write_packed
from pruneonce.formats.record import Provenance
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.recipe import TaskData
from pruneonce.run.model import Model
from pruneonce.run.pipelines import pipeline
from pruneonce.sparsity import cpu_training
from pruneonce.sparsity.cpu_training import as_served
from pruneonce.sparsity.layers import Sparse
from pruneonce.tasks.recipe_data import recorded_tokens, task_of
from pruneonce.train.task_model import load_task_model, torch_predict


@pytest.fixture(scope="module")
def models(tiny_bert, tmp_path_factory):
    """Folder and packed file of random models with heads for sentences and for questions."""
    import torch
    from transformers import AutoConfig, BertForQuestionAnswering, BertForSequenceClassification

    torch.manual_seed(1)
    out = {}
    for kind, head in (("classification", BertForSequenceClassification), ("questions", BertForQuestionAnswering)):
        folder = tmp_path_factory.mktemp(kind)
        config = AutoConfig.from_pretrained(tiny_bert)
        if kind == "classification":
            config.id2label, config.label2id = {0: "bad", 1: "good", 2: "so-so"}, {"bad": 0, "good": 1, "so-so": 2}
        head(config).save_pretrained(folder)
        (folder / "tokenizer.json").write_bytes((tiny_bert / "tokenizer.json").read_bytes())
        export_packed(folder, folder / "model.pruneonce", embeddings="fp32")
        out[kind] = folder, folder / "model.pruneonce"
    return out


@pytest.fixture
def sentences(tmp_path):
    file = tmp_path / "sentences.jsonl"
    rows = [{"text": f"{word} film {n} " * (n % 7), "label": word} for n in range(40) for word in ("good", "bad")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "questions.json"
    context = "the old city on the river was made by a great king in the first year of the war . " * 6
    paragraphs = [
        {
            "context": context,
            "qas": [
                {
                    "id": f"{n}",
                    "question": f"who made {word} ?",
                    "answers": [{"text": word, "answer_start": context.index(word)}],
                }
                for n, word in enumerate(("city", "river", "king", "war"))
            ],
        }
    ]
    file.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return file


def test_the_engine_scores_what_torch_scores(models, sentences, questions):
    folder, packed = models["classification"]
    data = TaskData("classification", "", str(sentences), "text", "", "label", max_tokens=64)
    assert score_packed(packed, data) == pytest.approx(score_folder(folder, data))
    folder, packed = models["questions"]
    data = TaskData("squad", "", str(questions), max_tokens=64, stride_tokens=16)
    assert score_packed(packed, data) == pytest.approx(score_folder(folder, data))


@pytest.mark.parametrize("kind", ["classification", "questions"])
def test_a_pruned_model_is_scored_by_its_non_zeros_and_comes_back_as_it_was(
    models, sentences, questions, kind, monkeypatch, tmp_path
):
    import torch

    data = TaskData("classification", "", str(sentences), "text", "", "label", labels=("bad", "good", "so-so"))
    if kind == "questions":
        data = TaskData("squad", "", str(questions), max_tokens=64, stride_tokens=16)
    folder, task = models[kind][0], task_of(data)
    model, _ = load_task_model(folder, task, trained=True)
    with torch.no_grad():
        for layer in model.modules():
            if type(layer) is torch.nn.Linear and layer.out_features > 8:
                layer.weight *= torch.rand(layer.weight.shape) < 0.1
    before = {name: value.clone() for name, value in model.state_dict().items()}
    answers = []

    def noting_predict(model, task, pad_id, on_progress=None):
        dense = torch_predict(model, task, pad_id)

        def predict(features):
            sparse = [each for each in model.modules() if type(getattr(each, "form", None)) is Sparse]
            answers.append((len(sparse), dense(features)))
            return answers[-1][1]

        return predict

    monkeypatch.setattr(scoring, "torch_predict", noting_predict)
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    counts, original = [], cpu_training.names_with_zeros
    with monkeypatch.context() as patch:
        patch.setattr(cpu_training, "names_with_zeros", lambda model: counts.append(1) or original(model))
        with as_served(model):
            metrics = score(model, task, data, load_tokenizer(folder))
    assert len(counts) == 1, "all weights are read to count their zeros: once"
    assert score(model, task, data, load_tokenizer(folder)) == pytest.approx(metrics)
    assert score_folder(tmp_path, data) == pytest.approx(metrics)
    assert answers.pop()[0] > 0
    (sparse, ours), (dense, theirs) = answers
    assert (sparse > 0, dense) == (True, 0)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_file_for_another_task_or_other_labels_is_refused(models, sentences, questions):
    with pytest.raises(UsageError, match="model for question-answering"):
        score_packed(models["questions"][1], TaskData("classification", "", str(sentences), "text", "", "label"))
    with pytest.raises(UsageError, match="model for text-classification"):
        score_packed(models["classification"][1], TaskData("squad", "", str(questions)))
    with pytest.raises(UsageError, match="bad, good, so-so"):
        score_packed(models["classification"][1], TaskData("sst2", "", str(sentences)))


def test_evaluate_takes_a_packed_file(models, sentences, monkeypatch, capsys):
    command = ["pruneonce", "evaluate", str(models["classification"][1]), "--task", "classification"]
    command += ["--data", str(sentences), "--text", "text", "--label", "label", "--json"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as exit_code:
        main()
    assert exit_code.value.code == 0
    assert 0 <= json.loads(capsys.readouterr().out)["metrics"]["accuracy"] <= 1


def trained_with(max_tokens, task="classification"):
    """A record of a run whose texts were cut to so many tokens."""
    recipe = {"task": {"name": task, "max_tokens": max_tokens}}
    return Provenance("finetune", recipe, {}, 42, 1, {})


def test_the_length_a_model_was_trained_with_goes_with_its_file(models, sentences, tmp_path):
    """Scored at 128 and served at 512 tokens, one model gave two answers."""
    folder, packed = models["classification"]
    recorded = replace(read_packed(packed), provenance=asdict(trained_with(8)))
    write_packed(tmp_path / "m.pruneonce", recorded)
    short = TaskData("classification", "", str(sentences), "text", "", "label", max_tokens=8)
    unsaid = replace(short, max_tokens=None)
    assert score_packed(tmp_path / "m.pruneonce", unsaid) == score_packed(packed, short)
    assert score_packed(packed, unsaid) == score_packed(packed, replace(short, max_tokens=128))
    own = shutil.copytree(folder, tmp_path / "own")
    trained_with(8).write(own)
    assert score_folder(own, unsaid) == score_folder(folder, short)
    text = "good film and a bad story of the old city on the river"
    ask, plain = pipeline(None, Model(recorded)), pipeline(None, packed)
    assert ask(text, truncation=True) == plain(text, max_length=8) != plain(text, truncation=True)
    assert ask(text) == plain(text)  # uncut, as transformers does
    assert ask(text, truncation=True, max_length=10) == plain(text, max_length=10)


@pytest.mark.parametrize(
    ("record", "tokens"),
    [
        (asdict(trained_with(64)), 64),
        (asdict(trained_with(None)), 128),
        (asdict(trained_with(None, "squad")), 384),
        (asdict(trained_with(None, "one of their own")), 128),
        (asdict(trained_with("x")), None),
        (asdict(trained_with(3)), None),
        (asdict(trained_with(True)), None),
        ({"recipe": []}, None),
        (None, None),
    ],
)
def test_a_record_of_anyones_is_believed_only_where_it_gives_a_length(record, tokens):
    assert recorded_tokens(record) == tokens


def test_embeddings_are_scored_as_they_are_exported_and_come_back_as_they_were(models, tmp_path):
    folder, _ = models["classification"]
    export_packed(folder, tmp_path / "m.pruneonce")
    stored = read_packed(tmp_path / "m.pruneonce").tensors
    model, _ = load_task_model(
        folder, task_of(TaskData("classification", labels=("bad", "good", "so-so"))), trained=True
    )
    names = [name for name in stored if "_embeddings.weight" in name]
    assert len(names) == 3
    before = {name: model.get_parameter(name).detach().clone() for name in names}
    with embeddings_as_exported(model):
        for name in names:
            assert np.array_equal(model.get_parameter(name).detach().numpy(), stored[name].to_dense())
            assert not np.array_equal(before[name].numpy(), stored[name].to_dense())
    assert all((model.get_parameter(name) == before[name]).all() for name in names)
