"""A figure as one SVG file, for pages that cannot hold it: charts in rows, the legend below them."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from pruneonce.report.charts import Figure, mark
from pruneonce.report.markdown import clean

PANEL_WIDTH, PANEL_HEIGHT = 370, 255  # px, of a chart
CAPTION_HEIGHT, KEY_WIDTH, KEY_HEIGHT = 24, 300, 26
LEFT = 58
COLUMNS = 3


def picture(figure: Figure, style: str) -> str:
    """The text of the file. style: the sheet that the charts' classes are in."""
    columns = min(COLUMNS, len(figure.charts))
    width = PANEL_WIDTH * columns
    below = (CAPTION_HEIGHT + PANEL_HEIGHT) * -(-len(figure.charts) // columns)
    keys = max(1, (width - LEFT) // KEY_WIDTH)
    height = below + 14 + KEY_HEIGHT * -(-len(figure.legend) // keys)
    svg = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "role": "img",
            "aria-label": clean(figure.title),
        },
    )
    SubElement(svg, "style").text = style
    SubElement(svg, "rect", {"width": "100%", "height": "100%", "style": "fill: var(--panel)"})
    for number, (caption, drawn) in enumerate(figure.charts):
        x, y = PANEL_WIDTH * (number % columns), (CAPTION_HEIGHT + PANEL_HEIGHT) * (number // columns)
        _label(svg, x + LEFT, y + 16, caption)
        # Its size here is that of the view box, not the page's.
        drawn.attrib |= {"x": str(x), "y": str(y + CAPTION_HEIGHT), "style": ""}
        drawn.attrib |= {"width": str(PANEL_WIDTH), "height": str(PANEL_HEIGHT)}
        svg.append(drawn)
    for number, (name, colour) in enumerate(figure.legend):
        x, y = LEFT + KEY_WIDTH * (number % keys), below + 2 + KEY_HEIGHT * (number // keys)
        sign = mark(colour)
        sign.attrib |= {"x": str(x), "y": str(y), "width": "16", "height": "16"}
        svg.append(sign)
        _label(svg, x + 22, y + 12, name)
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def _label(svg: Element, x: int, y: int, text: str) -> None:
    SubElement(svg, "text", {"x": str(x), "y": str(y), "class": "label"}).text = clean(text)
