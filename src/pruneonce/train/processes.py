"""The processes that train together, as torchrun or accelerate has started them."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from pruneonce.errors import PruneonceError

# How gloo, and torch's store, say that the other end of a connection is gone.
LOST = re.compile(
    r"[Cc]onnection (closed|reset|refused|was likely closed)|Broken pipe|Timed out waiting|gloo/transport", re.ASCII
)
Told = TypeVar("Told")


def world_size() -> int:
    """Processes that train together (set by torchrun or accelerate)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """True in the process that writes files and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def first_process_says(names: list[str]) -> list[str]:
    """The `names` of the first process, in all of them: measurements differ, parameters of a run must not."""
    if world_size() == 1:
        return names
    said = [names]
    torch.distributed.broadcast_object_list(said, src=0)
    return said[0]


def first_process_computes(compute: Callable[[], Told]) -> Told:
    """What `compute` returns in the first process, in all of them; it is called there alone.

    A PruneonceError of it is raised in all of them too, so that none waits for an answer.
    """
    if world_size() == 1:
        return compute()
    said: list[Any] = [None, None]
    if is_main_process():
        try:
            said = [compute(), None]
        except PruneonceError as error:
            said = [None, str(error)]
    torch.distributed.broadcast_object_list(said, src=0)
    if said[1] is not None:
        raise PruneonceError(said[1])
    answer: Told = said[0]
    return answer


@contextlib.contextmanager
def losing_none() -> Iterator[None]:
    """While processes compute together: one that goes is a PruneonceError in the others, which says what to do.

    What torch raises then names addresses and lines of its own source, and differs from backend to backend.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or LOST.search(str(error)) is not None
        if world_size() == 1 or not lost:
            raise
        raise PruneonceError(
            f"process {os.environ.get('RANK', '?')} of {world_size()} has lost another one: start the same command "
            "again on all nodes, or on fewer; it goes on from the last checkpoint"
        ) from error


def everyone_says(own: Told) -> list[Told]:
    """What each process has to say, by rank."""
    if world_size() == 1:
        return [own]
    said: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(said, own)
    return said


def leave_in_order() -> None:
    """Have this process leave its group before the interpreter ends.

    Gloo's threads let go of the last tensors that they sent a moment after the caller has gone on. One that does so
    while the interpreter is being torn down aborts the process, and torchrun takes the finished run for a failed one
    (pytorch/pytorch#190489). Called when training is done: a process with an operation under way would wait for it.
    """
    if world_size() > 1:
        atexit.unregister(_leave)  # several runs in one process
        atexit.register(_leave)


def _leave() -> None:
    gc.collect()  # a wrapped model still in a cycle holds the group, whose threads end with its last holder
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
