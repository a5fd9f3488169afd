from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizer import CLS, SEP, save_tiny_tokenizer, tiny_tokenizer

from pruneonce.data import articles, text
from pruneonce.data import build as build_module
from pruneonce.data import corpus as corpus_module
from pruneonce.data.build import build
from pruneonce.data.corpus import SPLITS, Corpus
from pruneonce.data.layouts import truncate
from pruneonce.errors import PruneonceError, UsageError

WORDS = 4000
LAYOUTS = ("segment_pair_nsp", "document_sentences")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_tiny_tokenizer(tmp_path_factory.mktemp("model"), WORDS)


@pytest.fixture(scope="session")
def word_ids():
    """Id of the word w<i>, by i."""
    tokenizer = tiny_tokenizer(WORDS)
    return np.array([tokenizer.token_to_id(f"w{i}") for i in range(WORDS)])


def write_articles(out, documents, shard_bytes=articles.SHARD_BYTES):
    """documents: per document its sentences, each on a line of its own and so surely a sentence to the splitter."""
    pairs = [(f"T{i}", "\n".join(sentences)) for i, sentences in enumerate(documents)]
    articles.make(out, lambda: (pair for pair in pairs), source={}, skipped={}, shard_bytes=shard_bytes)
    return out


def unique_documents(count, sentences, length):
    """Documents in which no word occurs twice, so that any token tells where it is from."""
    words = (f"w{i}" for i in range(WORDS))
    return [[" ".join(next(words) for _ in range(length)) for _ in range(sentences)] for _ in range(count)]


def examples(corpus_folder, *splits):
    return [Corpus(corpus_folder, split)[i] for split in splits for i in range(len(Corpus(corpus_folder, split)))]


def segments(example):
    """A and B without special tokens; checks the frame [CLS] A [SEP] B [SEP]."""
    ids, b_start = example.input_ids, example.segment_b_start
    assert ids[0] == CLS
    assert ids[b_start - 1] == SEP
    assert ids[-1] == SEP
    return ids[1 : b_start - 1], ids[b_start:-1]


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------------------ segment pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, model):
    """A corpus of 100 documents of 8 sentences of 5 unique words: (folder, documents)."""
    folder = tmp_path_factory.mktemp("pairs")
    documents = unique_documents(100, 8, 5)
    write_articles(folder / "articles", documents)
    build(folder / "articles", folder / "corpus", tokenizer=model, layout=LAYOUTS[0], max_tokens=28, seed=1)
    return folder / "corpus"


def test_label_0_means_b_follows_a_and_label_1_another_document(pairs, word_ids):
    position = {int(token): i for i, token in enumerate(word_ids)}  # 40 words a document, 5 a sentence
    labels = set()
    for example in examples(pairs, "train"):
        a, b = segments(example)
        last_of_a, first_of_b = position[int(a[-1])], position[int(b[0])]
        assert first_of_b % 5 == 0  # B starts with a sentence
        if example.next_sentence_label == 0:
            assert first_of_b // 5 == last_of_a // 5 + 1
            assert first_of_b // 40 == last_of_a // 40
        else:
            assert first_of_b // 40 != last_of_a // 40
        labels.add(example.next_sentence_label)
    assert labels == {0, 1}


def test_every_sentence_is_in_some_example_because_unused_ones_are_put_back(tmp_path, model, word_ids):
    write_articles(tmp_path / "a", unique_documents(50, 8, 5))
    build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0], max_tokens=512, validation_fraction=0)
    in_a_or_next = np.concatenate(
        [
            np.concatenate([a, b]) if not e.next_sentence_label else a
            for e in examples(tmp_path / "c", "train")
            for a, b in [segments(e)]
        ]
    )
    assert set(word_ids[: 50 * 40].tolist()) == set(in_a_or_next.tolist())


def test_labels_are_balanced(tmp_path, model):
    rng = np.random.default_rng(0)
    documents = [[" ".join(f"w{w}" for w in rng.integers(0, 99, 6)) for _ in range(60)] for _ in range(100)]
    write_articles(tmp_path / "a", documents)
    build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0], max_tokens=64)
    labels = np.array([example.next_sentence_label for example in examples(tmp_path / "c", "train")])
    assert len(labels) > 500
    assert 0.45 < labels.mean() < 0.58  # a last lone sentence is always paired at random, so a little above 0.5


