"""`pruneonce serve`: its routes answer as the pipelines do, in the forms that clients expect."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn")  # the extra `serve`

from conftest import save_sparse
from serving import JSON, Application, running

from pruneonce.convert.to_packed import export_packed
from pruneonce.formats.packed_file import read_packed, write_packed
from pruneonce.models.sentence import EmbeddingPlan
from pruneonce.run.model import load_model
from pruneonce.run.pipelines import pipeline
from pruneonce.serve.limits import Limits

TEXTS = ["the film was good", "a bad story of the king", "it was not", "the " * 40, ".", "the city , the river"]
LONG = "the city and the river " * 30  # more than the 64 tokens of a tiny model


@pytest.fixture(scope="session")
def packed(tiny_bert, sparse_tiny_bert, sparse_tiny_distilbert, tmp_path_factory):
    """Files of tiny models, by what they do."""
    folder = tmp_path_factory.mktemp("packed")
    tags = save_sparse(tiny_bert, "AutoModelForTokenClassification", tmp_path_factory.mktemp("tags"))
    sources = {"classes": sparse_tiny_bert, "spans": sparse_tiny_distilbert, "words": tiny_bert, "tags": tags}
    for name, source in sources.items():
        export_packed(source, folder / f"{name}.pruneonce", embeddings="fp32")
    return {name: folder / f"{name}.pruneonce" for name in sources}


@pytest.fixture(scope="session")
def loaded(packed):
    return {name: load_model(file, kernels="sparse") for name, file in packed.items()}


@pytest.fixture(scope="module")
def served(loaded):
    app = Application(loaded)
    yield app
    app.close()


@pytest.fixture
def app_of(loaded):
    """Applications with models and limits of their own."""
    made = []

    def make(*names, limits=None, **options):
        made.append(Application({name: loaded[name] for name in names or loaded}, limits, **options))
        return made[-1]

    yield make
    for app in made:
        app.close()


def pipeline_answers(model, texts, **options):
    answers = pipeline(None, model)(texts, top_k=None, **options)
    return [[{"score": each["score"], "label": each["label"]} for each in answer] for answer in answers]


def test_predict_answers_bit_for_bit_as_the_pipeline(served, loaded):
    expected = pipeline_answers(loaded["classes"], TEXTS)
    assert served.post("/predict", {"inputs": [[text] for text in TEXTS]}).json == expected
    assert [served.post("/predict", {"inputs": text}).json for text in TEXTS] == expected


def test_predict_takes_a_pair_as_tei_does(served, loaded):
    pair = {"text": "a good film", "text_pair": "a bad film"}
    (expected,) = pipeline_answers(loaded["classes"], [pair])
    assert served.post("/predict", {"inputs": ["a good film", "a bad film"]}).json == expected
    assert served.post("/predict", {"inputs": [["a good film", "a bad film"]]}).json == [expected]
    assert served.post("/predict", {"inputs": ["one"]}).json == pipeline_answers(loaded["classes"], ["one"])[0]


def test_raw_scores_are_the_logits(served, loaded):
    expected = pipeline_answers(loaded["classes"], ["it was not"], function_to_apply="none")
    assert served.post("/predict", {"inputs": "it was not", "raw_scores": True}).json == expected[0]


@pytest.mark.parametrize("side", ["right", "left"])
def test_long_texts_are_cut_where_asked_and_the_answer_says_so(served, loaded, side):
    request = {"inputs": [[LONG], ["short"]], "truncation_direction": side}
    answer = served.post("/predict", request)
    expected = pipeline_answers(loaded["classes"], [LONG, "short"], truncation=True, truncation_side=side)
    assert answer.json == expected
    assert answer.headers["x-truncated"] == "1"
    assert served.post("/predict", {**request, "truncate": None}).json == expected
    assert "x-truncated" not in served.post("/predict", {"inputs": "short"}).headers
    refused = served.post("/predict", {**request, "truncate": False})
    assert (refused.status, refused.json["error_type"]) == (422, "Validation")
    assert "64" in refused.json["error"]


def test_the_two_ends_of_a_long_text_are_different(loaded):
    """Else the test above would show nothing."""
    text = "good " * 70 + "bad " * 70
    right, left = (
        pipeline_answers(loaded["classes"], [text], truncation=True, truncation_side=side) for side in ("right", "left")
    )
    assert right != left


def test_spans_words_and_tags_are_those_of_the_pipelines(served, loaded):
    asked = [{"question": "who ?", "context": text} for text in (TEXTS[1], LONG)]
    spans, words, tags = (pipeline(None, loaded[name]) for name in ("spans", "words", "tags"))
    assert served.post("/qa", {"inputs": asked[0]}).json == spans(asked[0])
    assert served.post("/qa", {"inputs": asked, "top_k": 3}).json == spans(asked, top_k=3)
    one, two = "the [MASK] was good", "[MASK] or [MASK]"
    assert served.post("/fill", {"inputs": one, "top_k": 2}).json == words(one, top_k=2)
    assert served.post("/fill", {"inputs": [one]}).json == [words(one)]
    assert served.post("/fill", {"inputs": [one, two], "targets": ["good", "bad"]}).json == words(
        [one, two], targets=["good", "bad"]
    )
    options = {"aggregation_strategy": "simple", "ignore_labels": []}
    assert served.post("/tag", {"inputs": TEXTS[0], "ignore_labels": []}).json == tags(TEXTS[0], **options)
    assert served.post("/tag", {"inputs": [LONG], "stride": 8, **options}).json == tags([LONG], stride=8, **options)


def test_company_changes_no_bit(packed, loaded):
    """Over the wire, thirty-two at once, in requests of one text and of many."""
    expected = dict(zip(TEXTS, pipeline_answers(loaded["classes"], TEXTS), strict=True))
    with running({"classes": packed["classes"]}, kernels="sparse", logs_requests=False) as server:
        work = list(itertools.islice(itertools.cycle(TEXTS), 96))

        def ask(number):
            if number % 4:
                return [work[number]], [server.post("/predict", {"inputs": work[number]}).json]
            rows = work[number:] + work[:number]
            return rows, server.post("/predict", {"inputs": [[text] for text in rows]}).json

        with ThreadPoolExecutor(32) as pool:
            for asked, answers in pool.map(ask, range(len(work))):
                assert answers == [expected[text] for text in asked]


def test_tokens_are_those_of_the_model_and_spell_the_text_again(served, loaded):
    model = pipeline(None, loaded["words"]).text_model
    (row,) = served.post("/tokenize", {"inputs": "The film.", "model": "words"}).json
    encoding = model.tokenizer.encode("The film.")
    assert [each["id"] for each in row] == encoding.ids
    assert [each["special"] for each in row] == [True, False, False, False, True]
    assert [each["text"] for each in row] == ["[CLS]", "The", "film", ".", "[SEP]"]
    assert ["The film."[each["start"] : each["stop"]] for each in row[1:-1]] == ["The", "film", "."]
    assert row[0]["start"] is None
    ids = [each["id"] for each in row]
    assert served.post("/decode", {"ids": ids}).json == [model.tokenizer.decode(ids)]
    assert served.post("/decode", {"ids": [ids, ids[:2]]}).json == [model.tokenizer.decode(ids), "the"]
    bare = served.post("/tokenize", {"inputs": ["a", "b"], "add_special_tokens": False}).json
    assert [len(each) for each in bare] == [1, 1]


def test_a_request_names_its_model_or_gets_the_one_that_can(served, app_of):
    named = {"inputs": "good", "model": "classes"}
    assert served.post("/predict", named).json == served.post("/predict", {"inputs": "good"}).json
    wrong = served.post("/predict", {**named, "model": "spans"})
    assert (wrong.status, wrong.json["error_type"]) == (424, "Backend")
    assert served.post("/predict", {**named, "model": "of another server"}).status == 200
    alone = app_of("spans").post("/predict", named)
    assert (alone.status, alone.json["error_type"]) == (424, "Backend")
    assert served.post("/tokenize", {"inputs": "a", "model": "nobody"}).status == 404


def test_headers_tell_what_a_request_took(served):
    answer = served.post("/predict", {"inputs": [["good"], ["a bad film"]]}, {**JSON, "x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.headers["x-compute-tokens"] == "8"
    assert answer.headers["x-compute-characters"] == "14"
    for name in ("x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"):
        assert float(answer.headers[name]) >= 0
    forged = served.post("/predict", {"inputs": "a"}, {**JSON, "x-request-id": "a b\x1b"})
    assert forged.headers["x-request-id"] != "a b\x1b"


def test_info_has_what_tei_s_clients_read(served):
    told = served.get("/info?model=classes").json
    assert told["model_type"]["classifier"]["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    assert told["max_input_length"] == 64
    assert told["models"] == ["classes", "spans", "words", "tags"]
    assert "token_classifier" in served.get("/info?model=tags").json["model_type"]


def test_metrics_have_tei_s_names_and_count(app_of):
    app = app_of("classes")
    app.post("/predict", {"inputs": [["good"], ["bad"]]})
    app.post("/predict", {"inputs": 1})
    lines = app.get("/metrics").body.decode().splitlines()
    assert 'te_request_count{method="batch"} 1.0' in lines
    assert 'te_request_failure{err="Validation"} 1.0' in lines
    assert 'te_request_input_length_sum{model="classes"} 6.0' in lines
    for name in ("te_request_duration", "te_request_queue_duration", "te_request_inference_duration"):
        assert f'{name}_count{{model="classes"}} 1.0' in lines
    for name in (
        "te_queue_size",
        "te_batch_next_tokens_sum",
        "te_batch_next_size_sum",
        "process_resident_memory_bytes",
    ):
        assert any(line.startswith(name) for line in lines), name


def test_every_route_is_in_the_openapi_document_and_its_references_are_there(served):
    told = served.get("/openapi.json").json
    assert {"/predict", "/qa", "/fill", "/tag", "/health", "/v2/models/{name}/infer"} <= told["paths"].keys()

    def references(value):
        if isinstance(value, dict):
            yield from [value["$ref"]] if "$ref" in value else []
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                yield from references(each)

    for reference in references(told):
        place = told
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


# KServe


def bytes_tensor(name, texts):
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": texts}


def test_kserve_s_tensors_are_the_pipeline_s_answers(served, loaded):
    body = {"id": "7", "inputs": [bytes_tensor("text", TEXTS)]}
    told = served.post("/v2/models/classes/infer", body).json
    expected = [{each["label"]: each["score"] for each in row} for row in pipeline_answers(loaded["classes"], TEXTS)]
    outputs = {each["name"]: each for each in told["outputs"]}
    assert (told["model_name"], told["id"]) == ("classes", "7")
    assert outputs["scores"]["shape"] == [len(TEXTS), 2]
    scores = np.array(outputs["scores"]["data"], np.float32).reshape(-1, 2)
    assert scores.tolist() == [[np.float32(row["LABEL_0"]), np.float32(row["LABEL_1"])] for row in expected]
    assert outputs["label"]["data"] == [max(row, key=row.get) for row in expected]
    asked = [bytes_tensor("question", ["who ?"]), bytes_tensor("context", [TEXTS[1]])]
    spans = served.post("/v2/models/spans/versions/1/infer", {"inputs": asked}).json["outputs"]
    answer = pipeline(None, loaded["spans"])(question="who ?", context=TEXTS[1])
    assert {each["name"]: each["data"][0] for each in spans} == {**answer, "score": pytest.approx(answer["score"])}


def test_kserve_s_binary_tensors_carry_the_same(served):
    texts = ["the film was good", "ü ."]
    data = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    head = {
        "inputs": [
            {"name": "text", "shape": [2, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
        ],
        "outputs": [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "label"}],
    }
    content = json.dumps(head).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(content))}
    answer = served.post("/v2/models/classes/infer", content + data, headers)
    size = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.body[:size])
    plain = served.post("/v2/models/classes/infer", {"inputs": [bytes_tensor("text", texts)]}).json["outputs"]
    assert np.frombuffer(answer.body[size:], "<f4").tolist() == plain[0]["data"]
    assert told["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert told["outputs"][1]["data"] == plain[1]["data"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"datatype": "FP32"}, "BYTES"),
        ({"name": "txt"}, "text"),
        ({"shape": [3]}, "shape"),
        ({"shape": [-1, -2]}, "shape"),
        ({"data": [1, 2]}, "strings"),
        ({"parameters": {"binary_data_size": 9}}, "binary_data_size"),
        ({"data": [[["a"]], "b"]}, "strings"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused_in_kserve_s_form(served, change, word):
    answer = served.post("/v2/models/classes/infer", {"inputs": [{**bytes_tensor("text", ["a", "b"]), **change}]})
    assert 400 <= answer.status < 500
    assert answer.json.keys() == {"error"}
    assert word in answer.json["error"]


def test_kserve_s_metadata_and_health(served):
    told = served.get("/v2/models/classes").json
    assert [each["name"] for each in told["inputs"]] == ["text", "text_pair"]
    assert served.get("/v2/models/classes/ready").json == {"name": "classes", "ready": True}
    assert served.get("/v2/health/live").json == {"live": True}
    assert served.get("/v2/health/ready").json == {"ready": True}
    assert served.get("/v2/models/classes/versions/2").status == 404
    assert served.get("/v2/models/nobody/ready").json.keys() == {"error"}
    assert "binary_tensor_data" in served.get("/v2").json["extensions"]


# Limits, keys and hosts


class Stopped:
    """The first served model of an application: its batches wait until they are let."""

    def __init__(self, app):
        self.model = app.models[0]
        self.computed = []
        self.may, self.began = threading.Event(), threading.Event()
        self._compute = self.model._scheduler._compute
        self.model._scheduler._compute = self

    def __call__(self, wanted, numbers):
        self.began.set()
        assert self.may.wait(60)
        self.computed.append(len(wanted.token_ids))
        return self._compute(wanted, numbers)


def post(app, value, **options):
    return app.call("POST", "/predict", json.dumps(value).encode(), JSON, **options)


@pytest.mark.parametrize("limits", [Limits(requests=3), Limits(tokens=4 * 66)])
def test_more_than_a_model_has_room_for_is_refused_at_once_and_told_when_to_come_again(app_of, limits):
    app = app_of("classes", limits=limits)
    stopped = Stopped(app)

    async def crowd():
        waiting = [asyncio.ensure_future(post(app, {"inputs": LONG})) for _ in range(3)]
        while not stopped.began.is_set() or app.models[0].requests < 3:
            await asyncio.sleep(0.001)
        rest = [await post(app, {"inputs": [[LONG]] * 2}) for _ in range(5)]
        stopped.may.set()
        return await asyncio.gather(*waiting), rest

    admitted, refused = asyncio.run(crowd())
    assert [each.status for each in admitted] == [200] * 3
    assert [each.status for each in refused] == [429] * 5
    assert refused[0].json["error_type"] == "Overloaded"
    assert int(refused[0].headers["retry-after"]) >= 1
    assert app.models[0].requests == app.models[0].tokens == 0
    assert app.post("/predict", {"inputs": LONG}).status == 200
    assert "pruneonce_rejected 5.0" in app.get("/metrics").body.decode()


def test_a_client_that_leaves_frees_its_place_and_is_not_computed(app_of):
    app = app_of("classes")
    stopped = Stopped(app)

    async def leave():
        plug = asyncio.ensure_future(post(app, {"inputs": "plug"}))
        while not stopped.began.is_set():
            await asyncio.sleep(0.001)
        gone = asyncio.Event()
        leaving = asyncio.ensure_future(post(app, {"inputs": [["a"]] * 7}, gone=gone))
        while app.models[0]._scheduler.waiting() < 1:
            await asyncio.sleep(0.001)
        gone.set()
        nothing = await leaving
        counted = app.models[0].requests
        stopped.may.set()
        return nothing, counted, await plug

    nothing, counted, plug = asyncio.run(leave())
    assert (nothing, counted, plug.status) == (None, 1, 200)
    app.post("/predict", {"inputs": "after"})
    assert stopped.computed == [1, 1]
    assert app.models[0].requests == app.models[0].tokens == 0


def test_one_request_may_not_have_more_than_the_limits(app_of):
    app = app_of(limits=Limits(tokens=200, texts=3, body_bytes=3000, masks=2))
    for path, value in {
        "/predict": {"inputs": [["a"]] * 4},
        "/tokenize": {"inputs": ["a"] * 4},
        "/decode": {"ids": [[1]] * 4},
        "/qa": {"inputs": {"question": "a", "context": "the film " * 300}},
        "/tag": {"inputs": "the film " * 300, "stride": 60},
        "/fill": {"inputs": "[MASK] " * 3},
        "/v2/models/classes/infer": {"inputs": [bytes_tensor("text", ["a"] * 4)]},
    }.items():
        answer = app.post(path, value)
        assert answer.status == 413, (path, answer)
    declared = asyncio.run(app.call("POST", "/predict", b"{}", {**JSON, "content-length": "3001"}))
    assert declared.status == 413
    sent = app.post("/predict", {"inputs": "a" * 3000})
    assert sent.status == 413
    assert app.post("/predict", {"inputs": "a"}).status == 200


def test_texts_of_too_many_tokens_are_not_written_out(app_of):
    app = app_of("classes", limits=Limits(tokens=200))
    assert app.post("/tokenize", {"inputs": "a " * 300}).status == 413


def test_large_answers_that_nobody_fetches_are_not_gathered_for_ever(sentences):
    _, models = sentences
    app = Application({"vectors": models["vectors"]}, Limits(sending_bytes=2_000_000))
    fetched = asyncio.Event()
    body = json.dumps({"inputs": ["the city and the river"] * 700}).encode()
    sent = []

    async def slow(message):
        """As uvicorn's: the second part of a body waits for the client to fetch the first."""
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            await fetched.wait()

    async def crowd():
        slow_ones = [asyncio.ensure_future(app.call("POST", "/embed_all", body, JSON, send=slow)) for _ in range(2)]
        while app.server.sending_bytes <= 2_000_000:
            await asyncio.sleep(0.01)
        refused = await app.call("POST", "/embed_all", body, JSON)
        fetched.set()
        await asyncio.gather(*slow_ones)
        return refused

    refused = asyncio.run(crowd())
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert app.server.sending_bytes == 0
    assert app.post("/embed", {"inputs": "a"}).status == 200
    app.close()


