"""A report as Markdown, in the form of docs/results.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pruneonce.bench.inference import results
from pruneonce.formats.record import Provenance
from pruneonce.report.collect import Material
from pruneonce.report.tables import TextTable

HEADER = "Written by `pruneonce report`; do not edit."


@dataclass(frozen=True)
class Picture:
    """One that lies beside the page."""

    title: str
    file: str
    note: str


def markdown(
    material: Material, shown: Sequence[TextTable], accuracy: Picture | None = None, speed: Picture | None = None
) -> str:
    """The whole page. Text from files is escaped: a run's name cannot become a link, a tag or another cell."""
    parts = [f"# Results: {escape(material.title)}\n{HEADER}\n"]
    if material.source:
        parts.append(f"{escape(material.source)}\n")
    if accuracy is not None:
        parts.append(_shown(accuracy))
    parts += [markdown_table(table) for table in shown]
    if versions := software(material):
        parts.append(f"## Software\n{escape(versions)}\n")
    if material.missing:
        parts.append("## Not there\n" + "\n".join(f"- {escape(each)}" for each in material.missing) + "\n")
    if material.benches:
        page = results.markdown(material.benches).partition("\n")[2]  # without its title
        if speed is not None:
            parts.append(_shown(speed))
        parts.append("## Speed\n" + re.sub(r"(?m)^(#+) ", r"#\1 ", page))
    return "\n".join(parts)


def markdown_table(table: TextTable) -> str:
    """A title, the table, its note."""
    lines = [f"## {escape(table.title)}", _row(table.columns)]
    lines.append("|" + "---|" * table.left + "---:|" * (len(table.columns) - table.left))
    lines += [_row(row) for row in table.rows]
    return "\n".join([*lines, "", escape(table.note), ""])


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(clean(text).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def clean(text: str) -> str:
    """Without control characters and halves of surrogate pairs, which no page can hold."""
    kept = "".join(character for character in text if character in "\n\t" or ord(character) >= 32)
    return kept.encode("utf-8", "replace").decode("utf-8")


def software(material: Material) -> str:
    """Versions that made the runs, each combination once."""
    records: list[Provenance] = [run.record for group in material.groups for run in group.runs]
    found = dict.fromkeys(", ".join(f"{name} {each}" for name, each in record.versions.items()) for record in records)
    return "; ".join(found)


def _shown(picture: Picture) -> str:
    title = escape(picture.title)
    return f"## {title}\n![{title}]({picture.file})\n\n{escape(picture.note)}\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |"
