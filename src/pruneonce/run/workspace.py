"""Space for the activations of a pass."""

from __future__ import annotations

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
