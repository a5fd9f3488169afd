from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneonce.data.sentences import split_sentences


@given(st.text(alphabet=st.sampled_from(list("ab AB.!?…\"')(\n\t 1é。")), max_size=80) | st.text())
def test_no_character_but_space_is_lost_or_moved(text):
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@given(st.text())
def test_no_sentence_is_empty_or_crosses_a_newline(text):
    for sentence in split_sentences(text):
        assert sentence == sentence.strip() != ""
        assert "\n" not in sentence


@given(st.text(), st.text())
def test_lines_do_not_influence_each_other(first, second):
    assert split_sentences(f"{first}\n{second}") == split_sentences(first) + split_sentences(second)


@pytest.mark.parametrize(
    "sentence",
    [
        "Mr. Smith and Dr. J. R. Jones met.",
        "He moved to the U.S. Army in 1970.",
        "Fruit, e.g. apples, i.e. Malus, weighs 3.5 kg (approx. 7 lb).",
        "See Fig. 3 and no. 5 of vol. IX.",
        "She waited ... and then left.",
        "Gen. Lee, Jr. Smith and Acme Inc. Holdings agreed.",
        "He sold Yahoo! and left.",
        "It is at example.com or in file.Name today.",
        "It began on Jan. 5 at 3 p.m. Eastern.",
    ],
)
def test_abbreviations_numbers_and_names_do_not_split(sentence):
    assert split_sentences(sentence) == [sentence]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("It ended (in 1990.) Peace came.", ["It ended (in 1990.)", "Peace came."]),
        ("They live in the U.S. The others do not.", ["They live in the U.S.", "The others do not."]),
        ("Is it? Yes! Good… Fine.", ["Is it?", "Yes!", "Good…", "Fine."]),
        ("It cost 5. 10 were sold.", ["It cost 5.", "10 were sold."]),
        ("He said no. Then he went.", ["He said no.", "Then he went."]),
        ('End. "Start here." (And here.) Last', ["End.", '"Start here."', "(And here.)", "Last"]),
        ("你好。再见。", ["你好。", "再见。"]),
        ("A line\nanother line. ", ["A line", "another line."]),
        (" \n ", []),
        ("", []),
    ],
)
def test_splits(text, sentences):
    assert split_sentences(text) == sentences


def test_a_megabyte_without_a_boundary_takes_linear_time():
    for text in ("." * 1_000_000, "a" * 1_000_000, '"' * 1_000_000, "a. " * 300_000, "." + '"' * 1_000_000):
        assert "".join(split_sentences(text)).count("\n") == 0