@pytest.mark.parametrize(("probability", "label"), [(0.0, 0), (1.0, 1)])
def test_random_next_probability_is_followed(tmp_path, model, probability, label):
    write_articles(tmp_path / "a", unique_documents(20, 4, 5))
    build(
        tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0], random_next_probability=probability,
        short_sequence_probability=0, validation_fraction=0,
    )  # fmt: skip
    assert {example.next_sentence_label for example in examples(tmp_path / "c", "train")} == {label}


def remove_one_by_one(a, b, budget):
    a, b = list(a), list(b)
    while len(a) + len(b) > budget:
        (a if len(a) > len(b) else b).pop()
    return a, b


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 40))
def test_truncation_equals_removing_from_the_longer_one_by_one(a_tokens, b_tokens, budget):
    a, b = np.arange(a_tokens), np.arange(100, 100 + b_tokens)
    fast = truncate(a, b, budget)
    assert tuple(segment.tolist() for segment in fast) == remove_one_by_one(a, b, budget)


def test_lone_document_is_paired_with_itself_and_a_lone_sentence_is_dropped(tmp_path, model):
    write_articles(tmp_path / "a", unique_documents(1, 8, 5))
    build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0], max_tokens=8, random_next_probability=1)
    assert len(Corpus(tmp_path / "c", "train")) == 4  # of 8 sentences, each as long as the budget
    assert {example.next_sentence_label for example in examples(tmp_path / "c", "train")} == {0}
    write_articles(tmp_path / "a1", unique_documents(1, 1, 5))
    with pytest.raises(PruneonceError, match="no training example"):
        build(tmp_path / "a1", tmp_path / "c1", tokenizer=model, layout=LAYOUTS[0])
    with pytest.raises(UsageError, match="unfinished"):
        Corpus(tmp_path / "c1", "train")


# -------------------------------------------------------------------------------------------------- document sentences


