"""A report as one HTML page that needs nothing else: no network, no script, no font, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from pruneonce.bench.inference import results
from pruneonce.report.charts import Figure, mark
from pruneonce.report.collect import Material
from pruneonce.report.figures import Heat, figures, heats
from pruneonce.report.markdown import clean, software
from pruneonce.report.tables import SPEED_COLUMNS, TextTable, speed_rows

LONG_TABLE = 15  # rows; longer ones are folded, but for the first on the page
STYLE = Path(__file__).with_name("page.css")


def page(material: Material, shown: Sequence[TextTable]) -> str:
    """The whole page. Every text is set as text, so that nothing in a file can be markup."""
    html = Element("html", {"lang": "en"})
    head = SubElement(html, "head")
    SubElement(head, "meta", {"charset": "utf-8"})
    SubElement(head, "meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    # The page asks for nothing, and could not if it wanted to.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    _add(head, "title", f"Results: {material.title}")
    SubElement(head, "style").text = STYLE.read_text(encoding="utf-8")
    body = SubElement(html, "body")
    _add(body, "h1", f"Results: {material.title}")
    _add(body, "p", "Written by pruneonce report; every number follows from the run folders.", "note")
    if material.source:
        _add(body, "p", material.source)
    made, not_drawn = figures(material)
    for table in shown[:1]:
        _add_table(body, table, folds=False)
    for figure in made:
        _add_figure(body, figure)
    _add_heats(body, heats(material))
    for table in shown[1:]:
        _add_table(body, table)
    _add_benches(body, material)
    _add_list(body, "Not there", [*material.missing, *not_drawn])
    if versions := software(material):
        _add(body, "h2", "Software")
        _add(body, "p", versions)
    return "<!doctype html>\n" + ElementTree.tostring(html, encoding="unicode", method="html") + "\n"


def _add(parent: Element, tag: str, text: str, kind: str = "") -> Element:
    element = SubElement(parent, tag, {"class": kind} if kind else {})
    element.text = clean(text)
    return element


def _add_table(body: Element, table: TextTable, *, folds: bool = True) -> None:
    _add(body, "h2", table.title)
    place = body
    if folds and len(table.rows) > LONG_TABLE:
        place = SubElement(body, "details")
        _add(place, "summary", f"{len(table.rows)} rows")
    _add_rows(place, table.columns, table.rows, table.left)
    if table.note:
        _add(place, "p", table.note, "note")


def _add_rows(body: Element, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    element = SubElement(SubElement(body, "div", {"class": "wide"}), "table")
    for tag, cells in (("th", columns), *(("td", row) for row in rows)):
        line = SubElement(element, "tr")
        for number, cell in enumerate(cells):
            _add(line, tag, cell, "left" if number < left else "")


def _add_figure(body: Element, figure: Figure) -> None:
    _add(body, "h2", figure.title)
    legend = SubElement(body, "ul", {"class": "legend"})
    for name, colour in figure.legend:
        item = SubElement(legend, "li")
        item.append(mark(colour))
        _add(item, "span", name)
    grid = SubElement(body, "div", {"class": "grid" if len(figure.charts) > 1 else "grid single"})
    for caption, drawn in figure.charts:
        box = SubElement(grid, "figure")
        if caption:
            _add(box, "figcaption", caption)
        box.append(drawn)
    if figure.note:
        _add(body, "p", figure.note, "note")


def _add_heats(body: Element, found: Sequence[Heat]) -> None:
    if not found:
        return
    _add(body, "h2", "Sparsity of every matrix")
    for heat in found:
        _add(body, "h3", heat.title)
        element = SubElement(SubElement(body, "div", {"class": "wide"}), "table")
        line = SubElement(element, "tr")
        _add(line, "th", "layer", "left")
        for column in heat.columns:
            _add(line, "th", column)
        for kind, values in heat.rows:
            line = SubElement(element, "tr")
            _add(line, "td", kind, "left")
            for value in values:
                cell = _add(line, "td", "" if value is None else f"{100 * value:.2f}", "heat")
                if value is not None:
                    cell.set("style", f"background: rgb(var(--heat) / {0.55 * value:.3f})")
    _add(body, "p", "Zeros in percent.", "note")


def _add_benches(body: Element, material: Material) -> None:
    for record in material.benches:
        title, *rest = results.summary(record)
        _add(body, "h2", f"Speed: {title}")
        items = SubElement(body, "ul")
        for line in rest:
            _add(items, "li", line)
        for case in record.cases:
            _add(body, "h3", case.name)
            _add_rows(body, SPEED_COLUMNS, speed_rows(case), 1)
            _add(body, "p", results.limits(record, case), "note")
            if rows := results.process_rows(record, case):
                _add_rows(body, results.PROCESS_COLUMNS, rows, 1)
                _add(body, "p", results.PROCESSES, "note")


def _add_list(body: Element, title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    _add(body, "h2", title)
    items = SubElement(body, "ul")
    for line in lines:
        _add(items, "li", line)
