"""The pipelines of every family, with a vocabulary of its kind, against those of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from family_models import save_family_model
from test_pipelines import HEADS, LABELS, TEXTS, assert_same, brute_force_answers
from vocabularies import save_byte_level, save_mpnet, save_unigram, save_wordpiece

from pruneonce.convert.to_packed import export_packed
from pruneonce.models import FAMILIES
from pruneonce.models.tokenizer import load_tokenizer, separators_between, special_token_ids
from pruneonce.run.pipelines import pipeline
from pruneonce.tasks.question_answering import QuestionAnsweringTask, QuestionExample

ACCENTED = "Zürich, Genève!  two  spaces, 漢字 and 😀"
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(theirs, ours, folder) for a family and a task, made once."""
    made = {}

    def pair(family, task):
        key = family.model_type, task
        if key not in made:
            folder = tmp_path_factory.mktemp(family.model_type)
            labels = LABELS if task == "token-classification" else ["bad", "good"]
            names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
            save_family_model(family, HEADS[task], folder, num_labels=len(labels), **names)
            export_packed(folder, folder / "model.pruneonce", embeddings="fp32")
            theirs = None if task == "question-answering" else transformers.pipeline(task, str(folder), device="cpu")
            made[key] = theirs, pipeline(task, folder / "model.pruneonce"), folder
        return made[key]

    return pair


@every_family
def test_text_classification_of_texts_and_pairs(pair, family):
    theirs, ours, _ = pair(family, "text-classification")
    for inputs in ([*TEXTS, ACCENTED], {"text": TEXTS[0], "text_pair": TEXTS[1]}):
        assert_same(ours(inputs, top_k=None), theirs(inputs, top_k=None))


@every_family
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning")
def test_words_of_token_classification_begin_where_the_vocabulary_says(pair, family, strategy):
    theirs, ours, _ = pair(family, "token-classification")
    options = {"aggregation_strategy": strategy, "ignore_labels": []}
    texts = [TEXTS[0], TEXTS[3], ACCENTED]
    assert_same(ours(texts, **options), theirs(texts, **options))


@every_family
def test_fill_mask_reads_and_writes_the_familys_own_mask(pair, family):
    theirs, ours, _ = pair(family, "fill-mask")
    mask = family.special_tokens.mask
    for inputs in (f"the old {mask} was not good", [f"a {mask}", f"the {mask} of the {mask}."]):
        assert_same(ours(inputs), theirs(inputs))


@every_family
def test_features_are_those_of_transformers(pair, family):
    theirs, ours, _ = pair(family, "feature-extraction")
    for found, expected in zip(ours([*TEXTS, ACCENTED]), theirs([*TEXTS, ACCENTED]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "family", [each for each in FAMILIES.values() if each.heads.spans is not None], ids=lambda each: each.model_type
)
def test_answers_come_from_windows_as_transformers_cuts_them_and_begin_with_no_space(pair, family):
    _, ask, folder = pair(family, "question-answering")
    question, context = "who was the king ?", " ".join([*TEXTS, ACCENTED] * 2)
    expected, _ = brute_force_answers(folder, question, context, 60, 8, 5, 1)
    best = ask(question=question, context=context, max_seq_len=60, doc_stride=8, max_answer_len=5)
    (start, end), score = expected[0]
    assert (best["start"], best["end"]) == (end - len(context[start:end].lstrip()), end)
    assert best["score"] == pytest.approx(score, abs=1e-5)
    assert best["answer"] == context[start:end].lstrip() == best["answer"].lstrip()


def test_an_older_folder_without_tokenizer_json_reads_as_the_same_byte_level_tokens(tmp_path):
    save_byte_level(tmp_path)
    newer = load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert {file.name for file in tmp_path.iterdir()} >= {"vocab.json", "merges.txt"}
    older = load_tokenizer(tmp_path)
    for text in [*TEXTS, ACCENTED]:
        assert older.encode(text).ids == newer.encode(text).ids


@pytest.mark.parametrize(
    ("save", "separators"), [(save_wordpiece, 1), (save_byte_level, 2), (save_unigram, 2), (save_mpnet, 2)]
)
def test_training_frames_a_question_as_the_tokenizer_frames_a_pair(save, separators, tmp_path):
    save(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert separators_between(tokenizer) == separators
    example = QuestionExample("1", "who was the king ?", "the king of the city was great .", (), None)
    (window,) = QuestionAnsweringTask().features([example], tokenizer, 64)
    assert window.input_ids.tolist() == tokenizer.encode(example.question, example.context).ids
    cut = QuestionAnsweringTask().features([example], tokenizer, 12)
    assert all(len(each.input_ids) <= 12 for each in cut)
    special = special_token_ids(tokenizer)
    for each in cut:
        assert (each.input_ids[: each.context_start] == special["sep"]).sum() == separators