def test_document_sentences_never_cross_documents_and_lose_no_token(tmp_path, model, word_ids):
    write_articles(tmp_path / "a", unique_documents(30, 8, 5))
    build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[1], max_tokens=26, validation_fraction=0)
    seen = []
    for example in examples(tmp_path / "c", "train"):
        ids = example.input_ids
        assert (example.segment_b_start, example.next_sentence_label) == (len(ids), -1)
        assert (ids[0], ids[-1]) == (CLS, SEP)
        words = ids[(ids != CLS) & (ids != SEP)]
        assert len(set(((words - word_ids[0]) // 40).tolist())) == 1
        assert (ids[6::6] == SEP).all()  # [CLS], then five words and [SEP] for every sentence
        seen += words.tolist()
    assert sorted(seen) == word_ids[: 30 * 40].tolist()


def test_sentence_longer_than_the_maximum_is_cut_into_pieces_not_lost(tmp_path, model, word_ids):
    write_articles(tmp_path / "a", unique_documents(1, 1, 100))
    build(
        tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[1], max_tokens=32, short_sequence_probability=0,
        validation_fraction=0,
    )  # fmt: skip
    pieces = [example.input_ids[1:-1] for example in examples(tmp_path / "c", "train")]
    assert [len(piece) for piece in pieces] == [30, 30, 30, 10]
    assert np.concatenate(pieces).tolist() == word_ids[:100].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_short_sequence_probability_is_followed(tmp_path, model, layout):
    write_articles(tmp_path / "a", unique_documents(30, 20, 5))
    means = []
    for probability in (0.0, 1.0):
        out = tmp_path / str(probability)
        build(
            tmp_path / "a", out, tokenizer=model, layout=layout, max_tokens=80, short_sequence_probability=probability
        )
        means.append(Corpus(out, "train").lengths.mean())
    assert means[1] < 0.8 * means[0]


# ------------------------------------------------------------------------------------------------------- both layouts

sentence = st.lists(st.sampled_from(["w1", "w2", "zq", "?", "5"]), min_size=1, max_size=40).map(" ".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=st.lists(st.lists(sentence, min_size=1, max_size=6), min_size=2, max_size=6, unique_by=str),
    layout=st.sampled_from(LAYOUTS),
    max_tokens=st.integers(5, 40),
    seed=st.integers(0, 2**70),
)
def test_lengths_and_segments_are_within_bounds_whatever_the_text(
    tmp_path_factory, model, documents, layout, max_tokens, seed
):
    folder = tmp_path_factory.mktemp("property")
    documents = [[*sentences, "w1"] for sentences in documents]  # two sentences: an example even when alone
    write_articles(folder / "a", documents, shard_bytes=150)
    outcome = build(folder / "a", folder / "c", tokenizer=model, layout=layout, max_tokens=max_tokens, seed=seed)
    assert outcome.manifest["splits"]["validation"]["documents"] >= 1
    corpus = Corpus(folder / "c", "train")
    for index, length in enumerate(corpus.lengths):
        example = corpus[index]
        assert len(example.input_ids) == length <= max_tokens
        assert example.input_ids.max() < corpus.vocab_size
        if layout == "segment_pair_nsp":
            a, b = segments(example)
            assert len(a) >= 1
            assert len(b) >= 1
    assert corpus.token_counts.sum() == sum(
        np.isin(example.input_ids, [CLS, SEP], invert=True).sum() for example in corpus
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_and_one_sentence_documents_never_crash(tmp_path, model, layout):
    documents = [["w1 w2"], ["\u200b"], ["w3"], ["\u00ad"], ["w4 w5", "w6"], ["w7"]]  # the odd ones have no token
    write_articles(tmp_path / "a", documents)
    manifest = build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=layout, max_tokens=16).manifest
    assert sum(split["documents"] for split in manifest["splits"].values()) == 4


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bytes_with_one_and_two_workers(tmp_path, model, layout):
    write_articles(tmp_path / "a", unique_documents(40, 8, 5), shard_bytes=3000)
    digests = set()
    for workers in (1, 2):
        out = tmp_path / str(workers)
        build(tmp_path / "a", out, tokenizer=model, layout=layout, max_tokens=40, workers=workers)
        digests.add(Corpus(out, "train").digest)
    assert snapshot(tmp_path / "1") == snapshot(tmp_path / "2")
    assert len(digests) == 1
    assert len(snapshot(tmp_path / "1")) > 6


def test_another_seed_gives_other_examples(tmp_path, model):
    write_articles(tmp_path / "a", unique_documents(20, 8, 5))
    for seed in (1, 2):
        build(tmp_path / "a", tmp_path / str(seed), tokenizer=model, layout=LAYOUTS[0], seed=seed)
    assert snapshot(tmp_path / "1")["train-00000.arrow"] != snapshot(tmp_path / "2")["train-00000.arrow"]


def test_examples_do_not_depend_on_the_record_batch_size(tmp_path, model, monkeypatch):
    write_articles(tmp_path / "a", unique_documents(30, 8, 5))
    build(tmp_path / "a", tmp_path / "large", tokenizer=model, layout=LAYOUTS[0], max_tokens=32)
    monkeypatch.setattr(corpus_module, "EXAMPLES_PER_BATCH", 3)
    build(tmp_path / "a", tmp_path / "small", tokenizer=model, layout=LAYOUTS[0], max_tokens=32)
    large, small = (examples(tmp_path / name, *SPLITS) for name in ("large", "small"))
    assert len(large) == len(small) > 3
    for one, other in zip(large, small, strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist()
        assert one[1:] == other[1:]


# -------------------------------------------------------------------------------------------------------------- splits


def documents_of(corpus_folder, split, word_ids):
    """Numbers of the documents (40 unique words each) that a split's examples draw from."""
    tokens = np.concatenate([example.input_ids for example in examples(corpus_folder, split)])
    return set(((tokens[tokens >= word_ids[0]] - word_ids[0]) // 40).tolist())


def test_no_document_is_in_both_splits_not_even_as_random_next(pairs, word_ids):
    train, validation = (documents_of(pairs, split, word_ids) for split in SPLITS)
    assert not train & validation
    assert len(train) + len(validation) == 100
    assert 1 <= len(validation) <= 15


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_neither_split_is_empty_with_two_documents(tmp_path, model, fraction, seed):
    write_articles(tmp_path / "a", unique_documents(2, 4, 5))
    manifest = build(
        tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0], validation_fraction=fraction, seed=seed
    ).manifest
    assert [manifest["splits"][split]["documents"] for split in SPLITS] == [1, 1]


def test_split_does_not_depend_on_order_and_keeps_copies_together(tmp_path):
    pairs = [(f"T{i}", f"text {i}") for i in range(50)]
    sides = []
    for name, ordered in (("a", pairs), ("b", pairs[::-1] + pairs)):
        articles.make(tmp_path / name, lambda ordered=ordered: iter_of(ordered), source={}, skipped={})
        threshold = build_module._validation_threshold(tmp_path / name, 0.2, seed=3)
        sides.append({pair for pair in pairs if build_module._document_hash(3, *pair) < threshold})
    assert sides[0] == sides[1]
    assert 3 <= len(sides[0]) <= 20


def iter_of(items):
    yield from items


def test_no_validation_when_none_is_asked_for(tmp_path, model):
    write_articles(tmp_path / "a", unique_documents(5, 4, 5))
    build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0], validation_fraction=0)
    with pytest.raises(UsageError, match="has no validation examples"):
        Corpus(tmp_path / "c", "validation")


# ---------------------------------------------------------------------------------------- interrupted, repeated, wrong


def test_killed_build_is_not_accepted_and_goes_on_from_its_finished_shards(tmp_path, model, monkeypatch):
    write_articles(tmp_path / "a", unique_documents(40, 8, 5), shard_bytes=3000)
    options = {"tokenizer": model, "layout": LAYOUTS[0], "max_tokens": 40}
    build(tmp_path / "a", tmp_path / "whole", **options)
    written = []

    def killed_after_three(job, split, documents, write=build_module._write_split):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(job.target(split).name)
        write(job, split, documents)

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "_write_split", killed_after_three)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "a", tmp_path / "c", **options)
    (tmp_path / "c" / ".train-00001.arrow.x.tmp").write_bytes(b"left by a kill")
    with pytest.raises(UsageError, match="is an unfinished corpus"):
        Corpus(tmp_path / "c", "train")
    first = (tmp_path / "c" / "train-00000.arrow").stat().st_mtime_ns
    build(tmp_path / "a", tmp_path / "c", **options)
    assert (tmp_path / "c" / "train-00000.arrow").stat().st_mtime_ns == first
    assert snapshot(tmp_path / "c") == snapshot(tmp_path / "whole")


def test_unfinished_shards_of_other_parameters_are_not_reused(tmp_path, model):
    write_articles(tmp_path / "a", unique_documents(20, 8, 5))
    build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0], max_tokens=40)
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    (tmp_path / "c" / "manifest.json").unlink()
    building = {name: manifest[name] for name in ("format", "version", "parameters")}
    (tmp_path / "c" / "building.json").write_text(json.dumps(building))
    build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0], max_tokens=20)
    assert Corpus(tmp_path / "c", "train").lengths.max() <= 20


