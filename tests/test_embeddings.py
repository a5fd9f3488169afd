"""Sentence vectors and scores against sentence-transformers itself, from folders that it wrote."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pruneonce
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.packed_file import read_packed, write_packed
from pruneonce.models.sentence import POOLINGS, EmbeddingPlan, Projection, RankingPlan, plan_of
from pruneonce.run.pipelines import pipeline
from pruneonce.run.sentence import pooled

sentence_transformers = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")

TEXTS = [
    "The old film was not good, but the music was great!",
    "",
    "history of the war (part two): zürich qx9",
    "a",
    "king's city - the king of the river and the king of the south? " * 4,
]


@pytest.fixture(scope="module")
def bare(tiny_bert, tmp_path_factory) -> Path:
    """A bare encoder whose vectors differ by more than rounding."""
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


def saved(bare, folder, *after, max_tokens=24, **settings):
    """(sentence-transformers' model, its folder) of the bare encoder and modules after it."""
    transformer = modules.Transformer(str(bare), max_seq_length=max_tokens)
    model = sentence_transformers.SentenceTransformer(modules=[transformer, *after], device="cpu", **settings)
    model.save(str(folder), create_model_card=False)
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


def packed(folder: Path) -> Path:
    file = folder / "model.pruneonce"
    export_packed(folder, file, embeddings="fp32")
    return file


@pytest.mark.parametrize("pooling", [*POOLINGS, ["mean", "cls"], ["cls", "lasttoken"]])
def test_every_pooling_gives_the_vectors_of_the_original(bare, tmp_path, pooling):
    theirs = saved(bare, tmp_path, modules.Pooling(32, pooling))
    ours = pipeline(None, packed(tmp_path))
    assert ours.task == "embeddings"
    assert ours.size == theirs.get_embedding_dimension()
    np.testing.assert_allclose(ours(TEXTS), theirs.encode(TEXTS), atol=1e-5)


def test_a_text_is_cut_where_the_original_cuts_it(bare, tmp_path):
    theirs = saved(bare, tmp_path, modules.Pooling(32, "mean"), max_tokens=7)
    ours = pipeline("embeddings", packed(tmp_path))
    assert ours.max_tokens == 7
    np.testing.assert_allclose(ours(TEXTS), theirs.encode(TEXTS), atol=1e-5)
    with pytest.raises(UsageError, match=r"text 0 has 15 tokens, the model takes 7: cut it, or set truncation=True"):
        ours(TEXTS, truncation=False)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("size", [32, 12])
@pytest.mark.parametrize("nonlinearity", [torch.nn.Tanh(), torch.nn.GELU(), torch.nn.ReLU(), torch.nn.Identity()])
def test_projections_and_unit_length(bare, tmp_path, size, nonlinearity, residual):
    torch.manual_seed(5)
    after = [
        modules.Pooling(32, "mean"),
        modules.Dense(32, 20, bias=False, activation_function=torch.nn.Identity()),
        modules.Dense(20, 32, activation_function=nonlinearity),
        modules.Dense(32, size, activation_function=nonlinearity, use_residual=residual),
        modules.Normalize(),
    ]
    theirs = saved(bare, tmp_path, *after)
    ours = pipeline(None, packed(tmp_path))
    vectors = ours(TEXTS)
    assert ours.size == size == vectors.shape[1]
    np.testing.assert_allclose(vectors, theirs.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    with pytest.raises(UsageError, match="projections were trained for the one it has"):
        ours(TEXTS, pooling="cls")


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "weightedmean"])
def test_prompts_by_name_by_default_and_by_text(bare, tmp_path, include_prompt, pooling):
    prompts = {"query": "the king of: ", "passage": "story: "}
    pool = modules.Pooling(32, pooling, include_prompt=include_prompt)
    theirs = saved(bare, tmp_path, pool, prompts=prompts, default_prompt_name="passage")
    ours = pipeline("embeddings", packed(tmp_path))
    texts = TEXTS[:4]
    np.testing.assert_allclose(ours(texts), theirs.encode(texts), atol=1e-5)
    np.testing.assert_allclose(ours(texts, prompt_name="query"), theirs.encode(texts, prompt_name="query"), atol=1e-5)
    np.testing.assert_allclose(ours(texts, prompt="for "), theirs.encode(texts, prompt="for "), atol=1e-5)
    np.testing.assert_allclose(ours(texts, prompt=""), theirs.encode(texts, prompt=""), atol=1e-5)
    np.testing.assert_allclose(ours.queries(texts), theirs.encode_query(texts), atol=1e-5)
    np.testing.assert_allclose(ours.documents(texts), theirs.encode_document(texts), atol=1e-5)
    assert not np.allclose(ours.queries(texts), ours.documents(texts), atol=1e-3)
    with pytest.raises(UsageError, match=r"prompt_name is 'title': this model has .*query"):
        ours(texts, prompt_name="title")
    with pytest.raises(UsageError, match="both given"):
        ours(texts, prompt_name="query", prompt="a ")