def test_windows_that_advance_by_a_token_are_refused_before_they_are_made(served, monkeypatch):
    """Their tokens would be hundreds of times those of the text."""
    windows = []
    monkeypatch.setattr("pruneonce.run.pipelines.text_model.TextModel.windows", lambda *_, **__: windows.append(1))
    asked = {"question": "the film " * 15, "context": "the film " * 40_000}
    answer = served.post("/qa", {"inputs": asked, "doc_stride": 29})
    assert (answer.status, windows) == (413, [])


def test_a_body_that_trickles_in_is_given_up(app_of):
    app = app_of("classes", limits=Limits(body_seconds=0.2))

    async def trickle():
        while True:
            yield b" ", True
            await asyncio.sleep(0.05)

    answer = asyncio.run(app.call("POST", "/predict", headers=JSON, chunks=trickle()))
    assert (answer.status, answer.headers["connection"]) == (408, "close")


def test_a_model_that_fails_is_not_ready_until_it_answers_again(app_of):
    app = app_of("classes")
    scheduler = app.models[0]._scheduler
    compute, scheduler._compute = scheduler._compute, lambda *_: 1 / 0
    answer = app.post("/predict", {"inputs": "a"})
    assert answer.status == 500
    assert "ZeroDivisionError" not in answer.body.decode()
    assert app.get("/health").status == 503
    assert app.get("/v2/health/ready").json == {"ready": False}
    scheduler._compute = compute
    assert app.get("/health").status == 200
    assert app.get("/v2/health/ready").json == {"ready": True}