def test_finished_build_is_skipped_and_other_parameters_are_named(tmp_path, model):
    write_articles(tmp_path / "a", unique_documents(5, 4, 5))
    assert not build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0]).reused
    assert build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0]).reused
    with pytest.raises(UsageError, match="made with max_tokens = 512, not 128"):
        build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0], max_tokens=128, seed=7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "line_by_line"}, "layout must be one of segment_pair_nsp, document_sentences"),
        ({"max_tokens": 4}, "max_tokens must be at least 5"),
        ({"seed": -1}, "seed must not be negative"),
        ({"validation_fraction": 1.5}, "validation_fraction must be between 0 and 1"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
    ids=str,
)
def test_impossible_parameters_are_usage_errors(tmp_path, model, options, message):
    write_articles(tmp_path / "a", unique_documents(2, 2, 5))
    with pytest.raises(UsageError, match=message):
        build(tmp_path / "a", tmp_path / "c", **{"tokenizer": model, "layout": LAYOUTS[0], **options})


def test_own_files_in_the_corpus_folder_are_refused_and_kept(tmp_path, model):
    write_articles(tmp_path / "a", unique_documents(5, 4, 5))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "train-mine.arrow").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"holds other files \(train-mine\.arrow\)"):
        build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0])
    assert snapshot(tmp_path / "c") == {"train-mine.arrow": b"mine"}


