"""Both pages of a report, on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pruneonce.files import write_text
from pruneonce.report.collect import collect
from pruneonce.report.markdown import markdown
from pruneonce.report.page import page
from pruneonce.report.tables import tables


def write_report(paths: Sequence[Path], markdown_file: Path, html_file: Path) -> list[Path]:
    """Collect studies, runs and benchmark records, and write the pages; their paths."""
    material = collect(paths)
    shown = tables(material)  # once: the bootstrap behind the differences takes seconds
    write_text(markdown_file, markdown(material, shown))
    write_text(html_file, page(material, shown))
    return [markdown_file, html_file]