def test_every_route_but_health_asks_for_a_key(app_of):
    app = app_of(keys=[b"first key", b"second"])
    routes = [(path, method) for path, methods in app_paths(app) for method in methods]
    unlocked = {path for path, method in routes if ask(app, method, path).status != 401}
    assert app.get("/").status == 200  # the same bytes for all; what it asks needs a key
    assert unlocked == {
        "/health",
        "/ping",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{name}/ready",
        "/v2/models/{name}/versions/{version}/ready",
    }
    assert ask(app, "GET", "/no such path").status == 401
    for key in ("first key", "second"):
        assert ask(app, "GET", "/info", f"Bearer {key}").status == 200
    for key in ("", "Bearer", "Bearer first", "Bearer first keyx", "Basic second", "second"):
        refused = ask(app, "GET", "/info", key)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer"), key


def app_paths(app):
    return [(path, methods) for path, methods in app_of_routes(app).items()]


def app_of_routes(app):
    told = ask(app, "GET", "/openapi.json", "Bearer second").json
    return {path: [name.upper() for name in methods] for path, methods in told["paths"].items()}


def ask(app, method, path, key=None):
    headers = {**JSON, **({} if key is None else {"authorization": key})}
    return asyncio.run(app.call(method, path, b"{}", headers))


def test_a_page_that_resolves_its_name_to_this_machine_gets_nothing(app_of):
    app = app_of("classes", loopback_only=True)
    for host in ("localhost:8080", "127.0.0.1", "[::1]:80"):
        assert app.get("/info", {"host": host}).status == 200
    for host in ("evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", ""):
        assert app.get("/info", {"host": host}).status == 421


