"""The clients that people have, against the server that they start; and schemathesis, from the OpenAPI document."""

from __future__ import annotations

from collections import Counter

import hypothesis
import numpy as np
import pytest

pytest.importorskip("uvicorn")  # the extra `serve`

from serving import running
from test_serve import LONG, TEXTS, loaded, packed, sentence_files, sentences  # noqa: F401

from pruneonce.run.pipelines import pipeline

openai = pytest.importorskip("openai")
tei_client = pytest.importorskip("tei_client")
schemathesis = pytest.importorskip("schemathesis")


@pytest.fixture(scope="module")
def server(sentence_files):  # noqa: F811
    with running(sentence_files, kernels="sparse", logs_requests=False, keys_text=["a key"]) as process:
        yield process


@pytest.fixture(scope="module")
def of_openai(server):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="a key", max_retries=0) as client:
        yield client


def test_openai_s_client_gets_the_pipeline_s_vectors(of_openai, sentences):  # noqa: F811
    expected = pipeline("embeddings", sentences[1]["vectors"])(TEXTS, normalize=True)
    for encoding in ({}, {"encoding_format": "float"}):  # base64 where nothing is said
        told = of_openai.embeddings.create(input=TEXTS, model="vectors", **encoding)
        assert np.array_equal(np.array([each.embedding for each in told.data], np.float32), expected)
        assert told.usage.total_tokens > 0
    assert [model.id for model in of_openai.models.list()] == list(sentences[1])


def test_openai_s_client_raises_its_own_errors(of_openai, server):
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions"):
        of_openai.embeddings.create(input="a", model="vectors", dimensions=99)
    with pytest.raises(openai.NotFoundError, match="no model is named"):
        of_openai.models.retrieve("nobody")
    stranger = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="another", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError, match="a key is expected"):
        stranger.embeddings.create(input="a", model="vectors")


def test_tokens_as_langchain_sends_them(of_openai):
    """Its safe way for long texts sends token ids, a thousand texts at once, and means the rest."""
    told = of_openai.embeddings.create(input=[[5, 6, 7]] * 1000, model="vectors")
    assert len(told.data) == 1000


@pytest.mark.parametrize("name", ["vectors", "ranks"])
def test_tei_s_client(sentence_files, sentences, name):  # noqa: F811
    model = sentences[1][name]
    with running({name: sentence_files[name]}, kernels="sparse", logs_requests=False) as server:
        client = tei_client.HttpClient(f"http://127.0.0.1:{server.port}")
        try:
            assert client.health()
            ids = client.tokenize("the film")[0].get_ids()
            assert ids == pipeline(None, model).text_model.tokenizer.encode("the film").ids
            if name == "vectors":
                assert client.info().server_model_metadata.pooling == "mean"
                found = np.array(client.embed(TEXTS[:3]), np.float32)
                assert np.array_equal(found, pipeline("embeddings", model)(TEXTS[:3], normalize=True))
            else:
                found = client.rerank("the king", TEXTS).ranks
                expected = pipeline("text-ranking", model).rerank("the king", TEXTS, raw_scores=False)
                assert [(each.index, each.score) for each in found] == [(e["index"], e["score"]) for e in expected]
        finally:
            client.client.close()


def test_tei_s_client_classifies(packed, loaded):  # noqa: F811
    with running({"classes": packed["classes"]}, kernels="sparse", logs_requests=False) as server:
        client = tei_client.HttpClient(f"http://127.0.0.1:{server.port}")
        try:
            (found,) = client.classify("the film was good")
            assert {each.label for each in found.scores} == {"LABEL_0", "LABEL_1"}
            best = pipeline(None, loaded["classes"])("the film was good")
            assert max(found.scores, key=lambda each: each.score).score == best[0]["score"]
        finally:
            client.client.close()


def test_triton_s_client_gets_the_pipeline_s_vectors_as_binary_tensors(server, sentences):  # noqa: F811
    http = pytest.importorskip("tritonclient.http")
    key = {"Authorization": "Bearer a key"}
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}")
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("vectors")
        told = client.get_model_metadata("vectors", headers=key)
        assert [each["name"] for each in told["inputs"]] == ["text"]
        texts = http.InferInput("text", [len(TEXTS)], "BYTES")
        texts.set_data_from_numpy(np.array(TEXTS, object))
        expected = pipeline("embeddings", sentences[1]["vectors"])(TEXTS)
        for binary in (True, False):
            wanted = [http.InferRequestedOutput("embedding", binary_data=binary)]
            found = client.infer("vectors", [texts], outputs=wanted, headers=key).as_numpy("embedding")
            assert np.array_equal(found, expected)
        with pytest.raises(http.InferenceServerException, match="no model is named"):
            client.infer("nobody", [texts], headers=key)
    finally:
        client.close()


def test_langchain_s_openai_embeddings(server, sentences):  # noqa: F811
    langchain = pytest.importorskip("langchain_openai")
    embeddings = langchain.OpenAIEmbeddings(
        model="vectors",
        base_url=f"http://127.0.0.1:{server.port}/v1",
        api_key="a key",
        check_embedding_ctx_length=False,  # it would count tokens of OpenAI's own models
    )
    expected = pipeline("embeddings", sentences[1]["vectors"])(TEXTS, normalize=True)
    assert np.array_equal(np.array(embeddings.embed_documents(TEXTS), np.float32), expected)
    assert np.array_equal(np.array(embeddings.embed_query(TEXTS[0]), np.float32), expected[0])


def test_llamaindex_s_openai_embeddings(server, sentences):  # noqa: F811
    """Not of an extra: it brings a natural-language toolkit, a database layer and images with it."""
    llama_index = pytest.importorskip("llama_index.embeddings.openai")
    embeddings = llama_index.OpenAIEmbedding(
        model_name="vectors", api_base=f"http://127.0.0.1:{server.port}/v1", api_key="a key", max_retries=0
    )
    expected = pipeline("embeddings", sentences[1]["vectors"])(TEXTS, normalize=True)
    assert np.array_equal(np.array(embeddings.get_text_embedding_batch(TEXTS), np.float32), expected)
    assert np.array_equal(np.array(embeddings.get_query_embedding(TEXTS[0]), np.float32), expected[0])


def test_schemathesis_finds_no_server_error_and_no_answer_that_is_not_described(packed, sentence_files):  # noqa: F811
    """What it makes of the OpenAPI document, right and wrong, for every route."""
    from hypothesis import HealthCheck, Phase, settings
    from schemathesis import checks

    files = {"classes": packed["classes"], "spans": packed["spans"], **sentence_files}
    checks.load_all_checks()
    wanted = [
        checks.not_a_server_error,
        checks.CHECKS.get_one("status_code_conformance"),
        checks.CHECKS.get_one("content_type_conformance"),
        checks.CHECKS.get_one("response_schema_conformance"),
    ]
    with running(files, kernels="sparse", logs_requests=False) as server:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
        statuses = Counter()
        for result in schema.get_all_operations():
            operation = result.ok()

            @settings(
                max_examples=25,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                database=None,
            )
            @hypothesis.given(case=operation.as_strategy())
            def ask(case):
                response = case.call()
                statuses[response.status_code] += 1
                if response.status_code in (404, 405) and "{" in case.operation.path:
                    return  # a name that is no model's, or that makes another path
                case.validate_response(response, checks=wanted)

            ask()
    assert {200, 400, 404, 422} <= statuses.keys()
    assert statuses.total() > 200