def test_no_articles_folder_and_no_corpus_are_usage_errors(tmp_path, model):
    with pytest.raises(UsageError, match="not a finished articles folder"):
        build(tmp_path, tmp_path / "c", tokenizer=model, layout=LAYOUTS[0])
    with pytest.raises(UsageError, match="is not a corpus"):
        Corpus(tmp_path, "train")


def test_shard_that_was_cut_or_lost_is_named(pairs, tmp_path):
    for damage, message in [
        (lambda data: data[:-100], "its manifest says"),
        (lambda data: b"x" * len(data), "cannot be"),
    ]:
        for name, data in snapshot(pairs).items():
            (tmp_path / name).write_bytes(damage(data) if name == "train-00000.arrow" else data)
        with pytest.raises(PruneonceError, match=rf"train-00000\.arrow .*{message}"):
            Corpus(tmp_path, "train")
    (tmp_path / "train-00000.arrow").unlink()
    with pytest.raises(PruneonceError, match="has 0 bytes"):
        Corpus(tmp_path, "train")


def test_lengths_that_a_shard_claims_are_not_believed(pairs, tmp_path):
    # Views of the mapped file reach as far as these numbers say: past its end, the process would be killed.
    for name, data in snapshot(pairs).items():
        (tmp_path / name).write_bytes(data)
    shard = tmp_path / "train-00000.arrow"
    whole = shard.read_bytes()
    blocks = Corpus(pairs, "train")._blocks
    lengths = {blocks[0].ids.size, blocks[0].ids.nbytes, blocks[0].offsets.nbytes, len(blocks[0].labels)}
    places = [at for at in range(0, len(whole) - 8, 8) if int.from_bytes(whole[at : at + 8], "little") in lengths]
    assert places
    refused = 0
    for at in places:
        shard.write_bytes(whole[:at] + (1 << 30).to_bytes(8, "little") + whole[at + 8 :])
        try:
            corpus = Corpus(tmp_path, "train")
        except PruneonceError:
            refused += 1
        else:
            assert [corpus[i].input_ids.sum() for i in range(len(corpus))]
    assert refused


def test_shard_with_other_columns_is_refused(pairs, tmp_path):
    manifest = json.loads((pairs / "manifest.json").read_text())
    for name, data in snapshot(pairs).items():
        (tmp_path / name).write_bytes(data)
    shard = tmp_path / "train-00000.arrow"
    table = pa.table({"input_ids": ["a"], "segment_b_start": [1], "next_sentence_label": [0]})
    with pa.ipc.new_file(str(shard), table.schema) as writer:
        writer.write_table(table)
    manifest["shards"][0].update(bytes=shard.stat().st_size, examples=1)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PruneonceError, match="its columns are input_ids: string"):
        Corpus(tmp_path, "train")


# ------------------------------------------------------------------------------------------------------------- reading


def test_corpus_is_a_sequence_that_survives_pickling(pairs):
    corpus = Corpus(pairs, "train")
    copy = pickle.loads(pickle.dumps(corpus))
    assert len(copy) == len(corpus) == len(list(corpus)) == corpus.manifest["splits"]["train"]["examples"]
    assert copy[-1].input_ids.tolist() == corpus[len(corpus) - 1].input_ids.tolist()
    assert corpus.lengths.dtype == np.int32
    assert corpus[0].input_ids.dtype == np.int64
    assert (corpus.layout, corpus.split) == ("segment_pair_nsp", "train")
    with pytest.raises(IndexError):
        corpus[len(corpus)]
    with pytest.raises(UsageError, match="train, validation"):
        Corpus(pairs, "test")


