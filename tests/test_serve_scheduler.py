"""The queue of a served model: who is computed when, and that everyone gets what is theirs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneonce.run.pipelines.text_model import Wanted
from pruneonce.serve.scheduler import Job, Scheduler

PATIENCE = 30


@dataclass(frozen=True)
class Text:
    """Stands for a sequence: a name, and so many tokens."""

    name: str
    tokens: int

    def __len__(self):
        return self.tokens


class Held:
    """A model that computes a batch when it is let, and then answers every text with its name's hash."""

    def __init__(self, batch_tokens=100, **options):
        self.batches = []
        self._may = threading.Semaphore(0)
        self._began = threading.Semaphore(0)
        self.scheduler = Scheduler(self.compute, batch_tokens, **options)
        self.fails = lambda names: None

    def compute(self, wanted, numbers):
        names = [wanted.token_ids[number].name for number in numbers]
        self.batches.append(names)
        self._began.release()
        assert self._may.acquire(timeout=PATIENCE)
        if error := self.fails(names):
            raise error
        return [answer_to(name) for name in names]

    def until_computing(self):
        assert self._began.acquire(timeout=PATIENCE)

    def let(self, batches=1):
        self._may.release(batches)

    def submit(self, *texts, **kwargs):
        waiter = Waiter()
        waiter.job = Job(Wanted(list(texts), **kwargs), waiter)
        self.scheduler.submit(waiter.job)
        return waiter


class Waiter:
    def __init__(self):
        self.calls, self._event = 0, threading.Event()

    def __call__(self, job):
        self.calls += 1
        self._event.set()

    def wait(self):
        assert self._event.wait(PATIENCE)
        return self.job


def answer_to(name):
    return np.array([np.nan if name.startswith("nan") else float(sum(name.encode()))])


def texts(name, count, tokens):
    return [Text(f"{name}{number}", tokens) for number in range(count)]


@pytest.fixture
def held():
    model = Held()
    yield model
    model.let(1000)
    model.scheduler.close()


def test_a_text_behind_a_long_request_is_in_the_next_batch(held):
    long = held.submit(*texts("long", 50, 50))
    held.until_computing()
    short = held.submit(Text("short", 10))
    held.let(50)
    assert short.wait().outputs[0] == answer_to("short")
    long.wait()
    assert "short" in held.batches[1]


def test_a_long_request_goes_on_however_many_short_ones_come(held):
    """Two texts of 50 tokens fill a batch; two more arrive while each is computed."""
    long = held.submit(*texts("long", 10, 50))
    for number in range(200):
        held.until_computing()
        held.submit(Text(f"a{number}", 50))
        held.submit(Text(f"b{number}", 50))
        held.let()
        if long.calls:
            break
    taken = [sum(name.startswith("long") for name in batch) for batch in held.batches]
    assert sum(taken) == 10


def test_a_short_text_is_not_behind_long_ones_that_came_before_it(held):
    plug = held.submit(Text("plug", 100))
    held.until_computing()
    waiters = [held.submit(Text(f"long{number}", 90)) for number in range(5)] + [held.submit(Text("short", 5))]
    held.let(10)
    for waiter in [plug, *waiters]:
        waiter.wait()
    assert held.batches[1] == ["short", "long0"]


def test_a_long_text_is_passed_by_short_ones_for_a_while_alone(held):
    """As many short ones as fill a batch come while each is computed."""
    plug = held.submit(Text("plug", 100))
    held.until_computing()
    long = held.submit(Text("long", 90))
    for number in range(20):
        held.submit(Text(f"a{number}", 20))
        held.submit(Text(f"b{number}", 80))
        held.let()
        held.until_computing()
        if "long" in held.batches[-1]:
            break
    held.let()
    plug.wait()
    long.wait()
    assert 1 < len(held.batches) < 12


def test_what_does_not_fit_into_a_batch_is_passed_by_what_does_once(held):
    plug = held.submit(Text("plug", 100))
    held.until_computing()
    waiters = [held.submit(Text(name, size)) for name, size in [("a", 60), ("b", 61), ("c", 62), ("d", 40)]]
    waiters += [held.submit(Text(f"e{number}", 63)) for number in range(3)]
    held.let(10)
    for waiter in [plug, *waiters]:
        waiter.wait()
    assert held.batches[1:4] == [["d", "a"], ["b"], ["c"]]


def test_a_batch_begins_while_the_answers_of_the_one_before_are_made():
    """What is done with results may take long: kernels do not wait for it."""
    results = []
    model = Held(hand_over=results.append)
    first = model.submit(Text("first", 100))
    model.until_computing()
    second = model.submit(Text("second", 100))
    model.let()
    model.until_computing()
    assert (model.batches, first.calls) == ([["first"], ["second"]], 0)
    model.let()
    model.scheduler.close()
    for give in reversed(results):
        give()
    assert [waiter.wait().outputs[0] for waiter in (first, second)] == [answer_to("first"), answer_to("second")]


