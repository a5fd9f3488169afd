"""Both pages of a report, on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pruneonce.files import write_text
from pruneonce.report.collect import collect
from pruneonce.report.crossover import crossover, standalone
from pruneonce.report.markdown import markdown
from pruneonce.report.page import STYLE, page
from pruneonce.report.tables import tables

PICTURE = "crossover.svg"


def write_report(paths: Sequence[Path], markdown_file: Path, html_file: Path) -> list[Path]:
    """Collect studies, runs and benchmark records, and write the pages; their paths.

    Where int8 was measured at several sparsities, its picture lies beside the Markdown page.
    """
    material = collect(paths)
    shown = tables(material)  # once: the bootstrap behind the differences takes seconds
    written = [markdown_file, html_file]
    picture = None
    figure, _ = crossover(material.benches)
    if figure is not None:
        file = markdown_file.with_name(PICTURE)
        write_text(file, standalone(figure, STYLE.read_text(encoding="utf-8")))
        picture, written = (figure.title, PICTURE), [*written, file]
    write_text(markdown_file, markdown(material, shown, picture))
    write_text(html_file, page(material, shown))
    return written