def test_documents_take_the_prompt_for_passages_where_there_is_no_other(bare, tmp_path):
    saved(bare, tmp_path, modules.Pooling(32, "mean"))
    written(tmp_path, "config_sentence_transformers.json", lambda value: value | {"prompts": {"passage": "story: "}})
    ours = pipeline("embeddings", packed(tmp_path))
    np.testing.assert_array_equal(ours.documents("a king"), ours("a king", prompt="story: "))
    np.testing.assert_array_equal(ours.queries("a king"), ours("a king"))


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity_is_by_the_measure_of_the_model(bare, tmp_path, similarity):
    theirs = saved(bare, tmp_path, modules.Pooling(32, "mean"), similarity_fn_name=similarity)
    ours = pipeline("sentence-similarity", packed(tmp_path))
    expected = theirs.similarity(theirs.encode(TEXTS[:1]), theirs.encode(TEXTS[1:]))[0]
    np.testing.assert_allclose(ours.similarity(TEXTS[0], TEXTS[1:]), expected, rtol=1e-5, atol=1e-5)
    assert ours.similarity(TEXTS[0], []) == []


def test_fewer_dimensions_are_of_unit_length_where_vectors_are(bare, tmp_path):
    saved(bare, tmp_path, modules.Pooling(32, "mean"), modules.Normalize())
    ours = pipeline("embeddings", packed(tmp_path))
    whole, cut = ours(TEXTS), ours(TEXTS, dimensions=8)
    assert cut.shape == (len(TEXTS), 8)
    np.testing.assert_allclose(cut, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)
    raw = ours(TEXTS, normalize=False)
    np.testing.assert_allclose(ours(TEXTS, normalize=False, dimensions=8), raw[:, :8])
    assert np.linalg.norm(raw[0]) > 1.5
    for wrong in (0, 33, True, "8"):
        with pytest.raises(UsageError, match=r"dimensions is .*: a number of 1 to 32 is expected"):
            ours(TEXTS, dimensions=wrong)


def test_a_plain_encoder_is_pooled_as_the_original_pools_it(bare, tmp_path):
    file = tmp_path / "plain.pruneonce"
    export_packed(bare, file, embeddings="fp32")
    theirs = sentence_transformers.SentenceTransformer(str(bare), device="cpu")
    assert pipeline(None, file).task == "feature-extraction"
    assert read_packed(file).version == 1, "an older reader reads it"
    np.testing.assert_allclose(pruneonce.embed(file, TEXTS[:4]), theirs.encode(TEXTS[:4]), atol=1e-5)
    first = pipeline("feature-extraction", file)(TEXTS[:4], pooling="cls", normalize=True)
    np.testing.assert_array_equal(pruneonce.embed(file, TEXTS[:4], pooling="cls", normalize=True), first)


def test_a_vector_has_the_same_bits_alone_and_in_company(bare, tmp_path, two_threads):
    torch.manual_seed(5)
    saved(bare, tmp_path, modules.Pooling(32, "mean"), modules.Dense(32, 20), modules.Normalize())
    ours = pipeline("embeddings", packed(tmp_path))
    together = ours(TEXTS * 3, batch_size=4)
    for number, text in enumerate(TEXTS * 3):
        np.testing.assert_array_equal(together[number], ours(text))
    model = ours.model
    ids = [np.array(encoding.ids) for encoding in ours.encode(TEXTS)]
    np.testing.assert_array_equal(model.embed(ids), together[: len(TEXTS)])