def test_nothing_can_run_in_the_page_or_frame_it_but_what_is_in_its_file(app_of):
    answer = app_of("classes", keys=[b"a key"]).get("/")
    policy = answer.headers["content-security-policy"]
    assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
    assert "unsafe" not in policy


def test_tensors_without_a_content_type_come_from_triton_s_client_but_not_from_a_page(served):
    content = json.dumps({"inputs": [bytes_tensor("text", ["good"])]}).encode()
    assert served.post("/v2/models/classes/infer", content, {"host": "localhost"}).status == 200
    assert served.post("/v2/models/classes/infer", content, {"origin": "http://evil.example"}).status == 415
    assert served.post("/predict", b'{"inputs": "a"}', {"host": "localhost"}).status == 415


def test_what_a_page_can_send_without_asking_is_refused(served):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonx"):
        assert served.post("/predict", {"inputs": "a"}, {"content-type": kind}).status == 415
    for kind in ("application/json", "application/json; charset=utf-8", "APPLICATION/JSON"):
        assert served.post("/predict", {"inputs": "a"}, {"content-type": kind}).status == 200


def test_pages_of_other_origins_may_ask_where_that_is_wanted_alone(app_of):
    headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
    without, with_it = app_of("classes"), app_of("classes", cors=["https://a.example"])
    assert "access-control-allow-origin" not in without.get("/info", headers).headers
    assert with_it.get("/info", headers).headers["access-control-allow-origin"] == "https://a.example"
    preflight = asyncio.run(with_it.call("OPTIONS", "/predict", headers=headers))
    assert preflight.status == 200
    other = asyncio.run(with_it.call("OPTIONS", "/predict", headers={**headers, "origin": "https://b.example"}))
    assert other.status == 400


