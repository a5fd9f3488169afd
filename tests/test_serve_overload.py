"""More requests than a model can answer: most are refused by their heads alone, and those let in do not wait long."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("uvicorn")  # the extra `serve`

import uvicorn
from serving import Application
from test_serve import Stopped, loaded, packed, post  # noqa: F401
from uvicorn.server import ServerState

from pruneonce.serve.application import MODEL_PATHS
from pruneonce.serve.connection import connection_class
from pruneonce.serve.limits import Limits
from pruneonce.serve.scheduler import Job
from pruneonce.serve.workers import Workers

PATIENCE = 20
ASKED = json.dumps({"inputs": "the film"}).encode()
MASKED = json.dumps({"inputs": "the [MASK]"}).encode()


def request(body=ASKED, path=b"/predict", extra=b"", version=b"1.1"):
    return b"POST %s HTTP/%s\r\nHost: localhost\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s" % (
        path,
        version,
        extra,
        len(body),
        body,
    )


class Client:
    """Raw bytes to a server, and its answers one by one."""

    def __init__(self, reader, writer):
        self._reader, self.writer = reader, writer

    def send(self, data):
        self.writer.write(data)

    async def answer(self):
        """Status, headers, JSON; None where the server has closed."""
        try:
            head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE)
        except asyncio.IncompleteReadError:
            return None
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        body = await self._reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, json.loads(body or b"null")

    async def ask(self, data):
        self.send(data)
        return await self.answer()


@asynccontextmanager
async def listening(app):
    """The application behind connections as `pruneonce serve` has them; a way to connect, and the connections."""
    config = uvicorn.Config(app.app, http=connection_class(app.server, MODEL_PATHS), lifespan="off", log_config=None)
    config.load()
    state, clients = ServerState(), []
    listener = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config, state, {}), "127.0.0.1", 0
    )

    async def connect():
        clients.append(Client(*await asyncio.open_connection(*listener.sockets[0].getsockname()[:2])))
        return clients[-1]

    try:
        yield connect, state.connections
    finally:
        for client in clients:
            client.writer.close()
        listener.close()
        while state.connections:
            await asyncio.sleep(0.001)


@pytest.fixture
def full(loaded):  # noqa: F811
    """An application whose one model takes a single request, which it holds until it is let; and what holds it."""
    app = Application({"classes": loaded["classes"]}, Limits(requests=1, body_seconds=0.3))
    stopped = Stopped(app)
    yield app, stopped
    stopped.may.set()
    app.close()


async def held(app, stopped):
    """One request that the model has begun to compute; it has no room for another then."""
    plug = asyncio.ensure_future(post(app, {"inputs": "plug"}))
    while not stopped.began.is_set():
        assert not plug.done()
        await asyncio.sleep(0.001)
    assert app.server.models.full
    return plug


def test_under_overload_a_request_is_refused_whatever_its_body_is_and_no_byte_of_it_is_read(full, monkeypatch):
    """Reading it would take the time of those that are answered. The connection stays for the next request."""
    app, stopped = full
    read = []

    async def crowd():
        async with listening(app) as (connect, connections):
            plug, client = await held(app, stopped), await connect()
            monkeypatch.setattr("pruneonce.serve.endpoint.read_json", lambda kind, body: read.append(body))
            refused = [await client.ask(request(body)) for body in (ASKED, b"{", b"", b"x" * 100_000)]
            (connection,) = connections
            assert connection.cycle is None, "uvicorn has made nothing of them"
            stopped.may.set()
            await plug
            monkeypatch.undo()
            return refused, await client.ask(request())

    refused, answered = asyncio.run(crowd())
    for status, headers, told in refused:
        assert (status, told["error_type"]) == (429, "Overloaded")
        assert int(headers["retry-after"]) >= 1
        assert headers["x-request-id"]
    assert read == []
    assert answered[0] == 200
    assert "pruneonce_rejected 4.0" in app.get("/metrics").body.decode()


def test_a_model_that_is_full_turns_nobody_away_from_another(loaded):  # noqa: F811
    """Which one a request is for stands in its body, so that is read as long as one of them has room."""
    app = Application({name: loaded[name] for name in ("classes", "words")}, Limits(requests=1))
    stopped = Stopped(app)

    async def crowd():
        async with listening(app) as (connect, _):
            plug, client = asyncio.ensure_future(post(app, {"inputs": "plug"})), await connect()
            while not stopped.began.is_set():
                await asyncio.sleep(0.001)
            assert app.models[0].full
            assert not app.server.models.full
            full, other = await client.ask(request()), await client.ask(request(MASKED, b"/fill"))
            stopped.may.set()
            await plug
            return full, other, await client.ask(request())

    try:
        (full, _, told), other, after = asyncio.run(crowd())
    finally:
        stopped.may.set()
        app.close()
    assert (full, told["error_type"]) == (429, "Overloaded")
    assert told["error"].startswith("classes has 1 requests")
    assert (other[0], after[0]) == (200, 200)


def test_a_refusal_is_in_the_form_of_its_route_and_in_the_log(full, caplog):
    app, stopped = full
    app.server.logs_requests = True

    async def crowd():
        async with listening(app) as (connect, _):
            plug, client = await held(app, stopped), await connect()
            named = request(path=b"/v1/embeddings", extra=b"X-Request-Id: mine\r\n")
            refused = await client.ask(named)
            stopped.may.set()
            await plug
            return refused

    with caplog.at_level(logging.INFO, "pruneonce.access"):
        status, headers, told = asyncio.run(crowd())
    assert (status, headers["x-request-id"], told["error"]["type"]) == (429, "mine", "rate_limit_error")
    line = json.loads(caplog.messages[0])
    assert (line["id"], line["status"], line["path"]) == ("mine", 429, "/v1/embeddings")


def test_who_may_not_ask_is_told_that_and_health_is_told_as_ever(full):
    app, stopped = full

    async def crowd():
        async with listening(app) as (connect, _):
            plug, client = await held(app, stopped), await connect()
            app.server.keys = [b"a key"]
            stranger = await client.ask(request())
            friend = await client.ask(request(extra=b"Authorization: Bearer a key\r\n"))
            client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            health = await client.answer()
            nowhere = await client.ask(request(path=b"/nowhere", extra=b"Authorization: Bearer a key\r\n"))
            app.server.keys = []
            app.server.loopback_only = True
            elsewhere = await client.ask(request().replace(b"localhost", b"elsewhere"))
            stopped.may.set()
            await plug
            return [each[0] for each in (stranger, friend, health, nowhere, elsewhere)]

    assert asyncio.run(crowd()) == [401, 429, 200, 404, 421]


def test_answers_come_in_the_order_of_requests_where_some_are_refused_unread(full):
    """One connection: a request that is computed, and two behind it that come when there is no room."""
    app, stopped = full

    async def crowd():
        async with listening(app) as (connect, _):
            client = await connect()
            client.send(request())
            while not stopped.began.is_set():
                await asyncio.sleep(0.001)
            client.send(request(b"{") + request(b"["))
            other = await connect()
            client_before = await other.ask(request(b"{") + request(b"["))
            second = await other.answer()
            stopped.may.set()
            return [(await client.answer())[0] for _ in range(3)], [client_before[0], second[0]]

    first, others = asyncio.run(crowd())
    assert first[0] == 200
    assert all(status in (400, 429) for status in first[1:])
    assert others == [429, 429]


@pytest.mark.parametrize(("extra", "version"), [(b"Connection: close\r\n", b"1.1"), (b"", b"1.0")])
def test_a_connection_that_is_for_one_request_is_closed_after_a_refusal(full, extra, version):
    app, stopped = full

    async def crowd():
        async with listening(app) as (connect, _):
            plug, client = await held(app, stopped), await connect()
            refused = await client.ask(request(extra=extra, version=version))
            end = await client.answer()
            stopped.may.set()
            await plug
            return refused, end

    refused, end = asyncio.run(crowd())
    assert (refused[0], refused[1]["connection"], end) == (429, "close", None)


def test_a_body_that_nobody_reads_may_not_trickle_for_ever(full):
    app, stopped = full

    async def crowd():
        async with listening(app) as (connect, _):
            plug, client = await held(app, stopped), await connect()
            client.send(request(b"a" * 1000)[:-900])
            await asyncio.sleep(0.1)
            client.send(b"a" * 10)
            told, end = await client.answer(), await client.answer()
            stopped.may.set()
            await plug
            return told, end

    told, end = asyncio.run(crowd())
    assert told[0] == 408
    assert end is None


def test_who_is_let_in_waits_no_longer_than_wanted_however_fast_the_model_is(loaded):  # noqa: F811
    """The bound is in seconds: of tokens it follows from the model's own speed; a few are let in even so."""
    app = Application({"classes": loaded["classes"]}, Limits(wait_seconds=2.0, always_requests=3))
    (model,) = app.models
    model.requests, model.tokens = 3, 1000
    assert not model.full  # nothing is known of its speed
    model._batch_done(1, model.batch_tokens, model.batch_tokens / 400)  # 400 tokens per second
    assert model.full
    assert int(model.overloaded().headers["retry-after"]) == 3
    model.requests = 2
    assert not model.full
    model.requests, model.tokens = 3, 800
    assert not model.full
    app.close()