def test_large_vocabulary_is_stored_in_more_than_16_bits(tmp_path):
    model = save_tiny_tokenizer(tmp_path / "model", 70_000)
    write_articles(tmp_path / "a", [["w69999 w1", "w69998"], ["w69997", "w2"]])
    build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[1], validation_fraction=0)
    corpus = Corpus(tmp_path / "c", "train")
    assert max(example.input_ids.max() for example in corpus) == corpus.vocab_size - 1 > 1 << 16


def test_special_tokens_in_a_text_are_ordinary_characters(tmp_path, model):
    write_articles(tmp_path / "a", [["w1 [SEP] w2", "[MASK]"], ["w3", "w4"]])
    build(tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0], validation_fraction=0)
    for example in examples(tmp_path / "c", "train"):
        assert (example.input_ids == SEP).sum() == 2
        assert (example.input_ids == 4).sum() == 0


def test_progress_counts_documents(tmp_path, model):
    write_articles(tmp_path / "a", unique_documents(40, 8, 5), shard_bytes=3000)
    seen = []
    build(
        tmp_path / "a", tmp_path / "c", tokenizer=model, layout=LAYOUTS[0], on_progress=lambda *step: seen.append(step)
    )
    assert seen[0] == (0, 40, "documents")
    assert seen[-1] == (40, 40, "documents")
    assert seen == sorted(seen)


def test_real_text(tmp_path, model, real_data):
    source = real_data / "wikipedia" / "squad_contexts.txt"
    (tmp_path / "some.txt").write_text("".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[:300]))
    text.collect([tmp_path / "some.txt"], tmp_path / "a", documents="line")
    for layout in LAYOUTS:
        build(tmp_path / "a", tmp_path / layout, tokenizer=model, layout=layout, max_tokens=128)
        assert Corpus(tmp_path / layout, "train").lengths.mean() > 60


@pytest.mark.parametrize("name", ["../elsewhere.arrow", "/etc/hostname"])
def test_a_manifest_cannot_have_a_file_of_elsewhere_read(pair_corpus, tmp_path, name):
    folder = shutil.copytree(pair_corpus, tmp_path / "corpus")
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = next(shard for shard in manifest["shards"] if shard["split"] == "train")
    (folder / entry["file"]).rename(tmp_path / "elsewhere.arrow")
    entry["file"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PruneonceError, match=r"corpus/manifest\.json names the file .*without a folder is expected$"):
        Corpus(folder, "train")


@pytest.fixture
def damaged_corpus(pair_corpus, tmp_path):
    """A corpus of one's own to damage."""
    return shutil.copytree(pair_corpus, tmp_path / "damaged")


@pytest.mark.parametrize("damage", ["header", "cut off", "objects", "longer", "gone"])
def test_token_counts_that_are_none_are_one_line(damaged_corpus, damage):
    file = damaged_corpus / "token_counts.npy"
    whole = file.read_bytes()
    if damage == "objects":
        np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    elif damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"header": whole[:20] + b"(" + whole[21:], "cut off": whole[:-9], "longer": whole * 2}[damage])
    with pytest.raises(PruneonceError, match=r"token_counts\.npy does not hold [\d,]+ counts: delete") as caught:
        Corpus(damaged_corpus, "train").token_counts  # noqa: B018 - reading is the test
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["vocab_size", "parameters", "shards.bytes", "shards.examples", "shards.split"])
def test_a_manifest_that_lacks_a_part_is_one_line(damaged_corpus, key):
    file = damaged_corpus / "manifest.json"
    manifest = json.loads(file.read_text())
    if key.startswith("shards."):
        for shard in manifest["shards"]:
            del shard[key.partition(".")[2]]
    else:
        manifest[key] = None
    file.write_text(json.dumps(manifest))
    with pytest.raises(PruneonceError) as caught:
        Corpus(damaged_corpus, "train")
    assert "\n" not in str(caught.value)


def test_a_shard_whose_columns_have_names_of_other_bytes_is_one_line(damaged_corpus):
    file = next(damaged_corpus.glob("train-*.arrow"))
    file.write_bytes(file.read_bytes().replace(b"input_ids", b"input_\xff\xff\xff"))
    with pytest.raises(PruneonceError, match="cannot be read"):
        Corpus(damaged_corpus, "train")
