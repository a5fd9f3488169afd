"""One subject of `bench-train`, in a process of its own: `python -m pruneonce.bench.training.worker`.

Messages are those of `deepsparse_worker`. The first request is {"subject": name, "case": fields of TrainingCase};
then {"do": "step" | "step_by_parts" | "forget_peak" | "memory"}. Between requests it waits for its input, asleep.
"""

from __future__ import annotations

import contextlib
import os
import sys

from pruneonce.bench.inference.deepsparse_worker import receive, send
from pruneonce.bench.training.case import TrainingCase


def main() -> None:
    """Serve until the input ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not land among the messages
    from pruneonce.bench.training.subject import TrainingSubject

    with contextlib.suppress(EOFError):
        request, _ = receive(requests)
        subject = TrainingSubject(request["subject"], TrainingCase(**request["case"]))
        with contextlib.closing(subject):
            send(answers, {"kernels": subject.kernels()})
            while True:
                wanted = receive(requests)[0]["do"]
                send(answers, {"answer": getattr(subject, wanted)()})


if __name__ == "__main__":
    main()
