"""Windows of text: their form for any documents and lengths, and that random numbers alone decide them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneonce.data.build import build
from pruneonce.data.corpus import Corpus, Example
from pruneonce.data.layouts import NO_LABEL
from pruneonce.data.windows import DOCUMENT_TOKENS, LAYOUT, QUESTION_TOKENS, Windows
from pruneonce.errors import UsageError
from pruneonce.recipe import SHORTEST_WINDOW

CLS, SEP = 2, 3
SPECIAL = {"pad": 0, "unk": 1, "cls": CLS, "sep": SEP, "mask": 4}


class Documents:
    """A corpus of documents given as lengths of sentences; every token of it has an id of its own."""

    layout, folder = LAYOUT, Path("documents")

    def __init__(self, documents):
        self.examples, first = [], 10
        for sentences in documents:
            parts = []
            for length in sentences:
                parts += [np.arange(first, first + length), [SEP]]
                first += length
            ids = np.concatenate([[CLS], *parts]).astype(np.int64)
            self.examples.append(Example(ids, len(ids), NO_LABEL))
        self.lengths = np.array([len(each.input_ids) for each in self.examples], np.int32)

    def __getitem__(self, index):
        return self.examples[index]

    def sentence_of(self, token):
        """(document, sentence) of an id."""
        for number, each in enumerate(self.examples):
            place = np.flatnonzero(each.input_ids == token)
            if len(place):
                return number, int((each.input_ids[: place[0]] == SEP).sum())
        raise AssertionError(token)


DOCUMENTS = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=8), min_size=1, max_size=6)


def two_texts(window):
    """(question, passage) of a window; the second is empty where there is one text."""
    ids, start = window.input_ids, window.segment_b_start
    return (ids[1:-1], ids[:0]) if start == len(ids) else (ids[1 : start - 1], ids[start:-1])


@given(DOCUMENTS, st.integers(SHORTEST_WINDOW, 120), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2**31))
def test_a_window_has_its_form_whatever_the_documents(documents, tokens, pairs, seed):
    corpus = Documents(documents)
    window = Windows(corpus, SPECIAL, pairs).draw(np.random.default_rng(seed), tokens)
    ids, start = window.input_ids, window.segment_b_start
    assert 3 <= len(ids) <= tokens
    assert ids[0] == CLS
    assert ids[-1] == SEP
    assert not (ids[1:] == CLS).any()
    between = np.flatnonzero(ids[:-1] == SEP)
    assert list(between) == ([start - 1] if start < len(ids) else [])
    assert window.next_sentence_label == NO_LABEL
    question, passage = two_texts(window)
    assert len(question)
    if start < len(ids):
        assert len(passage)
        assert len(question) <= min(QUESTION_TOKENS[1], (tokens - 3) // 2)
    else:
        assert np.array_equal(question, np.sort(question)), "in the document's order, nothing twice"
    if pairs == 0.0:
        assert start == len(ids)


@given(DOCUMENTS, st.integers(SHORTEST_WINDOW, 120), st.integers(0, 2**31))
def test_one_text_fills_the_window_unless_its_document_is_shorter(documents, tokens, seed):
    corpus = Documents(documents)
    window = Windows(corpus, SPECIAL, 0.0).draw(np.random.default_rng(seed), tokens)
    number, _ = corpus.sentence_of(window.input_ids[1])
    assert len(window.input_ids) == min(tokens, sum(documents[number]) + 2)


@given(DOCUMENTS, st.integers(SHORTEST_WINDOW, 120), st.integers(0, 2**31))
def test_the_same_random_numbers_give_the_same_window(documents, tokens, seed):
    corpus = Documents(documents)
    first, second = (Windows(corpus, SPECIAL, 0.5).draw(np.random.default_rng(seed), tokens) for _ in range(2))
    assert np.array_equal(first.input_ids, second.input_ids)
    assert first[1:] == second[1:]


def test_questions_are_sentences_and_stand_beside_their_passage_without_it_with_it_or_beside_another():
    documents = [[8] * 12, [9] * 12, [7] * 12]
    corpus = Documents(documents)
    windows = Windows(corpus, SPECIAL, 1.0)
    kinds, dropped = {"taken out": 0, "left in": 0, "another's": 0}, 0
    near = 0
    for seed in range(400):
        question, passage = two_texts(windows.draw(np.random.default_rng(seed), 40))
        origins = {corpus.sentence_of(token) for token in question}
        assert len(origins) == 1, "one sentence"
        ((number, place),) = origins
        dropped += len(question) < documents[number][0]
        others = {corpus.sentence_of(token) for token in (passage[0], passage[-1])}
        if {other for other, _ in others} != {number}:
            kinds["another's"] += 1
        elif set(question) & set(passage):
            kinds["left in"] += 1
        else:
            kinds["taken out"] += 1
            near += any(abs(place - each) <= 5 for _, each in others)
    assert 120 < kinds["taken out"] < 220  # 0.4, and those of the last kind that meet their own document
    assert near > 0.75 * kinds["taken out"], "what surrounds the sentence"
    assert 60 < kinds["left in"] < 170
    assert 40 < kinds["another's"] < 120
    assert 60 < dropped < 180


def test_a_document_without_a_sentence_that_serves_gives_no_pair():
    few, long = Documents([[3, 4, 2]]), Documents([[60]])
    for corpus in (few, long):
        for seed in range(20):
            window = Windows(corpus, SPECIAL, 1.0).draw(np.random.default_rng(seed), 32)
            assert window.segment_b_start == len(window.input_ids)


def test_documents_are_drawn_by_their_lengths():
    corpus = Documents([[20], [20] * 9])
    windows = Windows(corpus, SPECIAL, 0.0)
    drawn = [windows.draw(np.random.default_rng(seed), 16).input_ids[1] for seed in range(300)]
    assert 10 < sum(corpus.sentence_of(token)[0] == 0 for token in drawn) < 60  # a tenth


def test_a_corpus_of_another_layout_is_refused_with_the_command_that_makes_one(pair_corpus):
    with pytest.raises(UsageError, match=rf"layout segment_pair_nsp, matching reads {LAYOUT}.*--layout {LAYOUT}"):
        Windows(Corpus(pair_corpus, "train"), SPECIAL, 0.5)


def test_a_worker_draws_what_its_parent_would(articles, tiny_bert, tmp_path):
    """Through a pickle, as loaders in other processes get it, and from a real corpus."""
    build(articles, tmp_path / "corpus", tokenizer=tiny_bert, layout=LAYOUT, max_tokens=DOCUMENT_TOKENS)
    windows = Windows(Corpus(tmp_path / "corpus", "train"), SPECIAL, 0.5)
    windows.draw(np.random.default_rng(0), 32)  # fills what is cached
    worker = pickle.loads(pickle.dumps(windows))
    for seed in range(20):
        ours, theirs = (each.draw(np.random.default_rng(seed), 32) for each in (windows, worker))
        assert np.array_equal(ours.input_ids, theirs.input_ids)
        assert len(ours.input_ids) <= 32


def test_two_texts_are_parted_as_the_vocabulary_parts_them():
    windows = Windows(Documents([[9, 9, 9, 9]]), SPECIAL, 1.0, separators=2)
    for seed in range(20):
        window = windows.draw(np.random.default_rng(seed), 32)
        ids, start = window.input_ids, window.segment_b_start
        assert len(ids) <= 32
        assert ids[start - 2 : start].tolist() == [SEP, SEP] or start == len(ids)
        assert (ids == SEP).sum() in ((3,) if start < len(ids) else range(9))
