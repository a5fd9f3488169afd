"""Connections that want nothing, or want it very slowly, beside a load: a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time

from pruneonce.bench.serving.client import Target

TRICKLE_SECONDS = 1.0  # between the bytes of a head that is never finished
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 4096


class Crowd:
    """Every second connection trickles, the others are idle; one that the server closes comes again."""

    def __init__(self, target: Target, count: int) -> None:
        self._target, self._count = target, count
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work)
        self.open = 0  # now
        self.closed_by_server = 0

    def __enter__(self) -> Crowd:
        self._thread.start()
        deadline = time.monotonic() + 20
        while self.open < self._count and time.monotonic() < deadline:
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join()

    def _work(self) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._one(number) for number in range(self._count)))

        self._main = self._loop.create_task(all_of_them())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._main)
        self._loop.close()

    async def _one(self, number: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(self._target.host, self._target.port)
            except OSError:
                await asyncio.sleep(1)
                continue
            self.open += 1
            try:
                if number % 2:
                    for place in itertools.count():
                        writer.write(HEAD[place % len(HEAD) : place % len(HEAD) + 1])
                        await asyncio.sleep(TRICKLE_SECONDS)
                        if reader.at_eof() or writer.is_closing():
                            break
                else:
                    await reader.read(1)  # until the server closes
                self.closed_by_server += 1
            except OSError:
                self.closed_by_server += 1
            finally:
                self.open -= 1
                writer.close()