# The process


def test_sigterm_ends_readiness_then_answers_what_is_under_way_and_exits_cleanly(packed):
    with running({"classes": packed["classes"]}, {"drain_seconds": 1.0}, logs_requests=False) as server:
        body = json.dumps({"inputs": "the film was good"}).encode()
        head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as half:
            half.sendall(head.encode() + b"\r\n\r\n" + body[:5])
            time.sleep(0.1)  # until it is a request: what has not begun is not under way
            server.terminate()
            deadline = time.monotonic() + 30
            while server.request("GET", "/health").status != 503:
                assert time.monotonic() < deadline
            assert server.request("GET", "/v2/health/ready").json == {"ready": False}
            half.sendall(body[5:])
            answer = half.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert server.ended() == 0


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads the limits of a process from /proc")
def test_as_many_connections_as_the_limit_says_fit_however_few_files_a_process_starts_with(packed):
    few = ["sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh"]
    with running({"classes": packed["classes"]}, {"connections": 500}, few, kernels="sparse") as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    assert re.search(r"Max open files +(\d+)", limits)[1] == "756"


def test_the_log_has_a_line_of_json_per_request_and_none_of_its_text(packed):
    with running({"classes": packed["classes"]}) as server:
        server.post("/predict", {"inputs": "the secret"}, {"x-request-id": "one"})
        server.request("GET", "/nothing%0a%1b[2J", headers={"x-request-id": "two"})
        server.terminate()
        assert server.ended() == 0
    told = {line["id"]: line for line in map(json.loads, (line for line in server.lines if line.startswith("{")))}
    assert told["one"]["model"] == "classes"
    assert (told["one"]["status"], told["one"]["texts"], told["one"]["tokens"]) == (200, 1, 9)
    assert told["two"]["status"] == 404
    assert "secret" not in "".join(server.lines)
    assert "\x1b" not in "".join(server.lines)