def test_no_texts_have_no_vectors(bare, tmp_path):
    saved(bare, tmp_path, modules.Pooling(32, ["mean", "max"]))
    ours = pipeline("embeddings", packed(tmp_path))
    assert ours([]).shape == (0, 64)
    assert ours([], dimensions=5).shape == (0, 5)
    assert ours.model.embed([]).shape == (0, 64)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([("a", "b")], {}, "text 0 is a pair: embeddings are of single texts"),
        ([{"text": "a", "text_pair": "b"}], {}, "text 0 is a pair"),
        (["a", 3], {}, "text 1 is int"),
        (["a", "\ud800"], {}, "text 1 is not Unicode"),
        (["a"], {"pooling": "median"}, "pooling is 'median': one of cls"),
        (["a"], {"pooling": []}, "pooling is"),
        (["a"], {"max_length": 3}, "max_length is 3"),
        (["a"], {"truncation": "yes"}, "truncation is 'yes'"),
        (["a"], {"prompt": 3}, "prompt is int"),
        (["a"], {"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_input_is_one_line(bare, tmp_path, inputs, options, message):
    file = tmp_path / "plain.pruneonce"
    export_packed(bare, file)
    with pytest.raises(UsageError, match=message) as caught:
        pipeline("embeddings", file)(inputs, **options)
    assert "\n" not in str(caught.value)


def test_tokens_that_are_none_and_too_many_are_named(bare, tmp_path):
    file = tmp_path / "plain.pruneonce"
    export_packed(bare, file)
    model = pruneonce.load_model(file)
    for pooling in ("mean", "cls"):
        with pytest.raises(UsageError, match="sequence 1 has 0 tokens"):
            model.embed([np.array([2, 3]), np.array([], int)], pooling=pooling)
        with pytest.raises(UsageError, match="sequence 0 has 65 tokens"):
            model.embed([np.full(65, 2)], pooling=pooling)


def test_lower_case_that_the_folder_asks_for_is_kept(bare, tmp_path):
    tokenizer = json.loads((bare / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    source = tmp_path / "cased"
    shutil.copytree(bare, source)
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    transformer = modules.Transformer(str(source), max_seq_length=24)
    model = sentence_transformers.SentenceTransformer(modules=[transformer, modules.Pooling(32)], device="cpu")
    folder = tmp_path / "saved"
    model.save(str(folder), create_model_card=False)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": true}')
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    ours = pruneonce.embed(packed(folder), ["The KING", "the king"])
    np.testing.assert_array_equal(ours[0], ours[1])
    np.testing.assert_allclose(ours, theirs.encode(["The KING", "the king"]), atol=1e-5)


@pytest.mark.slow
def test_vectors_of_the_real_model_are_those_of_sentence_transformers(assets, tmp_path):
    theirs = saved(assets.model, tmp_path, modules.Pooling(384, "mean"), modules.Normalize(), max_tokens=256)
    texts = [json.loads(line)["text"] for line in assets.wikipedia.read_text().splitlines()[:48]]
    texts += [text[:40] for text in texts[:16]] + [" ".join(texts[:4])]
    ours = pipeline(None, packed(tmp_path))
    assert max(len(encoding.ids) for encoding in ours.encode(texts)) == 256, "some must be cut"
    np.testing.assert_allclose(ours(texts), theirs.encode(texts), atol=1e-5)


# ------------------------------------------------------------------------------------------------------- rerankers


@pytest.fixture(scope="module")
def ranker(bare, tmp_path_factory) -> Path:
    """A cross-encoder's folder, as sentence-transformers writes it."""
    folder = tmp_path_factory.mktemp("ranker")
    torch.manual_seed(7)
    model = sentence_transformers.CrossEncoder(str(bare), num_labels=1, max_length=24, device="cpu")
    with torch.no_grad():
        model.model.classifier.weight.mul_(40)
    model.save(str(folder), create_model_card=False)
    return folder


PASSAGES = [text for text in TEXTS if text]


def test_scores_and_order_are_those_of_the_original(ranker, tmp_path):
    theirs = sentence_transformers.CrossEncoder(str(ranker), device="cpu")
    file = tmp_path / "ranker.pruneonce"
    export_packed(ranker, file, embeddings="fp32")
    ours = pipeline(None, file)
    assert ours.task == "text-ranking"
    assert ours.max_tokens == 24
    query = "which king is of the south " * 2
    pairs = [(query, text) for text in TEXTS]
    np.testing.assert_allclose(ours(pairs), theirs.predict(pairs), atol=1e-5)
    raw = theirs.predict(pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(ours(pairs, raw_scores=True), raw, atol=1e-5)
    assert np.ptp(raw) > 0.1
    ranked = theirs.rank(query, PASSAGES, return_documents=True)
    found = ours.rerank(query, PASSAGES, return_texts=True)
    assert [each["index"] for each in found] == [each["corpus_id"] for each in ranked]
    assert [each["text"] for each in found] == [each["text"] for each in ranked]
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in ranked], abs=1e-5)
    assert ours.rerank(query, PASSAGES, top_k=2) == [
        {key: each[key] for key in ("index", "score")} for each in found[:2]
    ]
    assert ours.rerank(query, []) == []


@pytest.mark.parametrize("key", ["sentence_transformers", "sbert_ce_default_activation_function"])
def test_older_cross_encoders_keep_their_activation_in_the_config(ranker, tmp_path, key):
    folder = tmp_path / "old"
    shutil.copytree(ranker, folder)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    config = json.loads((folder / "config.json").read_text())
    identity = "torch.nn.modules.linear.Identity"
    config[key] = {"activation_fn": identity} if key == "sentence_transformers" else identity
    (folder / "config.json").write_text(json.dumps(config))
    ours = pipeline(None, packed(folder))
    pairs = [("the king", text) for text in TEXTS]
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    assert ours.plan.activation == "none"
    np.testing.assert_allclose(ours(pairs), theirs.predict(pairs), atol=1e-5)


def test_a_prompt_goes_before_the_query(ranker, tmp_path):
    folder = tmp_path / "prompted"
    shutil.copytree(ranker, folder)
    file = folder / "config_sentence_transformers.json"
    settings = json.loads(file.read_text()) | {"prompts": {"web": "which "}, "default_prompt_name": "web"}
    file.write_text(json.dumps(settings))
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    pairs = [("the king", text) for text in PASSAGES]
    np.testing.assert_allclose(pipeline(None, packed(folder))(pairs), theirs.predict(pairs), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rank: rank("a b"), "a list of"),
        (lambda rank: rank(["ab"]), "pair 0 is no"),
        (lambda rank: rank([("a", "b"), ("a", 3)]), "pair 1 is no"),
        (lambda rank: rank([("a", "b", "c")]), "pair 0 is no"),
        (lambda rank: rank.rerank("a", "b"), "texts: a list of strings"),
        (lambda rank: rank.rerank("a", ["b"], top_k=0), "top_k is 0"),
        (lambda rank: rank([("a", "b " * 40)], truncation=False), "cut it, or set truncation=True"),
    ],
)
def test_what_is_no_query_and_text_is_named(ranker, tmp_path, call, message):
    file = tmp_path / "ranker.pruneonce"
    export_packed(ranker, file)
    with pytest.raises(UsageError, match=message):
        call(pipeline("text-ranking", file))


def test_a_model_without_one_logit_ranks_nothing(bare, sparse_tiny_bert, tmp_path):
    for name, folder in (("bare", bare), ("classes", sparse_tiny_bert)):
        file = tmp_path / f"{name}.pruneonce"
        export_packed(folder, file)
        with pytest.raises(UsageError, match="no head for text-ranking"):
            pipeline("text-ranking", file)


# ---------------------------------------------------------------------------------------------- folders and files


def written(folder: Path, name: str, change) -> None:
    file = folder / name
    value = json.loads(file.read_text())
    file.write_text(json.dumps(change(value)))


def typed(index, **changes):
    return lambda listed: [module | (changes if number == index else {}) for number, module in enumerate(listed)]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("modules.json", typed(2, type="evil.Module"), "has the module 'evil.Module', which we do not compute"),
        ("modules.json", typed(2, type="sentence_transformers.models.LSTM"), "models.LSTM', which we do not compute"),
        ("modules.json", typed(1, path="../elsewhere"), "a plain name is expected"),
        ("modules.json", typed(2, path="/etc"), "a plain name is expected"),
        ("modules.json", typed(0, path="0_Transformer"), "the Transformer is in '0_Transformer'"),
        ("modules.json", lambda listed: listed[::-1], "in this order"),
        ("modules.json", lambda listed: {}, "is no list of modules"),
        ("modules.json", lambda listed: [3], "is no list of modules"),
        ("modules.json", typed(1, type=None), "which we do not compute"),
        ("1_Pooling/config.json", lambda _: {"pooling_mode": "median"}, "pooling 'median' is not one of cls"),
        ("1_Pooling/config.json", lambda _: [], "is not a JSON object"),
        ("2_Dense/config.json", lambda value: value | {"activation_function": "os.system"}, "'os.system' is not one"),
        ("2_Dense/config.json", lambda value: value | {"use_residual": 3}, "with residual true or false"),
        (
            "2_Dense/config.json",
            lambda value: value | {"module_input_name": "token_embeddings"},
            "is a layer over tokens",
        ),
        ("config_sentence_transformers.json", lambda value: value | {"similarity_fn_name": "maxsim"}, "similarity"),
        ("config_sentence_transformers.json", lambda value: value | {"prompts": {"query": 3}}, "prompts must be"),
        ("sentence_bert_config.json", lambda value: value | {"max_seq_length": -4}, "max_tokens must be 1 to"),
        ("sentence_bert_config.json", lambda value: value | {"max_seq_length": "many"}, "max_tokens must be 1 to"),
    ],
)
def test_a_folder_that_we_do_not_compute_is_named_and_nothing_written(bare, tmp_path, name, change, message):
    folder = tmp_path / "model"
    saved(bare, folder, modules.Pooling(32, "mean"), modules.Dense(32, 20))
    written(folder, name, change)
    with pytest.raises(PruneonceError, match=message) as caught:
        export_packed(folder, tmp_path / "out.pruneonce")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.pruneonce").exists()


