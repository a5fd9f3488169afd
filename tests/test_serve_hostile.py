"""Requests that nobody means well with: refused with JSON, never a 500, a hang or memory without bound."""

from __future__ import annotations

import json
import re
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("uvicorn")  # the extra `serve`

from serving import Application, running
from test_serve import loaded, packed, sentence_files, sentences  # noqa: F401

LIMITS = {"head_seconds": 1.0, "body_seconds": 1.0, "write_seconds": 1.0, "idle_seconds": 2, "connections": 60}
ANSWER = re.compile(rb"HTTP/1\.1 (\d+) .*?\r\n\r\n([^\r\n]*?)(?=HTTP/1|$)", re.DOTALL)
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(packed):  # noqa: F811
    with running({"classes": packed["classes"]}, {**LIMITS, "body_bytes": 200_000}, logs_requests=False) as process:
        yield process
        assert process.post("/predict", {"inputs": "good"}).status == 200  # it has lived through all of it
        assert not any("Traceback" in line for line in process.lines), "\n".join(process.lines)


@pytest.fixture(scope="module")
def served(loaded, sentences):  # noqa: F811
    app = Application({**loaded, **sentences[1]})
    yield app
    app.close()


def connect(server, timeout=20):
    return socket.create_connection(("127.0.0.1", server.port), timeout=timeout)


def answers_to(server, *parts, pause=0.0):
    """(status, body) of every answer to some bytes, until the server closes; [] if it closes without one."""
    data = b""
    with connect(server) as client:
        try:
            for part in parts:
                client.sendall(part)
                time.sleep(pause)
        except (ConnectionResetError, BrokenPipeError):
            pass
        try:
            while chunk := client.recv(65536):
                data += chunk
        except ConnectionResetError:
            pass
    return [(int(code), body) for code, body in ANSWER.findall(data)]


def with_length(body, extra=b""):
    return HEAD + extra + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body