def test_a_model_that_computes_little_for_a_while_is_not_taken_for_slow(loaded):  # noqa: F811
    """A batch of few tokens says nothing of how fast a queue is worked off."""
    app = Application({"classes": loaded["classes"]})
    (model,) = app.models
    model._batch_done(4, model.batch_tokens, 0.01)
    speed = model._tokens_per_second
    for _ in range(1000):
        model._batch_done(1, 5, 0.01)
    assert model._tokens_per_second == speed > 0
    app.close()


def test_the_first_batch_is_as_large_as_will_come(loaded):  # noqa: F811
    """Whatever grows with a batch has grown before anybody asks, and the model's speed is known."""
    for name, loaded_model in loaded.items():
        app = Application({name: loaded_model})
        (model,) = app.models
        batches = []
        done = model._scheduler._on_batch
        model._scheduler._on_batch = lambda *batch, done=done, batches=batches: (batches.append(batch), done(*batch))
        asyncio.run(model.warm_up())
        ((_, tokens, _),) = batches
        assert 2 * tokens > model.batch_tokens >= tokens
        assert model._tokens_per_second > 0
        app.close()


def test_a_request_that_is_answered_leaves_nothing_for_the_collector(loaded, monkeypatch):  # noqa: F811
    """Its tokens are large, and in a cycle they would stay for thousands of requests more."""
    app = Application({"classes": loaded["classes"]}, Limits(requests=1))
    left = []

    class Kept(Job):
        def __init__(self, *given):
            super().__init__(*given)
            left.append(weakref.ref(self))

    monkeypatch.setattr("pruneonce.serve.served_model.Job", Kept)
    gc.collect()
    gc.disable()
    try:
        assert app.post("/predict", {"inputs": "the film"}).status == 200
        assert app.post("/predict", {"inputs": "the film"}).status == 200
        for worker in (app.threads.after, app.threads.before):  # until their threads have let go of them
            worker.close()
        app.models[0].close()
        assert [each() for each in left] == [None, None]
    finally:
        gc.enable()
        app.close()


def test_work_that_fails_ends_no_thread(caplog):
    workers = Workers(1, "test")
    done = []
    workers.put(lambda: 1 / 0)
    workers.put(lambda: done.append(1))
    workers.close()
    assert done == [1]
    assert "ZeroDivisionError" in caplog.text
