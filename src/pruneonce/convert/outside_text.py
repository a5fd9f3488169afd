"""Text from outside, such as names of models, files and labels, as a page may show it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LONGEST_NAME = 100  # characters shown of a name from outside


def section(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a recipe; empty where there is none."""
    section = recipe.get(name)
    return section if isinstance(section, Mapping) else {}


def count_of(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else plain(value)


def last_part(path: Any) -> str:
    """The last part of a path: the rest is the machine's business."""
    parts = [part for part in re.split(r"[/\\]", str(path)) if part not in ("", ".", "..", "~")]
    return clean(parts[-1]) if parts else ""


def clean(value: Any) -> str:
    """On one line, valid Unicode, not too long."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def plain(value: Any) -> str:
    """Such that Markdown and HTML take it for plain text."""
    return re.sub(r"([\\`*_\[\]<>|#&~$!])", r"\\\1", clean(value))
