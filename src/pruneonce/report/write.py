"""Both pages of a report, on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pruneonce.files import write_text
from pruneonce.report.collect import collect
from pruneonce.report.crossover import crossover
from pruneonce.report.figures import accuracy_by_sparsity, widely_run
from pruneonce.report.markdown import Picture, markdown
from pruneonce.report.page import STYLE, page
from pruneonce.report.picture import picture
from pruneonce.report.tables import tables

ACCURACY, SPEED = "accuracy", "crossover"


def write_report(paths: Sequence[Path], markdown_file: Path, html_file: Path) -> list[Path]:
    """Collect studies, runs and benchmark records, and write the pages; their paths.

    Beside the Markdown page lie its pictures, called after it (`picture_file`): accuracy of a study's main methods, and
    int8 where it was measured at several sparsities.
    """
    material = collect(paths)
    shown = tables(material)  # once: the bootstrap behind the differences takes seconds
    written = [markdown_file, html_file]
    style = STYLE.read_text(encoding="utf-8")
    pictures: dict[str, Picture] = {}
    for shows, (figure, _) in (
        (ACCURACY, accuracy_by_sparsity(material, widely_run(material))),
        (SPEED, crossover(material.benches)),
    ):
        if figure is not None:
            file = picture_file(markdown_file, shows)
            write_text(file, picture(figure, style))
            written.append(file)
            pictures[shows] = Picture(figure.title, file.name, figure.note)
    accuracy, speed = (pictures.get(shows) for shows in (ACCURACY, SPEED))
    write_text(markdown_file, markdown(material, shown, accuracy, speed))
    write_text(html_file, page(material, shown))
    return written


def picture_file(markdown_file: Path, shows: str) -> Path:
    """Of a page's picture of ACCURACY or SPEED: two pages in one folder have each their own."""
    return markdown_file.with_name(f"{markdown_file.stem}-{shows}.svg")
