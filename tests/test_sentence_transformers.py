"""Our modules in sentence-transformers: its encode, predict, rank, evaluators and copies, beside its own."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import pruneonce
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import UsageError

theirs = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")

TEXTS = ["The old film was good!", "", "the war of the king " * 20, "zürich", "music"]


@pytest.fixture(scope="module")
def bare(tiny_bert, tmp_path_factory) -> Path:
    import transformers

    folder = tmp_path_factory.mktemp("bare")
    model = transformers.AutoModel.from_pretrained(tiny_bert)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_bert / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def encoders(bare, tmp_path_factory):
    """(sentence-transformers' own model, ours in its place, our packed file)"""
    folder = tmp_path_factory.mktemp("encoder")
    own = theirs.SentenceTransformer(
        modules=[
            modules.Transformer(str(bare), max_seq_length=24),
            modules.Pooling(32, "mean", include_prompt=False),
            modules.Normalize(),
        ],
        prompts={"query": "the king of: ", "title": "story: "},
        default_prompt_name="title",
        similarity_fn_name="dot",
        device="cpu",
    )
    own.save(str(folder), create_model_card=False)
    file = folder / "m.pruneonce"
    export_packed(folder, file, embeddings="fp32")
    return own, theirs.SentenceTransformer(modules=[pruneonce.SentenceEncoder(file)], device="cpu"), file


@pytest.fixture(scope="module")
def rankers(bare, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranker")
    torch.manual_seed(7)
    own = theirs.CrossEncoder(str(bare), num_labels=1, max_length=24, device="cpu", activation_fn=torch.nn.Identity())
    with torch.no_grad():
        own.model.classifier.weight.mul_(40)
    own.save(str(folder), create_model_card=False)
    export_packed(folder, folder / "m.pruneonce", embeddings="fp32")
    ours = theirs.CrossEncoder(modules=[pruneonce.CrossEncoder(folder / "m.pruneonce")], device="cpu")
    return own, ours, folder / "m.pruneonce"


def test_encode_gives_the_vectors_of_the_original_with_every_option(encoders):
    own, ours, _ = encoders
    for options in (
        {},
        {"prompt_name": "query"},
        {"prompt": "war: "},
        {"batch_size": 2},
        {"truncate_dim": 8},
        {"truncate_dim": 8, "normalize_embeddings": True},
    ):
        np.testing.assert_allclose(ours.encode(TEXTS, **options), own.encode(TEXTS, **options), atol=1e-5)
    np.testing.assert_allclose(ours.encode_query(TEXTS), own.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(ours.encode_document("a film"), own.encode_document("a film"), atol=1e-5)
    assert ours.encode(TEXTS, convert_to_tensor=True).dtype == torch.float32
    assert (ours.get_embedding_dimension(), ours.max_seq_length) == (32, 24)


def test_what_the_file_says_of_prompts_and_similarity_is_the_models(encoders):
    own, ours, file = encoders
    assert {name: text for name, text in ours.prompts.items() if text} == {
        name: text for name, text in own.prompts.items() if text
    }
    assert ours.default_prompt_name == "title"
    assert ours.similarity_fn_name == "dot"
    given = theirs.SentenceTransformer(
        modules=[pruneonce.SentenceEncoder(file)], prompts={"query": "q: "}, similarity_fn_name="cosine", device="cpu"
    )
    assert (given.prompts["query"], given.prompts["title"], given.similarity_fn_name) == ("q: ", "story: ", "cosine")


def test_a_shorter_length_is_obeyed(encoders):
    own, ours, _ = copy.deepcopy(encoders[0]), copy.deepcopy(encoders[1]), None
    own.max_seq_length = ours.max_seq_length = 9
    np.testing.assert_allclose(ours.encode(TEXTS), own.encode(TEXTS), atol=1e-5)
    assert not np.allclose(ours.encode(TEXTS[2]), encoders[1].encode(TEXTS[2]), atol=1e-3)


def test_states_of_tokens_feed_modules_of_the_original(bare, tmp_path):
    export_packed(bare, tmp_path / "plain.pruneonce", embeddings="fp32")
    encoder = pruneonce.SentenceEncoder(tmp_path / "plain.pruneonce", tokens=True)
    texts = [TEXTS[0], TEXTS[3]]
    ours = theirs.SentenceTransformer(modules=[encoder, modules.Pooling(32, "max")], device="cpu")
    transformer = modules.Transformer(str(bare))
    own = theirs.SentenceTransformer(modules=[transformer, modules.Pooling(32, "max")], device="cpu")
    np.testing.assert_allclose(ours.encode(texts), own.encode(texts), atol=1e-5)
    for one, other in zip(
        ours.encode(texts, output_value="token_embeddings"),
        own.encode(texts, output_value="token_embeddings"),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_evaluators_score_the_same(encoders):
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    own, ours, _ = encoders
    evaluator = EmbeddingSimilarityEvaluator(TEXTS, TEXTS[::-1], [0.1, 0.9, 0.5, 0.3, 0.2], show_progress_bar=False)
    expected = evaluator(own)
    assert evaluator(ours) == pytest.approx(expected, abs=1e-5)
    assert expected


def test_copies_and_other_processes_open_the_file_again(encoders):
    _, ours, _ = encoders
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        np.testing.assert_array_equal(other.encode(TEXTS), ours.encode(TEXTS))


def test_a_saved_model_loads_where_its_class_is_trusted(encoders, rankers, tmp_path):
    ours = encoders[1]
    ours.save(str(tmp_path / "encoder"), create_model_card=False)
    loaded = theirs.SentenceTransformer(str(tmp_path / "encoder"), trust_remote_code=True, device="cpu")
    np.testing.assert_array_equal(loaded.encode(TEXTS), ours.encode(TEXTS))
    ours = rankers[1]
    ours.save(str(tmp_path / "ranker"), create_model_card=False)
    loaded = theirs.CrossEncoder(str(tmp_path / "ranker"), trust_remote_code=True, device="cpu")
    pairs = [("the king", text) for text in TEXTS]
    np.testing.assert_array_equal(loaded.predict(pairs), ours.predict(pairs))


def test_scores_and_ranks_are_those_of_the_original(rankers):
    own, ours, file = rankers
    pairs = [("the king of the south", text) for text in TEXTS]
    np.testing.assert_allclose(ours.predict(pairs), own.predict(pairs), atol=1e-5)
    np.testing.assert_allclose(ours.predict(pairs[0]), own.predict(pairs[0]), atol=1e-5)
    sigmoid = torch.nn.Sigmoid()
    np.testing.assert_allclose(
        ours.predict(pairs, activation_fn=sigmoid), own.predict(pairs, activation_fn=sigmoid), atol=1e-5
    )
    ranks = [[each["corpus_id"] for each in model.rank("the king", TEXTS)] for model in (ours, own)]
    assert ranks[0] == ranks[1]
    given = theirs.CrossEncoder(modules=[pruneonce.CrossEncoder(file)], activation_fn=sigmoid, device="cpu")
    np.testing.assert_allclose(given.predict(pairs), own.predict(pairs, activation_fn=sigmoid), atol=1e-5)


def test_a_file_of_the_other_kind_and_pairs_for_an_encoder_are_refused(encoders, rankers):
    with pytest.raises(UsageError, match="no head for text-ranking"):
        pruneonce.CrossEncoder(encoders[2])
    with pytest.raises(UsageError, match="text 0 is a pair"):
        encoders[1].encode([("a", "b")])
    with pytest.raises(UsageError, match="kernels is 'fast'"):
        pruneonce.SentenceEncoder(encoders[2], kernels="fast")


EXAMPLES = re.findall(
    r"(?ms)^<!-- not run: needs ([\w.]+) -->\n```python\n(.*?)^```$",
    (Path(__file__).parents[1] / "docs" / "embeddings.md").read_text(encoding="utf-8"),
)


@pytest.mark.parametrize(("package", "code"), EXAMPLES, ids=[package for package, _ in EXAMPLES])
def test_examples_of_the_page_run_where_their_library_is(encoders, rankers, tmp_path, monkeypatch, package, code):
    pytest.importorskip(package)
    shutil.copy(encoders[2], tmp_path / "vectors.pruneonce")
    shutil.copy(rankers[2], tmp_path / "reranker.pruneonce")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, f"embeddings.md, {package}", "exec"), names)
    if "found" in names:
        assert len(names["found"]) >= 1
    else:
        assert names["vectors"].shape == (2, 32)
        assert names["scores"][0]["corpus_id"] == 0


@pytest.mark.slow
def test_the_real_model_in_sentence_transformers(assets, tmp_path):
    transformer = modules.Transformer(str(assets.model), max_seq_length=256)
    own = theirs.SentenceTransformer(modules=[transformer, modules.Pooling(384), modules.Normalize()], device="cpu")
    own.save(str(tmp_path), create_model_card=False)
    export_packed(tmp_path, tmp_path / "m.pruneonce", embeddings="fp32")
    ours = theirs.SentenceTransformer(modules=[pruneonce.SentenceEncoder(tmp_path / "m.pruneonce")], device="cpu")
    texts = [json.loads(line)["text"] for line in assets.wikipedia.read_text().splitlines()[100:132]]
    np.testing.assert_allclose(ours.encode(texts), own.encode(texts), atol=1e-5)