BODIES = {
    "empty": b"",
    "no JSON": b"{",
    "two values": b'{"inputs": "a"} {"inputs": "b"}',
    "NUL": b"\x00",
    "not UTF-8": b'{"inputs": "\xff\xfe"}',
    "half a surrogate pair": rb'{"inputs": "\ud800"}',
    "the other half": rb'{"inputs": "a\udc00b"}',
    "NaN": b'{"inputs": NaN}',
    "deep nesting": b'{"inputs": ' + b"[" * 90_000 + b"]" * 90_000 + b"}",
    "deep objects": b'{"a":' * 30_000 + b"1" + b"}" * 30_000,
    "a huge number": b'{"inputs": ' + b"9" * 100_000 + b"}",
    "a huge exponent": b'{"inputs": "a", "truncate": 1e999999}',
    "null": b"null",
    "a list": b"[]",
    "a string": b'"inputs"',
    "nothing asked": b"{}",
    "no texts": b'{"inputs": []}',
    "a row without texts": b'{"inputs": [[]]}',
    "a row of three": b'{"inputs": [["a", "b", "c"]]}',
    "mixed rows": b'{"inputs": ["a", ["b"]]}',
    "a number for a text": b'{"inputs": 5}',
    "null for a text": b'{"inputs": null}',
    "a string for a switch": b'{"inputs": "a", "raw_scores": "yes"}',
    "a direction that is none": b'{"inputs": "a", "truncation_direction": "up"}',
    "too large": b'{"inputs": "' + b"a" * 200_000 + b'"}',
    "too many texts": json.dumps({"inputs": [["a"]] * 2049}).encode(),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_not_what_is_expected_is_refused_as_json(server, body):
    ((status, answer),) = answers_to(server, with_length(body))
    assert 400 <= status < 500
    assert json.loads(answer).keys() == {"error", "error_type"}
    assert len(answer) < 1000  # nothing of the request comes back at length


@pytest.mark.parametrize(
    "text", [b"", b"\\u0000", b"\\ud83d\\ude00", b" " * 1000, b"a" * 100_000, "\u202e\ufeff\U0010ffff".encode()]
)
def test_any_text_that_is_unicode_is_answered(server, text):
    ((status, _),) = answers_to(server, with_length(b'{"inputs": "' + text + b'"}'))
    assert status == 200


CLOSE = b"Connection: close\r\n\r\n"
SMUGGLED = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
HEADS = {
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 50\r\n\r\n{}" + SMUGGLED,
    "a length with a sign": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "a length beyond 64 bits": HEAD + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "an encoding that is not chunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n{}",
    "chunked but not last": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a space before the colon": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "a folded header": HEAD + b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}",
    "NUL in a header": HEAD + b"X-A: \x00\r\nContent-Length: 2\r\n\r\n{}",
    "a chunk size that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10,
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a method that is none": b"PREDICT /predict HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path that is no text": b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another machine's path": b"GET http://evil.example/info HTTP/1.1\r\nHost: evil.example\r\n" + CLOSE,
    "many headers": HEAD + b"X-A: b\r\n" * 10_000 + b"\r\n",
    "one long header": HEAD + b"X-A: " + b"b" * 100_000 + b"\r\n\r\n",
    "a long path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "many fields in the query": b"GET /info?"
    + b"a=b&" * 1000
    + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_that_two_servers_could_read_differently_or_is_none_is_refused(server, head):
    answers = answers_to(server, head)
    assert len(answers) <= 1  # the second request was not one
    for status, body in answers:
        assert 400 <= status < 500
        assert "error" in json.loads(body)


def test_a_path_that_leads_elsewhere_leads_nowhere(server):
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v2/models/..%2f..%2fetc/infer",
        "//predict",
        "/Predict",
    ):
        answer = server.request("GET", path)
        assert answer.status == 404, path
        assert "error" in answer.json


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"POST /pre"], id="half a head"),
        pytest.param([b"P"], id="a byte"),
        pytest.param([HEAD, *[b"X-A: b\r\n"] * 40], id="a head that does not end"),
        pytest.param([HEAD + b"Content-Length: 100\r\n\r\n", *[b" "] * 40], id="a body that trickles"),
        pytest.param([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 40], id="chunks that trickle"),
        pytest.param([with_length(b'{"inputs": "a"}').replace(b"close", b"keep-alive")], id="an idle connection"),
    ],
)
def test_a_slow_client_is_let_go_of(server, parts):
    begin = time.monotonic()
    answers = answers_to(server, *parts, pause=0.1)
    assert time.monotonic() - begin < 15
    assert {status for status, _ in answers} <= {200, 408}


def test_a_client_that_fetches_no_answer_is_let_go_of(server):
    """Its answers would lie in memory for ever."""
    texts = json.dumps({"inputs": ["the " * 50] * 400}).encode()
    request = HEAD.replace(b"/predict", b"/tokenize") + b"Content-Length: %d\r\n\r\n" % len(texts) + texts
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(("127.0.0.1", server.port))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            ask_for_ever(client, request)


def ask_for_ever(client, request):
    for _ in range(200):
        client.sendall(request)
        time.sleep(0.1)


def test_idle_connections_beyond_the_limit_are_refused_and_others_served(server):
    crowd = []
    try:
        for _ in range(LIMITS["connections"] - 10):
            crowd.append(connect(server))
        assert server.post("/predict", {"inputs": "good"}).status == 200
        for _ in range(30):
            crowd.append(connect(server))
        time.sleep(0.2)
        closed = 0
        for client in crowd[LIMITS["connections"] :]:
            client.settimeout(0.5)
            try:
                closed += client.recv(1) == b""
            except ConnectionResetError:
                closed += 1
        assert closed >= 15
    finally:
        for client in crowd:
            client.close()