def test_requests_of_one_text_are_computed_in_the_order_in_which_they_came(held):
    first = held.submit(Text("plug", 100))
    held.until_computing()
    waiters = [held.submit(Text(f"{number:02}", 30)) for number in range(20)]
    held.let(100)
    for waiter in [first, *waiters]:
        waiter.wait()
    names = [name for batch in held.batches[1:] for name in batch]
    assert names == sorted(names)


def test_a_batch_has_no_more_tokens_than_its_budget_but_for_one_text_alone(held):
    plug = held.submit(Text("plug", 1))
    held.until_computing()
    waiters = [held.submit(*texts(f"{size}-", 3, size)) for size in (10, 40, 60, 99, 101, 400)]
    held.let(100)
    for waiter in [plug, *waiters]:
        waiter.wait()
    sizes = {text.name: text.tokens for waiter in waiters for text in waiter.job.wanted.token_ids} | {"plug": 1}
    totals = [(len(batch), sum(sizes[name] for name in batch)) for batch in held.batches]
    assert all(tokens <= 100 or count == 1 for count, tokens in totals), totals
    assert any(count > 1 for count, _ in totals)


def test_work_of_a_client_that_has_left_is_dropped(held):
    plug = held.submit(Text("plug", 100))
    held.until_computing()
    gone, stays = held.submit(*texts("gone", 5, 50)), held.submit(Text("stays", 50))
    gone.job.cancel()
    held.let(10)
    stays.wait()
    plug.wait()
    assert not any(name.startswith("gone") for batch in held.batches for name in batch)
    assert gone.calls == 0


def test_a_request_that_fails_fails_alone_and_the_thread_lives(held):
    """Also in company: what was in its batch is computed again."""
    held.fails = lambda names: ZeroDivisionError("kernel") if "bad" in names else None
    plug = held.submit(Text("plug", 100))
    held.until_computing()
    bad = held.submit(Text("bad", 10))
    good = held.submit(Text("good", 10))
    held.let(4)
    plug.wait()
    assert isinstance(bad.wait().error, ZeroDivisionError)
    assert good.wait().error is None
    assert good.job.outputs[0] == answer_to("good")
    assert held.batches == [["plug"], ["bad", "good"], ["bad"], ["good"]]


def test_an_answer_that_is_no_number_fails_its_own_request_alone(held):
    plug = held.submit(Text("plug", 100))
    held.until_computing()
    broken, whole = held.submit(Text("nan", 10), Text("x", 10)), held.submit(Text("y", 10))
    held.let(2)
    assert "NaN" in str(broken.wait().error)
    assert whole.wait().error is None
    plug.wait()
    assert broken.calls == 1
    assert sorted(held.batches[1]) == ["nan", "x", "y"]


def test_hidden_states_and_logits_are_not_of_one_batch(held):
    plug = held.submit(Text("plug", 100))
    held.until_computing()
    waiters = [held.submit(Text(f"{number}", 10), output=("logits", "states")[number % 2]) for number in range(4)]
    held.let(10)
    for waiter in [plug, *waiters]:
        waiter.wait()
    assert all(len({int(name) % 2 for name in batch}) == 1 for batch in held.batches[1:])


def test_what_waits_when_the_server_ends_fails_and_does_not_hang():
    model = Held()
    first = model.submit(Text("first", 100))
    model.until_computing()
    second = model.submit(Text("second", 100))
    closing = threading.Thread(target=model.scheduler.close)
    closing.start()
    model.let()
    closing.join(PATIENCE)
    assert first.wait().error is None
    assert "shutting down" in str(second.wait().error)
    assert "shutting down" in str(model.submit(Text("late", 1)).wait().error)


def test_a_request_without_texts_is_done_at_once(held):
    assert held.submit().wait().outputs == []


@given(st.lists(st.lists(st.integers(1, 150), max_size=6), min_size=1, max_size=12))
def test_every_request_gets_the_answers_to_its_own_texts_in_their_order(jobs):
    """Results of several batches are given out by several threads at once."""
    with ThreadPoolExecutor(4) as pool, ThreadPoolExecutor(3) as answering:
        model = Held(hand_over=answering.submit)
        model.let(1000)
        waiters = list(
            pool.map(
                lambda job: model.submit(*(Text(f"{job[0]}:{n}:{size}", size) for n, size in enumerate(job[1]))),
                enumerate(jobs),
            )
        )
        for waiter in waiters:
            job = waiter.wait()
            assert waiter.calls == 1
            assert job.error is None
            expected = [answer_to(text.name) for text in job.wanted.token_ids]
            assert [output.tolist() for output in job.outputs] == [each.tolist() for each in expected]
        model.scheduler.close()
