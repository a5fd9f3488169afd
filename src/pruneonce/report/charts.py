"""Charts as SVG elements for a page that carries its own style sheet: lines, points with error bars, legends.

Drawn here, in plain SVG without a script, because colours must follow the page's light or dark mode and every text
comes from files: ElementTree escapes it. Colours are the classes s0 to s7 of page.css; shapes tell series apart
where colours repeat or cannot be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from pruneonce.report.markdown import clean

COLOURS = 8  # classes s0 ... s7
SHAPES = 4
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 46  # margins, px
TICKS = 5
DODGE = 5  # px between points of different series at the same x


@dataclass(frozen=True)
class Point:
    """One mark. `note` is what a reader sees who rests on it."""

    x: float
    y: float
    note: str = ""
    error: float | None = None  # half of the bar
    radius: float = 4.0  # px
    label: str = ""  # beside the mark


@dataclass(frozen=True)
class Series:
    """Points of one colour and shape."""

    name: str
    points: tuple[Point, ...]
    colour: int  # number of the series on the page: fixes colour and shape
    line: bool = True
    marks: bool = True


@dataclass(frozen=True)
class Figure:
    """Charts that share a title and a legend."""

    title: str
    charts: tuple[tuple[str, Element], ...]  # caption, chart
    legend: tuple[tuple[str, int], ...]  # name, colour
    note: str = ""


@dataclass(frozen=True)
class Level:
    """A horizontal line across the chart."""

    name: str
    y: float


@dataclass(frozen=True)
class Axis:
    """Title with its unit, how a value is written, and values that must have a tick."""

    title: str
    text: Callable[[float], str] = lambda value: f"{value:g}"
    ticks: tuple[float, ...] = ()
    from_zero: bool = False
    logarithmic: bool = False


def chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    label: str,
    levels: Sequence[Level] = (),
    width: int = 370,
    height: int = 255,
    dodge: bool = False,
) -> Element:
    """An SVG element. label: what it shows, for readers who do not see it. dodge: part series that share an x."""
    box, alone = f"0 0 {width} {height}", f"--alone: {1.15 * width:.0f}px"  # its width where no other is beside it
    svg = Element("svg", {"viewBox": box, "role": "img", "aria-label": clean(label), "class": "chart", "style": alone})
    xs = [point.x for each in series for point in each.points]
    ys = [point.y + sign * (point.error or 0) for each in series for point in each.points for sign in (-1, 1)]
    ys += [level.y for level in levels]
    if not xs:
        return svg
    across = _scale(xs, x, LEFT + (22 if dodge else 6), width - RIGHT - (22 if dodge else 6))
    up = _scale(ys, y, height - BOTTOM, TOP)
    for value in up.ticks:
        _line(svg, LEFT, up(value), width - RIGHT, up(value), "grid")
        _text(svg, LEFT - 7, up(value) + 4, y.text(value), "tick end")
    for value in across.ticks:
        _line(svg, across(value), height - BOTTOM, across(value), height - BOTTOM + 4, "axis")
        _text(svg, across(value), height - BOTTOM + 17, x.text(value), "tick middle")
    _line(svg, LEFT, height - BOTTOM, width - RIGHT, height - BOTTOM, "axis")
    _text(svg, (LEFT + width - RIGHT) / 2, height - 8, x.title, "label middle")
    middle = (TOP + height - BOTTOM) / 2
    _text(svg, 13, middle, y.title, "label middle", rotate=f"rotate(-90 13 {middle:.1f})")
    for level in levels:
        _line(svg, LEFT, up(level.y), width - RIGHT, up(level.y), "level")
        _text(svg, width - RIGHT, up(level.y) - 5, level.name, "tick end")
    for number, each in enumerate(series):
        offset = (number - (len(series) - 1) / 2) * min(DODGE, 36 / max(1, len(series))) if dodge else 0.0
        _draw(svg, each, [(across(point.x) + offset, up(point.y)) for point in each.points], up)
    return svg


def mark(colour: int) -> Element:
    """The sign of a series, for a legend."""
    svg = Element("svg", {"viewBox": "0 0 16 16", "class": f"key s{colour % COLOURS}", "aria-hidden": "true"})
    _line(svg, 0, 8, 16, 8, "line")
    _shape(svg, 8, 8, 4, colour)
    return svg


@dataclass(frozen=True)
class _Scale:
    """Values to pixels."""

    low: float
    high: float
    begin: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.begin + (self.end - self.begin) * (value - low) / (high - low)


def _scale(values: Sequence[float], axis: Axis, begin: float, end: float) -> _Scale:
    low, high = min(values), max(values)
    if axis.logarithmic and low > 0:
        low, high = low / 1.2, high * 1.2
        ticks = [m * 10.0**e for e in range(-6, 9) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
        return _Scale(low, high, begin, end, tuple(ticks), True)
    if axis.ticks:
        low, high = min(low, *axis.ticks), max(high, *axis.ticks)
        if low == high:
            low, high = low - 1, high + 1
        return _Scale(low, high, begin, end, axis.ticks, False)
    if axis.from_zero:
        low = min(low, 0.0)
    if low == high:
        low, high = low - (abs(low) or 1) * 0.05, high + (abs(high) or 1) * 0.05
    step = _step((high - low) / TICKS)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    count = round((high - low) / step)
    return _Scale(low, high, begin, end, tuple(low + step * number for number in range(count + 1)), False)


def _step(rough: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def _draw(svg: Element, series: Series, places: Sequence[tuple[float, float]], up: _Scale) -> None:
    group = SubElement(svg, "g", {"class": f"s{series.colour % COLOURS}"})
    if series.line and len(places) > 1:
        path = " ".join(f"{'M' if not number else 'L'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(places))
        line = SubElement(group, "path", {"d": path, "class": "line"})
        SubElement(line, "title").text = clean(series.name)
    for point, (x, y) in zip(series.points, places, strict=True):
        if point.error:
            top, bottom = up(point.y + point.error), up(point.y - point.error)
            for ends in ((x, top, x, bottom), (x - 3, top, x + 3, top), (x - 3, bottom, x + 3, bottom)):
                _line(group, *ends, "error")
        if series.marks:
            shape = _shape(group, x, y, point.radius, series.colour)
            SubElement(shape, "title").text = clean(point.note or series.name)
        if point.label:
            _text(svg, x + point.radius + 4, y + 4, point.label, "tick")


def _shape(parent: Element, x: float, y: float, radius: float, colour: int) -> Element:
    """Circle, square, triangle or diamond, in turn."""
    kind = (colour + colour // COLOURS) % SHAPES
    if kind == 0:
        return SubElement(parent, "circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:.1f}", "class": "mark"})
    corners = {
        1: [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        2: [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
        3: [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
    }[kind]
    points = " ".join(f"{x + radius * a:.1f},{y + radius * b:.1f}" for a, b in corners)
    return SubElement(parent, "polygon", {"points": points, "class": "mark"})


def _line(parent: Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    places = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    SubElement(parent, "line", {**{name: f"{value:.1f}" for name, value in places.items()}, "class": kind})


def _text(parent: Element, x: float, y: float, text: str, kind: str, rotate: str = "") -> None:
    attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": kind, **({"transform": rotate} if rotate else {})}
    SubElement(parent, "text", attributes).text = clean(text)