def test_projections_that_are_not_there_or_cut_off_are_named(bare, tmp_path):
    folder = tmp_path / "model"
    saved(bare, folder, modules.Pooling(32, "mean"), modules.Dense(32, 20))
    weights = folder / "2_Dense" / "model.safetensors"
    sound = weights.read_bytes()
    for content, message in (
        (sound[:-9], "cut off|outside"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        (None, "2_Dense.model.safetensors does not exist"),
    ):
        weights.unlink()
        if content is not None:
            weights.write_bytes(content)
        with pytest.raises(PruneonceError, match=message):
            export_packed(folder, tmp_path / "out.pruneonce")
        weights.write_bytes(sound)
    written(folder, "1_Pooling/config.json", lambda value: value | {"pooling_mode": ["mean", "max"]})
    with pytest.raises(PruneonceError, match=r"tensor linear.weight is missing, or not of a layer over 64 numbers"):
        export_packed(folder, tmp_path / "out.pruneonce")


PLANS = [
    EmbeddingPlan(),
    EmbeddingPlan(
        pooling=("cls", "lasttoken"),
        projections=(Projection("2_Dense", "tanh"), Projection("3_Dense", residual=True)),
        normalize=True,
        max_tokens=128,
        prompts={"query": "q: "},
        default_prompt="query",
        include_prompt=False,
        similarity="dot",
    ),
    RankingPlan(),
    RankingPlan("none", 512, {"web": "Ω "}, "web"),
]


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_comes_back_from_a_file_as_it_was(bare, tmp_path, plan):
    export_packed(bare, tmp_path / "plain.pruneonce")
    model = replace(read_packed(tmp_path / "plain.pruneonce"), sentence=plan)
    write_packed(tmp_path / "planned.pruneonce", model)
    found = read_packed(tmp_path / "planned.pruneonce")
    assert found.sentence == plan
    assert found.version == 3
    assert plan_of(json.loads(json.dumps(plan.as_json()))) == plan


@pytest.mark.parametrize("plan", [PLANS[1], PLANS[3]])
@pytest.mark.parametrize("wrong", [None, 3, -1, 1e9, True, "", "x" * 5000, [], {}, [[]], ["mean", "mean"], [{}]])
def test_a_hostile_plan_is_refused_by_the_name_of_its_key(plan, wrong):
    sound = plan.as_json()
    allowed = {"max_tokens": (None, 3), "default_prompt": (None,), "prompts": ({},), "projections": ([],)}
    for key in sound:
        if any(wrong == each and type(wrong) is type(each) for each in allowed.get(key, ())):
            continue
        if key in ("normalize", "include_prompt") and type(wrong) is bool:
            continue
        if key == "prompts" and wrong == {}:
            continue
        with pytest.raises(ValueError, match=key):
            plan_of(sound | {key: wrong})
    for key in sound:
        with pytest.raises(ValueError, match=f"{key}"):
            plan_of({name: value for name, value in sound.items() if name != key})
    with pytest.raises(ValueError, match="'extra' is missing, or not one of its keys"):
        plan_of(sound | {"extra": wrong})
    assert isinstance(wrong, dict | list | str | int | float | None)
    with pytest.raises(ValueError):
        plan_of(wrong)


def test_a_plan_that_the_file_has_no_tensors_or_head_for_is_refused(bare, tmp_path):
    export_packed(bare, tmp_path / "plain.pruneonce")
    model = read_packed(tmp_path / "plain.pruneonce")
    for plan, message in (
        (EmbeddingPlan(projections=(Projection("2_Dense"),)), "tensor 2_Dense.linear.weight is missing"),
        (RankingPlan(), "needs a classifier of one label"),
    ):
        write_packed(tmp_path / "planned.pruneonce", replace(model, sentence=plan))
        with pytest.raises(PruneonceError, match=message):
            pruneonce.load_model(tmp_path / "planned.pruneonce")


def test_pooling_of_one_token_that_is_the_prompt_alone():
    states = np.array([[1.0, 2.0]], np.float32)
    for mode in POOLINGS:
        np.testing.assert_array_equal(pooled(states, [mode], skipped=5), states[0])
