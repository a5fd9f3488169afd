"""The README of a folder: the Hub's own parser reads it, whatever names it holds, and it tells no secrets."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneonce.convert.model_card import MARK, lineage, model_card, write_model_card
from pruneonce.formats.record import Provenance
from pruneonce.recipe import (
    Distillation,
    FinetuneRecipe,
    PruneRecipe,
    QuantizeRecipe,
    TaskData,
    TeacherRecipe,
    Training,
    parse_recipe,
)
from pruneonce.stages import RUNNERS, StageOptions

TRAINING = Training(learning_rate=1e-4, steps=100)
LAYERS = {f"encoder.layer.{number}.output.dense": 0.9 for number in range(12)}


def record(stage, recipe, *, model="hub:bert-base-uncased", metrics=None, **entries):
    return Provenance(stage, asdict(recipe), {"model": model}, 42, 100, metrics or {}, **entries)


TEACHER = record(
    "teacher",
    TeacherRecipe("bert-base-uncased", "/home/me/secret/wiki-corpus", TRAINING),
    metrics={"mlm_loss": 2.5, "mlm_accuracy": 0.5, "perplexity": 12.25},
)
PRUNE = record(
    "prune",
    PruneRecipe("/home/me/secret/teacher", "/home/me/secret/wiki-corpus", TRAINING),
    model="abc",
    metrics={"mlm_loss": 2.75},
    sparsity=LAYERS,
    masks={"encoder.layer.0.output.dense": "d"},
)
MNLI = record(
    "finetune",
    FinetuneRecipe(
        "/home/me/secret/prune",
        TaskData("mnli"),
        TRAINING,
        distillation=Distillation("C:\\Users\\me\\secret\\mnli-teacher"),
        published={"accuracy_matched": 0.8145},
    ),
    model="def",
    metrics={"accuracy_matched": 0.8, "accuracy_mismatched": 0.81},
    sparsity=LAYERS,
    masks={"encoder.layer.0.output.dense": "d"},
    versions={"torch": "2.9", "pruneonce": "0.1.0"},
)


def parsed(name, records, repeats=()):
    return ModelCard(model_card(name, records, repeats))


def results(card):
    return {
        (each.dataset_type, each.dataset_config, each.dataset_split, each.metric_type): each.metric_value
        for each in card.data.eval_results or []
    }


# ----------------------------------------------------------------------------------------------------- what it says


def test_the_hub_reads_the_whole_chain():
    card = parsed("mnli-90", [MNLI, PRUNE, TEACHER])
    data = card.data
    assert (data.language, data.license, data.library_name) == ("en", "apache-2.0", "transformers")
    assert (data.base_model, data.pipeline_tag) == ("bert-base-uncased", "text-classification")
    assert (data.datasets, data.metrics) == (["nyu-mll/glue"], ["accuracy"])
    assert {"sparse", "knowledge-distillation", "arxiv:2111.05754"} <= set(data.tags)
    assert data.model_name == "mnli-90"
    assert results(card) == {
        ("nyu-mll/glue", "mnli", "validation_matched", "accuracy"): 0.8,
        ("nyu-mll/glue", "mnli", "validation_mismatched", "accuracy"): 0.81,
    }
    text = card.text
    for expected in (
        "1. **teacher**: 100 steps of 32 examples, peak learning rate 0.0001, seed 42.",
        "sparsity of 0.9 in every pruned matrix, with learning rate rewinding, distilled from teacher (temperature 2.0",
        "zeros locked, distilled from mnli-teacher",
        "| encoder.layer.N.output.dense | 12 | 90.00% | 90.00% | 90.00% |",
        "| accuracy\\_matched | 0.8000 |  | 0.8145 |",
        "n = 1, seed 42",
        'pipeline("text-classification", model="mnli-90")',
        "arXiv:2111.05754",
        "torch 2.9",
    ):
        assert expected in text, expected


def test_sections_are_all_there_for_every_stage():
    quantized = record(
        "quantize",
        QuantizeRecipe("runs/x", TaskData("squad", validation="dev.json"), method="ptq"),
        metrics={"f1": 87.5, "exact_match": 80.0},
        sparsity=LAYERS,
        rounded_to_zero=1234,
    )
    for records in ([TEACHER], [PRUNE, TEACHER], [MNLI], [quantized]):
        text = parsed("m", records).text
        sections = re.findall(r"(?m)^## (.*)$", text)
        assert sections == [
            "Method",
            "Data",
            "Sparsity",
            "Results",
            "Use",
            "Limits and risks",
            "Licence",
            "Citation",
        ]
    card = parsed("m", [quantized])
    assert "1,234 more weights zeros" in card.text
    assert "de-quantised weights" in card.text
    assert "AutoModelForQuestionAnswering" in card.text, "transformers 5 has no pipeline for it"
    assert card.data.pipeline_tag == "question-answering"
    # measured on a file: no claim about the Hub's data set
    assert results(card) == {("squad", None, None, "f1"): 87.5, ("squad", None, None, "exact_match"): 80.0}
    assert "datasets" not in card.data.to_dict()


def test_what_is_not_known_is_not_claimed():
    own = record(
        "finetune",
        FinetuneRecipe("/models/mine", TaskData("classification", "/d/train.csv", "/d/dev.csv"), TRAINING),
        model="digest",
        metrics={"accuracy": float("nan"), "f1": 0.5},
    )
    data = parsed("own", [own]).data
    assert data.license == "unknown"
    assert "base_model" not in data.to_dict()
    assert "language" not in data.to_dict()
    assert results(parsed("own", [own])) == {("classification", None, None, "f1"): 0.5}, "NaN is no result"
    assert "| accuracy | nan |" in parsed("own", [own]).text
    assert "set `license` above" in parsed("own", [own]).text
    lookalike = replace(own, recipe=own.recipe | {"model": "bert-base-uncased"})
    assert "base_model" not in parsed("own", [lookalike]).data.to_dict(), "a folder of that name is not the Hub's model"


def test_runs_with_other_seeds_become_mean_and_deviation():
    other = replace(MNLI, seed=7, metrics={"accuracy_matched": 0.82, "accuracy_mismatched": 0.81})
    text = parsed("m", [MNLI], [other]).text
    assert "n = 2, seed 42, 7" in text
    assert "| accuracy\\_matched | 0.8000 | 0.8100 ± 0.0141 | 0.8145 |" in text


def test_paths_of_this_machine_stay_on_it():
    card = model_card("m", [MNLI, PRUNE, TEACHER])
    assert "secret" not in card
    assert "home" not in card
    assert "Users" not in card
    assert "wiki-corpus" in card
    assert "mnli-teacher" in card


# ---------------------------------------------------------------------------------------------------- what it survives


HOSTILE = [
    "---\nlicense: mit\n---",
    "a|b | c",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    '"; rm -rf ~; "',
    "$(rm -rf ~)",
    "`code` **bold** _it_ # h",
    "~~~\n```\n",
    "{{ jinja }}: {yaml: [1, 2]}",
    "é 中文 \U0001f600 \u2028 \x00 \ud800",
    "x" * 5000,
    "",
    "!!python/object:os.system",
    "- item: &anchor *alias",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_outside_are_text_and_nothing_else(name):
    task = TaskData(name, f"/d/{name}", f"/d/{name}", labels=(name, "b"))
    hostile = record(
        "finetune",
        FinetuneRecipe(name, task, TRAINING, distillation=Distillation(name)),
        model=f"hub:{name}",
        metrics={"accuracy": 0.5, name: 0.25},
        sparsity={name: 0.5},
        versions={name: name},
    )
    content = model_card(name, [hostile])
    card = ModelCard(content)
    assert set(card.data.to_dict()) <= {
        "language",
        "license",
        "library_name",
        "pipeline_tag",
        "tags",
        "base_model",
        "metrics",
        "model-index",
    }
    assert card.data.license == "unknown"
    assert len(card.data.eval_results) == 1
    outside_code = re.sub(r"(?ms)^```.*?^```", "", card.text.replace(MARK, ""))
    assert not re.search(r"(?<!\\)[<`]", outside_code.replace("`license`", ""))
    assert re.findall(r"(?m)^#+ ", card.text) == ["# ", *["## "] * 8]
    assert len(re.findall(r"(?m)^```", card.text)) == 8
    table = next(line for line in card.text.splitlines() if line.endswith("| 50.00% | 50.00% | 50.00% |"))
    assert len(re.findall(r"(?<!\\)\|", table)) == 6
    if "$(" in name:
        assert "pruneonce export '$(rm -rf ~)' --to packed" in card.text


@settings(deadline=None, max_examples=200)
@given(name=st.text(), other=st.text(), values=st.lists(st.floats(), min_size=2, max_size=2))
def test_any_names_and_numbers_make_a_card_that_parses(name, other, values):
    any_record = record(
        "finetune",
        FinetuneRecipe(other, TaskData(name, other, name), TRAINING),
        metrics={"accuracy": values[0], name: values[1]},
    )
    card = ModelCard(model_card(other, [any_record]))
    assert card.data.library_name == "transformers"
    assert "## Citation" in card.text


def test_a_parent_from_outside_cannot_stop_a_finished_run(tmp_path):
    broken = {**asdict(PRUNE), "recipe": {"model": 3, "training": "x", "pruning": {"sparsity": []}, "task": 7}}
    for number, text in enumerate(('{"format_version": 99}', json.dumps(broken), json.dumps({**broken, "recipe": []}))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "pruneonce.json").write_text(text)
        child = replace(MNLI, recipe=MNLI.recipe | {"model": str(folder)})
        assert ModelCard(model_card("m", lineage(child))).data.model_name == "m"


def test_a_folder_that_is_its_own_parent_ends(tmp_path):
    loop = replace(PRUNE, recipe=PRUNE.recipe | {"model": str(tmp_path)})
    loop.write(tmp_path)
    assert "## Citation" in model_card("m", lineage(loop))


# ---------------------------------------------------------------------------------------------- where it is written


@pytest.fixture
def chain(tiny_bert, tmp_path):
    """A fine-tuned tiny model, from the stage itself."""
    reviews = tmp_path / "reviews.csv"
    reviews.write_text("text,label\n" + "a good film,yes\na bad film,no\n" * 10)
    values = {
        "model": str(tiny_bert),
        "task": {"name": "classification", "train": str(reviews), "validation": str(reviews)},
        "training": {"steps": 2, "batch_size": 4, "learning_rate": 1e-4},
    }

    def run(out):
        return RUNNERS["finetune"](parse_recipe(values, "finetune"), StageOptions(out))

    return run


def test_a_finished_folder_has_a_card_with_its_metrics(chain, tmp_path):
    found = chain(tmp_path / "film-reviews")
    card = ModelCard.load(tmp_path / "film-reviews" / "README.md")
    assert card.data.model_name == "film-reviews"
    assert results(card)["classification", None, None, "accuracy"] == round(found.metrics["accuracy"], 4)
    assert str(tmp_path) not in str(card)
    assert "reviews.csv" in card.text


def test_a_readme_of_ones_own_stays_and_ours_is_renewed(chain, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("# My notes\n")
    chain(mine)
    assert (mine / "README.md").read_text() == "# My notes\n"
    (mine / "README.md").write_text(f"{MARK}\nold")
    write_model_card(mine, MNLI)
    assert "mnli" in (mine / "README.md").read_text()
    (tmp_path / "odd" / "README.md").mkdir(parents=True)
    write_model_card(tmp_path / "odd", MNLI)  # no hindrance either