def test_serving_asks_nothing_of_other_machines(packed, tmp_path):
    tracer = shutil.which("strace")
    if tracer is None or subprocess.run([tracer, "-o", os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("strace is not installed, or may not trace here")
    log = tmp_path / "trace"
    traced = [tracer, "-f", "-e", "trace=connect,sendto,sendmsg", "-o", log]
    with running({"classes": packed["classes"]}, before=traced) as server:
        try:
            assert server.post("/predict", {"inputs": "a"}).status == 200
            assert server.request("GET", "/metrics").status == 200
        finally:
            server.terminate()  # killed, the tracer would leave it running
        assert server.ended() == 0
    assert log.exists()
    assert not re.findall(r".*(?:connect|sendto|sendmsg)\(.*sin6?_port.*", log.read_text())


def test_a_number_of_threads_that_means_nothing_is_told_in_a_line(packed):
    environment = {**os.environ, "PRUNEONCE_THREADS": "many"}
    command = [sys.executable, "-m", "pruneonce", "serve", str(packed["classes"]), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "PRUNEONCE_THREADS" in ended.stderr


def test_files_and_addresses_that_cannot_be_served_are_told_in_a_line(pruneonce, packed, tmp_path):
    (tmp_path / "bad.pruneonce").write_bytes(b"PK")
    code, _, err = pruneonce("serve", tmp_path / "bad.pruneonce", "--port", "0")
    assert (code, err.count("\n")) == (1, 1)
    assert "bad.pruneonce" in err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = pruneonce("serve", packed["classes"], "--port", taken.getsockname()[1])
    assert (code, err.count("\n")) == (2, 1)
    assert "--port" in err
    for host in ("x" * 300, "caf\udce9", "a..b"):
        code, _, err = pruneonce("serve", packed["classes"], "--host", host)
        assert (code, err.count("\n"), "is not known" in err) == (2, 1, True), err
    code, _, err = pruneonce("serve", packed["classes"], packed["classes"])
    assert (code, "NAME=FILE" in err) == (2, True)
    (tmp_path / "keys").write_text("\n")
    code, _, err = pruneonce("serve", packed["classes"], "--api-key-file", tmp_path / "keys")
    assert (code, "no key" in err) == (2, True)


# Vectors and rankings


@pytest.fixture(scope="session")
def sentence_files(tiny_bert, sparse_tiny_bert, tmp_path_factory):
    """Files of an encoder, whose texts are cut at 40 tokens and have a prompt, and of a reranker."""
    from transformers import AutoModel, BertForSequenceClassification

    folders = {name: tmp_path_factory.mktemp(name) for name in ("vectors", "ranks")}
    AutoModel.from_pretrained(tiny_bert).save_pretrained(folders["vectors"])
    BertForSequenceClassification.from_pretrained(
        sparse_tiny_bert, num_labels=1, ignore_mismatched_sizes=True
    ).save_pretrained(folders["ranks"])
    files = {name: folder / "m.pruneonce" for name, folder in folders.items()}
    for name, folder in folders.items():
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_bert / file, folder / file)
        export_packed(folder, files[name], embeddings="fp32")
    plan = EmbeddingPlan(("mean",), prompts={"query": "the city : "}, max_tokens=40)
    with_plan = folders["vectors"] / "p.pruneonce"
    write_packed(with_plan, replace(read_packed(files["vectors"]), sentence=plan))
    return {**files, "vectors": with_plan}


@pytest.fixture(scope="module")
def sentences(sentence_files):
    """The application over these, and their models."""
    models = {name: load_model(file, kernels="sparse") for name, file in sentence_files.items()}
    app = Application(models)
    yield app, models
    app.close()


def float32(rows):
    return np.array(rows, np.float32)


def test_vectors_are_those_of_the_pipeline(sentences):
    app, models = sentences
    embed = pipeline("embeddings", models["vectors"])
    found = app.post("/embed", {"inputs": TEXTS}).json
    assert np.array_equal(float32(found), embed(TEXTS, normalize=True))
    for text, row in zip(TEXTS, found, strict=True):
        assert app.post("/embed", {"inputs": text}).json == [row]
    assert np.array_equal(
        float32(app.post("/embed", {"inputs": TEXTS, "normalize": False, "dimensions": 5}).json),
        embed(TEXTS, normalize=False, dimensions=5),
    )
    prompted = app.post("/embed", {"inputs": TEXTS, "prompt_name": "query"}).json
    assert np.array_equal(float32(prompted), embed(TEXTS, normalize=True, prompt_name="query"))
    assert app.post("/embed", {"inputs": "a", "prompt_name": "nobody"}).status == 422
    assert app.post("/embed", {"inputs": "a", "dimensions": 33}).status == 422
    cut = app.post("/embed", {"inputs": [LONG], "truncation_direction": "Left"})
    assert np.array_equal(float32(cut.json), embed([LONG], normalize=True, truncation_side="left"))
    assert cut.headers["x-truncated"] == "1"
    assert cut.headers["x-compute-tokens"] == "40"
    assert app.post("/embed", {"inputs": [LONG], "truncate": False}).status == 422


def test_states_of_all_tokens_and_similarity_are_those_of_the_pipelines(sentences, app_of):
    app, models = sentences
    states = pipeline("feature-extraction", models["vectors"])(TEXTS[:2], return_tensors=True)
    found = app.post("/embed_all", {"inputs": TEXTS[:2]}).json
    assert all(np.array_equal(float32(a), b[0]) for a, b in zip(found, states, strict=True))
    asked = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}, "parameters": {"truncate": True}}
    expected = pipeline("embeddings", models["vectors"]).similarity(TEXTS[0], TEXTS)
    assert app.post("/similarity", asked).json == expected
    small = Application({"vectors": models["vectors"]}, Limits(response_bytes=10_000))
    assert small.post("/embed_all", {"inputs": TEXTS}).status == 413
    small.close()


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_openai_s_vectors_in_both_encodings(sentences, path):
    app, models = sentences
    expected = pipeline("embeddings", models["vectors"])(TEXTS, normalize=True)
    told = app.post(path, {"input": TEXTS, "model": "text-embedding-3-small", "user": "u"}).json
    assert told["object"] == "list"
    assert [each["index"] for each in told["data"]] == list(range(len(TEXTS)))
    assert np.array_equal(float32([each["embedding"] for each in told["data"]]), expected)
    assert told["model"] == "vectors"
    assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] > len(TEXTS)
    packed_ = app.post(path, {"input": TEXTS, "model": "vectors", "encoding_format": "base64"}).json
    for row, each in zip(expected, packed_["data"], strict=True):
        assert np.array_equal(np.frombuffer(base64.b64decode(each["embedding"]), "<f4"), row)
    assert len(app.post(path, {"input": "a", "model": "m", "dimensions": 4}).json["data"][0]["embedding"]) == 4


