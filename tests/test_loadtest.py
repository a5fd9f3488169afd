"""`pruneonce loadtest`: what it counts is what happened."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("httptools")  # the extra `serve`

from pruneonce.bench.serving.client import Target
from pruneonce.bench.serving.load import LoadSettings, bodies, run_load
from pruneonce.bench.serving.results import record
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.report.load_chart import load_figure
from pruneonce.report.picture import picture


class Fake:
    """An HTTP server whose answers a test chooses."""

    def __init__(self, answer):
        self._answer, self._loop = answer, asyncio.new_event_loop()
        self.asked = []
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    async def _serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                self.asked.append((head, json.loads(await reader.readexactly(length))))
                answer = self._answer(len(self.asked))
                if answer is None:
                    break
                status, body, wait = answer
                await asyncio.sleep(wait)
                text = f"HTTP/1.1 {status} X\r\nx-compute-tokens: 7\r\ncontent-length: {len(body)}\r\n\r\n"
                writer.write(text.encode() + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def close(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            self._loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0.01))  # the transports close
        self._server.close()
        self._loop.run_until_complete(self._server.wait_closed())
        self._loop.close()


@pytest.fixture
def fake():
    made = []

    def make(answer):
        made.append(Fake(answer))
        return made[-1]

    yield make
    for server in made:
        server.close()


def measure(server, texts=("a", "b"), path="/predict", key=None, **settings):
    settings = LoadSettings(**{"seconds": 0.5, "clients": 2, "warmup_seconds": 0.0, **settings})
    target = Target.of(f"http://127.0.0.1:{server.port}", path, key)
    return record(asyncio.run(run_load(target, list(texts), settings)), settings)


def test_answers_refusals_and_tokens_are_counted(fake):
    server = fake(lambda number: (200, b"same", 0.01) if number % 3 else (429, b"later", 0.01))
    found = measure(server, key="k")
    answered, refused = found["statuses"]["200"], found["statuses"]["429"]
    assert answered + refused == len(server.asked)
    assert found["requests_per_second"] == found["texts_per_second"] == answered / 0.5
    assert found["tokens_per_second"] == 7 * answered / 0.5
    assert (found["lost"], found["changed"]) == (0, 0)
    assert b"Authorization: Bearer k" in server.asked[0][0]


def test_every_second_tells_what_was_due_in_it_and_can_be_drawn(fake):
    server = fake(lambda count: (200 if count < 12 else 429, b"{}", 0))
    found = measure(server, rate=20.0, seconds=2.0)
    rows = found["by_second"]
    assert len(rows) == 2
    for kind, status in (("answered", "200"), ("refused", "429")):
        assert sum(row[kind] for row in rows) == found["statuses"][status]
    assert all((row["p99"] is None) == (row["answered"] == 0) for row in rows)
    drawn = ElementTree.fromstring(picture(load_figure(found), "")).iter("{http://www.w3.org/2000/svg}svg")
    assert any("refused" in each.get("aria-label", "") for each in drawn)


def test_an_answer_that_changes_and_a_connection_that_breaks_are_told(fake):
    server = fake(lambda number: None if number % 5 == 0 else (200, b"%d" % (number == 3), 0.005))
    found = measure(server, texts=["a"], clients=1, seconds=2.0)
    assert found["changed"] == 1
    assert found["lost"] >= 1


def test_latency_counts_from_when_a_request_was_due(fake):
    """The server stops for half a second: those that waited for a free connection waited for it too."""
    server = fake(lambda number: (200, b"", 0.5 if number == 1 else 0.0))
    found = measure(server, rate=100.0, clients=1, seconds=0.4)
    assert found["latency_ms"]["p50"] > 100


def test_open_arrivals_come_at_their_rate_whatever_the_server_does(fake):
    server = fake(lambda number: (200, b"", 0.3))
    begin = time.monotonic()
    measure(server, rate=100.0, clients=1000, seconds=1.0)
    assert 60 < len(server.asked) < 150
    assert time.monotonic() - begin < 20


def test_bodies_are_in_the_form_of_their_route():
    def first(path, count):
        return json.loads(next(bodies(path, ["a", "b", "c"], count)))

    assert first("/predict", 1) == {"inputs": "a"}
    assert first("/predict", 2) == {"inputs": [["a"], ["b"]]}
    assert first("/embed", 2) == {"inputs": ["a", "b"]}
    assert first("/v1/embeddings", 1)["input"] == "a"
    assert first("/rerank", 2) == {"query": "a", "texts": ["a", "b"]}


@pytest.mark.parametrize("url", ["localhost:80", "https://a", "http://", "http://a:b", "ftp://a"])
def test_what_is_no_url_is_told(url):
    with pytest.raises(UsageError, match=r"URL|http"):
        Target.of(url, "/predict")


def test_nothing_that_listens_is_told_in_a_line(fake):
    server = fake(lambda number: None)
    target = Target.of("http://127.0.0.1:9", "/predict")
    with pytest.raises(PruneonceError, match="nothing answers at 127"):
        asyncio.run(run_load(target, ["a"], LoadSettings()))
    assert server.asked == []


def test_the_page_of_the_serving_benchmark_says_what_its_record_says(tmp_path):
    root = Path(__file__).parents[1]
    script = (
        "import sys, json, pathlib, table; table.write_page(pathlib.Path(sys.argv[1]), json.load(open(sys.argv[2])))"
    )
    page = shutil.copy(root / "docs" / "serving.md", tmp_path)
    folder = root / "benchmarks" / "serving"
    subprocess.run([sys.executable, "-c", script, page, folder / "measured.json"], check=True, cwd=folder)
    assert Path(page).read_text() == (root / "docs" / "serving.md").read_text()
