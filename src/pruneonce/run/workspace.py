"""Space for the activations of a pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pruneonce._native import Activations, Codes


class Workspace:
    """Activations and codes by what they are for; not for use by two threads at once.

    Their memory grows to that of the largest pass and stays, since fresh pages cost time.
    """

    def __init__(self, isa: str) -> None:
        self._isa = isa
        self._activations: dict[tuple[str, int], Activations] = {}
        self.codes, self.intermediate_codes = Codes(isa=isa), Codes(isa=isa)

    def activations(self, purpose: str, features: int) -> Activations:
        """[features, tokens], the same each time; whatever was in it is there until it is written over."""
        key = purpose, features
        if key not in self._activations:
            self._activations[key] = Activations(features, isa=self._isa)
        return self._activations[key]


class Workspaces:
    """Workspaces of a model's calls: as many as ever ran at once, however many threads they came from."""

    def __init__(self, isa: str) -> None:
        self._isa = isa
        self._idle: list[Workspace] = []

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Workspace]:
        """One that no other call has until this one gives it back; what lies in it is then anybody's."""
        try:
            space = self._idle.pop()  # atomic, as append is
        except IndexError:
            space = Workspace(self._isa)
        try:
            yield space
        finally:
            self._idle.append(space)