def test_token_ids_stand_for_their_text_with_or_without_its_ends(sentences):
    app, _ = sentences
    text = TEXTS[1]
    whole, bare = (
        [each["id"] for each in app.post("/tokenize", {"inputs": text, "add_special_tokens": ends}).json[0]]
        for ends in (True, False)
    )
    expected = app.post("/v1/embeddings", {"input": text}).json["data"][0]["embedding"]
    for tokens in (whole, bare, [bare]):
        assert app.post("/v1/embeddings", {"input": tokens}).json["data"][0]["embedding"] == expected
        assert app.post("/embed", {"inputs": tokens}).json == [expected]
    long = [each["id"] for each in app.post("/tokenize", {"inputs": LONG}).json[0]]
    assert app.post("/embed", {"inputs": long}).json == app.post("/embed", {"inputs": LONG}).json
    for tokens in ([], [[]], [-1], [10**6], [2**70]):
        refused = app.post("/v1/embeddings", {"input": tokens})
        assert 400 <= refused.status < 500
        assert refused.json["error"]["message"]


def test_errors_of_openai_s_routes_are_in_openai_s_form(sentences):
    app, _ = sentences
    told = app.post("/v1/embeddings", {"input": 5}).json
    assert told["error"]["type"] == "invalid_request_error"
    assert told["error"]["message"] == told["message"]
    assert app.get("/v1/models/nobody").json["error"]["code"] == 404


