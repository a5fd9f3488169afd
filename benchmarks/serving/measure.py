"""What is measured, case by case: each adds its part to the record, and one that is there is kept."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from crowd import Crowd
from processes import Offline, Plan, Server, put_aside

from pruneonce.bench.isolation import Used, at_work, watched
from pruneonce.bench.serving import results
from pruneonce.bench.serving.load import LoadSettings, measure_load, run_load
from pruneonce.errors import PruneonceError

CLIENTS = 32
ALONE_TEXTS = 64  # whose times alone are known, in the case of latencies
OVERLOAD = 4.0  # times capacity
OVERLOAD_PART_SECONDS = 15.0
UTILISATION = 0.6  # of capacity
CAPACITY_SECONDS = 2.5
CROWD = 1000
Record = dict[str, Any]
Say = Callable[[str], None]


def load(server: Server, texts: list[str], settings: LoadSettings, answers: dict[bytes, int] | None = None) -> Record:
    """A load test's record, with the processor time of server, client and all others."""
    client = time.process_time()
    with at_work(server.pid), watched([server.pid]) as used:
        measured = measure_load(server.target, texts, settings, answers)
        resident = server.resident_bytes()
    client = time.process_time() - client
    found = results.record(measured, settings)
    found["resident_bytes"] = resident
    found["measured"] = measured
    return found | _used(used, client)


def _used(used: Used, client: float) -> Record:
    others = None if math.isnan(used.others) else max(0.0, used.others - client)
    return {
        "processor_seconds": {"server": used.own, "client": client, "others": others},
        "wall_seconds": used.wall,
    }


def check_answers(server: Server, texts: list[str], vectors: Path) -> Record:
    """How many answers over the wire have the bits of the offline pipeline: alone, and with 31 others at once."""
    expected = np.load(vectors)
    count = len(expected)

    def ask(number: int) -> bool:
        told = server.post(server.plan.path, {"input": texts[number], "model": "any", "encoding_format": "base64"})
        return base64.b64decode(told["data"][0]["embedding"]) == expected[number].astype("<f4").tobytes()

    with at_work(server.pid):
        alone = sum(ask(number) for number in range(count))
        with ThreadPoolExecutor(CLIENTS) as pool:
            company = sum(pool.map(ask, [number for number in range(count) for _ in range(2)]))
    return {"alone": [alone, count], "in company": [company, 2 * count]}


def cosine(server: Server, texts: list[str], vectors: Path) -> float:
    """Mean likeness of a server's vectors and those of our float32 file: whether it computes the same model."""
    expected = np.load(vectors)
    with at_work(server.pid):
        body = {"input": texts[: len(expected)], "model": "any", "encoding_format": "base64"}
        told = server.post(server.plan.path, body)["data"]
    found = np.array([np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in told])
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(1) / lengths).mean())


def throughput(
    record: Record,
    servers: dict[str, Server],
    offline: dict[str, Offline],
    texts: list[str],
    rounds: int,
    seconds: float,
    save: Callable[[], None],
    say: Say,
) -> None:
    """Texts per second of every server with 32 clients, and of the offline pipelines, in turn."""
    rows = record.setdefault("throughput", {})
    offline_rows = record.setdefault("offline", {})
    order = np.random.default_rng(0)
    for number in range(rounds):
        for name in order.permutation(sorted({*servers, *(f"offline {each}" for each in offline)})):
            kind, _, file = str(name).partition(" ")
            if kind == "offline" and file in offline:
                done = offline_rows.setdefault(file, [])
                if len(done) > number:
                    continue
                process = offline[file]
                with at_work(process.pid), watched([process.pid]) as used:
                    rate = process.texts_per_second(seconds)
                done.append({"texts_per_second": rate} | _used(used, 0.0))
            else:
                done = rows.setdefault(str(name), [])
                if len(done) > number:
                    continue
                found = load(servers[str(name)], texts, LoadSettings(seconds, None, CLIENTS, warmup_seconds=0.5))
                del found["measured"]
                failed = found["statuses"].keys() - {"200"} or found["lost"] or found["changed"]
                if failed and "pruneonce" in name:  # a rival's failures are in the record
                    raise PruneonceError(f"{name}: {found['statuses']}, lost {found['lost']}")
                done.append(found)
            say(f"throughput, round {number + 1}: {name} {done[-1]['texts_per_second']:.1f} texts/s")
            save()


def capacity(server: Server, texts: list[str], answers: dict[bytes, int]) -> float:
    """Texts per second with 32 clients, now: a machine may be half as fast a minute later."""
    found = load(server, texts, LoadSettings(CAPACITY_SECONDS, None, CLIENTS, warmup_seconds=0.5), answers)
    return found["texts_per_second"]