def test_clients_that_hang_up_early_leave_no_request_behind(server):
    body = json.dumps({"inputs": [["the film " * 20]] * 500}).encode()
    for cut in (0, 10, len(HEAD), len(HEAD) + 60, len(with_length(body))):
        with connect(server) as client:
            client.sendall(with_length(body)[:cut])
    deadline = time.monotonic() + 20
    while 'pruneonce_requests{model="classes"} 0.0' not in server.request("GET", "/metrics").body.decode():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_memory_does_not_grow_with_requests(server):
    def resident():
        text = server.request("GET", "/metrics").body.decode()
        return float(re.search(r"(?m)^process_resident_memory_bytes (\S+)", text)[1])

    def load():
        clients = [threading.Thread(target=lambda: [answers_to(server, *each) for each in work]) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()

    rows = json.dumps({"inputs": [["the film " * 20]] * 100}).encode()
    work = [(with_length(rows),), (with_length(b"{"),), (HEADS["no HTTP"],)] * 5
    for _ in range(24):  # until each thread's arena of the allocator is as large as it gets, which comes in steps
        load()
    before = resident()
    for _ in range(24):
        load()
    assert resident() < 1.1 * before + 4e6, "as many requests again: what each of them kept would show"


# Whatever JSON

words = st.text(max_size=20) | st.sampled_from(["the film", "[MASK]", "\x00", "right", "none", "classes"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
BODY_OF = {
    "/predict": {"inputs": [["a"], ["b", "c"]], "truncate": True, "truncation_direction": "left", "raw_scores": True},
    "/tokenize": {"inputs": ["a"], "add_special_tokens": True},
    "/decode": {"ids": [[1, 2]], "skip_special_tokens": True},
    "/qa": {"inputs": [{"question": "a", "context": "b"}], "top_k": 1, "max_answer_len": 3, "max_seq_len": 40,
            "doc_stride": 4, "handle_impossible_answer": True},
    "/fill": {"inputs": ["a [MASK]"], "top_k": 2, "targets": ["good"]},
    "/tag": {"inputs": ["a"], "aggregation_strategy": "first", "ignore_labels": ["O"], "stride": 4},
    "/embed": {"inputs": ["a", "b"], "normalize": True, "dimensions": 4, "prompt_name": None, "truncate": False},
    "/embed_all": {"inputs": [[1, 2]], "truncation_direction": "Left"},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"truncate": True}},
    "/rerank": {"query": "a", "texts": ["b", "c"], "raw_scores": True, "return_text": True, "model": "ranks"},
    "/v1/rerank": {"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1, "return_documents": True},
    "/v1/embeddings": {"input": [[1, 2], [3]], "encoding_format": "base64", "dimensions": 3, "user": "u"},
    "/v2/models/vectors/infer": {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [["a"]]}]},
    "/v2/models/classes/infer": {
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"], "parameters": {}}],
        "outputs": [{"name": "scores", "parameters": {"binary_data": False}}],
    },
}  # fmt: skip


@st.composite
def bodies(draw):
    """A body that is right but for one value, somewhere in it."""
    path = draw(st.sampled_from(sorted(BODY_OF)))
    body = json.loads(json.dumps(BODY_OF[path]))
    inside = body
    while True:
        places = sorted(inside) if isinstance(inside, dict) else range(len(inside))
        place = draw(st.sampled_from(list(places)))
        deeper = isinstance(inside[place], dict | list) and len(inside[place])
        if not deeper or draw(st.booleans()):
            inside[place] = draw(anything)
            return path, body
        inside = inside[place]


@settings(max_examples=400)
@given(bodies())
def test_no_json_is_a_server_error(served, case):
    path, body = case
    answer = served.post(path, json.dumps(body).encode())
    assert answer.status < 500, answer.body
    assert answer.status == 200 or "error" in answer.json


@settings(max_examples=100)
@given(
    st.sampled_from(sorted(BODY_OF)), st.binary(max_size=60) | anything.map(lambda value: json.dumps(value).encode())
)
def test_no_bytes_are_a_server_error(served, path, content):
    answer = served.post(path, content)
    assert 400 <= answer.status < 500, answer.body
    assert "error" in answer.json


@settings(max_examples=100)
@given(st.binary(max_size=200), st.integers(-5, 300))
def test_no_binary_tensors_are_a_server_error(served, data, size):
    head = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}]}
    content = json.dumps(head).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(content))}
    answer = served.post("/v2/models/classes/infer", content + data, headers)
    assert answer.status < 500, answer.body