def test_models_are_listed_as_openai_does(sentences):
    app, _ = sentences
    told = app.get("/v1/models").json
    assert [each["id"] for each in told["data"]] == ["vectors", "ranks"]
    assert app.get("/v1/models/ranks").json == told["data"][1]


def test_rankings_are_those_of_the_pipeline_in_each_contract_s_form(sentences):
    app, models = sentences
    rank = pipeline("text-ranking", models["ranks"])
    expected = rank.rerank("the king", TEXTS, raw_scores=False)
    assert app.post("/rerank", {"query": "the king", "texts": TEXTS}).json == expected
    with_text = app.post("/rerank", {"query": "the king", "texts": TEXTS, "return_text": True, "raw_scores": True}).json
    assert with_text == rank.rerank("the king", TEXTS, raw_scores=True, return_texts=True)
    documents = [{"text": text} if number % 2 else text for number, text in enumerate(TEXTS)]
    asked = {
        "query": "the king",
        "documents": documents,
        "top_n": 2,
        "return_documents": True,
        "model": "jina-reranker",
    }
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        told = app.post(path, asked).json
        assert told["results"] == [
            {"index": each["index"], "relevance_score": each["score"], "document": {"text": TEXTS[each["index"]]}}
            for each in expected[:2]
        ]
        assert told["model"] == "ranks"
        assert told["usage"]["total_tokens"] > 0
        assert "billed_units" in told["meta"]
    plain = app.post("/v1/rerank", {"query": "q", "documents": ["a"]}).json["results"]
    assert plain[0].keys() == {"index", "relevance_score"}


def test_rankings_that_are_refused(sentences):
    app, _ = sentences
    for body in (
        {"query": "q"},
        {"query": "q", "texts": ["a"], "documents": ["a"]},
        {"query": "q", "texts": []},
        {"query": "q", "documents": [{"title": "t"}]},
        {"query": "q", "documents": ["a"], "top_n": 0},
        {"texts": ["a"]},
    ):
        assert 400 <= app.post("/rerank", body).status < 500, body
    assert app.post("/v1/rerank", {"query": "q", "texts": ["a"]}).status == 422
    long = app.post("/rerank", {"query": "the " * 10_000, "texts": ["a"] * 2000})
    assert long.status == 413


def test_a_reranker_classifies_too_and_kserve_has_vectors_and_scores(sentences):
    app, models = sentences
    assert app.post("/predict", {"inputs": "a", "model": "ranks"}).json[0]["label"] == "LABEL_0"
    assert "reranker" in app.get("/info?model=ranks").json["model_type"]
    assert app.get("/info").json["model_type"] == {"embedding": {"pooling": "mean"}}
    told = app.post("/v2/models/vectors/infer", {"inputs": [bytes_tensor("text", TEXTS)]}).json["outputs"][0]
    vectors = float32(told["data"]).reshape(told["shape"])
    assert np.array_equal(vectors, pipeline("embeddings", models["vectors"])(TEXTS))
    asked = [bytes_tensor("query", ["the king"] * 2), bytes_tensor("text", TEXTS[:2])]
    (told,) = app.post("/v2/models/ranks/infer", {"inputs": asked}).json["outputs"]
    scores = pipeline("text-ranking", models["ranks"])([("the king", text) for text in TEXTS[:2]])
    assert np.array_equal(float32(told["data"]), scores)


def test_a_request_that_asks_for_what_is_not_there_leaves_its_company_alone(sentences):
    """Options are checked before they share a batch, and a refusal is no failure of the model."""
    app, _ = sentences

    async def both():
        bad = [{"inputs": "a", "dimensions": 99}, {"inputs": [10**6]}, {"inputs": "a", "prompt_name": "x"}]
        calls = [app.call("POST", "/embed", json.dumps(each).encode(), JSON) for each in [*bad, {"inputs": "a"}] * 5]
        return [answer.status for answer in await asyncio.gather(*calls)]

    assert asyncio.run(both()) == [422, 422, 422, 200] * 5
    assert app.get("/v2/health/ready").json == {"ready": True}
