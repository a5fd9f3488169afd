"""Processes that train together: who writes, who decides, what each hears of the others."""

from __future__ import annotations

import os

import pytest
import torch
from tiny_stages import forkserver

from pruneonce.train import processes


def test_alone_a_process_is_the_first_and_says_everything_itself(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (processes.world_size(), processes.is_main_process()) == (1, True)
    assert processes.first_process_says(["a"]) == ["a"]
    assert processes.everyone_says({"a": 1}) == [{"a": 1}]


def test_only_rank_0_writes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    assert (processes.world_size(), processes.is_main_process()) == (3, False)
    monkeypatch.setenv("RANK", "0")
    assert processes.is_main_process()


def talk(rank, meeting, queue):
    """In a worker: say something else than the other, and tell the test what was heard."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    processes.leave_in_order()
    first = processes.first_process_says([f"measured by {rank}"] * (rank + 1))
    queue.put((rank, first, processes.everyone_says({"rank": rank})))


@pytest.mark.slow
def test_two_processes_follow_the_first_and_hear_each_other(tmp_path):
    queue = forkserver.Queue()
    workers = [forkserver.Process(target=talk, args=(rank, tmp_path / "meeting", queue)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    heard = sorted(queue.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert heard == [(rank, ["measured by 0"], [{"rank": 0}, {"rank": 1}]) for rank in (0, 1)]