def latency(server: Server, texts: list[str], seconds: float, rounds: int, answers: dict[bytes, int]) -> Record:
    """One text per request at 60 % of capacity; each beside the median time of the same text alone.

    Alone it is asked by the same client, one request after the other. Each round measures capacity, times alone and
    times under load within a few seconds; ratios of all rounds are taken together.
    """
    some = texts[:ALONE_TEXTS]
    found: Record = {"rates": [], "alone": [], "under_load": []}
    ratios: list[float] = []
    latencies: list[float] = []
    for seed in range(rounds):
        rate = UTILISATION * capacity(server, texts, answers)
        alone = load(server, some, LoadSettings(max(2.0, seconds / rounds / 3), None, 1, warmup_seconds=0.3), answers)
        times: dict[int, list[float]] = {}
        measured = alone.pop("measured")
        for number, latency_ in zip(measured.numbers, measured.latencies, strict=True):
            times.setdefault(number % len(some), []).append(latency_)
        loaded = load(server, some, LoadSettings(seconds / rounds, rate, 256, warmup_seconds=1.0, seed=seed), answers)
        measured = loaded.pop("measured")
        latencies += measured.latencies
        ratios += [
            latency_ / statistics.median(times[number % len(some)])
            for number, latency_ in zip(measured.numbers, measured.latencies, strict=True)
            if number % len(some) in times
        ]
        for key, value in (("rates", rate), ("alone", alone), ("under_load", loaded)):
            found[key].append(value)
    return found | {
        "rate": statistics.mean(found["rates"]),
        "loaded": {"latency_ms": _percentiles(1000 * np.array(latencies))},
        "times_alone": _percentiles(np.array(ratios)),
    }


def _percentiles(values: np.ndarray) -> Record:
    return {f"p{percent}": float(np.percentile(values, percent)) for percent in (50, 90, 99)}


def overload(server: Server, texts: list[str], seconds: float, answers: dict[bytes, int]) -> Record:
    """Four times what it can do, in parts; before and after each what it can do then. Memory once a second."""
    resident: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(1.0):
            resident.append(server.resident_bytes())

    parts = max(1, round(seconds / OVERLOAD_PART_SECONDS))
    capacities = [capacity(server, texts, answers)]
    rows = []
    latencies: list[float] = []
    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        for seed in range(parts):
            settings = LoadSettings(seconds / parts, OVERLOAD * capacities[-1], 2048, warmup_seconds=2.0, seed=seed)
            rows.append(load(server, texts, settings, answers))
            latencies += rows[-1].pop("measured").latencies
            capacities.append(capacity(server, texts, answers))
    finally:
        ended.set()
        sampler.join()
    after = resident[max(5, len(resident) // 10) :] or resident
    return {
        "parts": rows,
        "capacities": capacities,
        "capacity": statistics.mean((a + b) / 2 for a, b in itertools.pairwise(capacities)),
        "texts_per_second": statistics.mean(each["texts_per_second"] for each in rows),
        "statuses": dict(sum((Counter(each["statuses"]) for each in rows), Counter())),
        "latency_ms": _percentiles(1000 * np.array(latencies)),
        "resident": {"first": after[0], "least": min(after), "most": max(after)},
        "processor_seconds": {
            who: sum(each["processor_seconds"][who] or 0.0 for each in rows) for who in ("server", "client", "others")
        },
        **{key: sum(each[key] for each in rows) for key in ("changed", "lost", "wall_seconds")},
    }


def crowded(server: Server, texts: list[str], rounds: int, seconds: float, answers: dict[bytes, int]) -> Record:
    """Goodput of 32 clients without and with a thousand connections that are idle or trickle, in turn."""
    found: Record = {"without": [], "with": [], "closed_by_server": 0, "open": []}
    for _ in range(rounds):
        for kind in ("without", "with"):
            with contextlib.ExitStack() as stack:
                if kind == "with":
                    stack.enter_context(at_work(server.pid))
                    crowd = stack.enter_context(Crowd(server.target, CROWD))
                each = load(server, texts, LoadSettings(seconds, None, CLIENTS, warmup_seconds=0.5), answers)
                del each["measured"]
                if kind == "with":
                    found["open"].append(crowd.open)
                    found["closed_by_server"] += crowd.closed_by_server
            found[kind].append(each)
    return found


def replicas(plan: Plan, count: int, texts: list[str], rounds: int, seconds: float, logs: Path) -> list[float]:
    """Texts per second of several servers with a thread each, the clients shared out among them."""
    servers = [Server(plan, 1, logs / f"replica-{number}.log") for number in range(count)]
    try:
        for server in servers:
            server.wait_until_ready()
        settings = LoadSettings(seconds, None, CLIENTS // count, warmup_seconds=0.5)

        async def load_all() -> float:
            found = await asyncio.gather(*(run_load(server.target, texts, settings) for server in servers))
            return sum(each.texts for each in found) / seconds

        return [asyncio.run(load_all()) for _ in range(rounds)]
    finally:
        for server in servers:
            server.close()


def start_to_ready(plan: Plan, threads: int, rounds: int, log: Path) -> list[float]:
    """Seconds from the start of the process until readiness is told, its file in the system's cache."""
    taken = []
    for _ in range(rounds + 1):
        server = Server(plan, threads, log)
        try:
            taken.append(server.wait_until_ready(0.005))
        finally:
            server.close()
    return taken[1:]


def started(plans: list[Plan], threads: int, logs: Path, record: Record, say: Say) -> dict[str, Server]:
    """All of them, one after the other, each stopped once it is ready; one that does not start is told and left out."""
    servers = {}
    for plan in plans:
        server = Server(plan, threads, logs / f"{plan.name.replace(' ', '-')}.log")
        try:
            server.wait_until_ready()
            server.post(plan.path, {"input": "ready?", "model": "any", "encoding_format": "base64"})
        except PruneonceError as error:
            server.close()
            if plan.is_ours:
                raise
            say(f"left out: {error}")
            record.setdefault("absent", {})[plan.name] = str(error)[:200]
            continue
        put_aside(server)
        servers[plan.name] = server
        record.get("absent", {}).pop(plan.name, None)
        say(f"{plan.name} is ready")
    return servers


def nofile() -> None:
    """As many open files as the system lets us have: a thousand connections and more."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
