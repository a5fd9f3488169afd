"""A text of megabytes on one line costs what little of it is looked at, and has the tokens that it always had."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import vocabularies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizer import tiny_tokenizer

from pruneonce.convert.to_packed import export_packed
from pruneonce.data import build
from pruneonce.errors import UsageError
from pruneonce.models import tokenizer as texts
from pruneonce.models.tokenizer import beginning, encode_batch, load_tokenizer, pieces
from pruneonce.run.pipelines import pipeline
from pruneonce.tasks.classification import encode_texts, truncating_copy

KINDS = ("wordpiece", "byte_level", "unigram", "mpnet", "modern")
# What a tokenizer may treat otherwise at the end of a text than in the middle of it.
PARTS = ["the", "old", "City", "x9", "zürich", "漢字", "e\u0301", "\u0301", "_", "-", "...", "'s", "▁", "\u200d"]
GAPS = ["", " ", "  ", "\n", " \t", "\u00a0", "\u3000"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    getattr(vocabularies, f"save_{request.param}")(folder)
    return load_tokenizer(folder)


@pytest.fixture
def short(monkeypatch):
    """Long begins at forty characters."""
    monkeypatch.setattr(texts, "LONG_TEXT", 40)
    monkeypatch.setattr(build, "LONG_TEXT", 40)


def ids(tokenizer, text):
    return encode_batch(tokenizer, [text], add_special_tokens=False)[0].ids


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from(GAPS)), max_size=80), tokens=st.integers(1, 30))
def test_pieces_have_the_tokens_of_the_text_whatever_the_vocabulary(tokenizer, short, words, tokens):
    text = "".join(part + gap for part, gap in words)
    found = list(pieces(text))
    assert "".join(found) == text
    whole = ids(tokenizer, text)
    assert [token for piece in found for token in ids(tokenizer, piece)] == whole
    first = beginning(tokenizer, text, tokens)
    assert text.startswith(first)
    assert ids(tokenizer, first)[:tokens] == whole[:tokens]
    assert len(ids(tokenizer, first)) >= tokens or first == text
    cutting = truncating_copy(tokenizer, max(tokens, 4))
    one, plain = encode_texts([text], cutting)[0], cutting.encode(text)
    assert (one.ids, bool(one.overflowing)) == (plain.ids, bool(plain.overflowing))


def test_a_text_of_words_is_cut_near_its_beginning(tokenizer, short):
    assert len(beginning(tokenizer, "the old city " * 1000, 10)) < 200
    assert len(max(pieces("the old city " * 1000), key=len)) <= 40


def test_sentences_that_are_encoded_in_pieces_are_those_of_the_text(short):
    tokenizer = tiny_tokenizer(100)
    sentences = ["w1 w2.", " ".join(f"W{i % 100}" for i in range(90)) + ".", "...", "w3", "w4 " * 30]
    text = "\n".join(sentences)
    found = build._tokenize(tokenizer, 7, text)
    expected = [list(tokenizer.encode(s, add_special_tokens=False).ids) for s in build.split_sentences(text)]
    expected = [each for each in expected if each]
    assert found.number == 7
    assert found.tokens.dtype == np.int32
    assert [found.span(i, i + 1).tolist() for i in range(found.sentences)] == expected


def test_a_text_that_is_long_and_not_to_be_cut_is_refused_by_its_beginning(sparse_tiny_bert, short, tmp_path):
    export_packed(sparse_tiny_bert, tmp_path / "m.pruneonce")
    ask = pipeline(None, tmp_path / "m.pruneonce")
    with pytest.raises(UsageError, match="text 1 has more than 64 tokens, the model takes 64"):
        ask(["a film", "the old city " * 1000])
    assert ask("the old city " * 1000, truncation=True) == ask("the old city " * 30, truncation=True)
    left = ask("a good film " + "the old city " * 1000, truncation=True, truncation_side="left")
    assert left == ask("the old city " * 30, truncation=True, truncation_side="left")


@pytest.mark.slow
@pytest.mark.parametrize("text", ["U.S. ", ". ", "the city "])
def test_a_line_of_megabytes_takes_tens_of_them_not_gigabytes(text, sparse_tiny_bert, tmp_path):
    """The library takes up to a kilobyte for each character that it is given."""
    export_packed(sparse_tiny_bert, tmp_path / "m.pruneonce")
    line = text * (3_000_000 // len(text))
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": line}) + "\n")
    code = f"""
import atexit, sys
sys.argv = ["pruneonce", "predict", {str(tmp_path / "m.pruneonce")!r}, "--file", {str(tmp_path / "one.jsonl")!r},
            "--truncation", "--json"]
def most():
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
atexit.register(most)
from pruneonce.cli.app import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["text"] == line
    assert int(ended.stderr.split()[-1]) << 10 < 500_000_000
