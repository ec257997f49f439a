"""Drawings of a few primitives: written as SVG here, and as PNG or PDF by matplotlib where that is installed.

Lengths are CSS pixels, y grows downwards. Text is measured by a table of character widths, so that a layout can keep it clear
of everything else without asking a renderer. Colours come as (on white, on black) pairs that differ in lightness and hue for
every kind of colour vision (Okabe and Ito's palette, darkened to a contrast of at least 4.5 on white).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape

# Widths of " " to "~" in DejaVu Sans, in hundredths of the size: the widest of the common sans-serif fonts but for Verdana, which
# equals it. So a text never needs more than its estimate.
_WIDTHS = [int(w) for w in (
    "32 40 46 84 64 95 78 27 39 39 50 84 32 36 32 34 64 64 64 64 64 64 64 64 64 64 34 34 84 84 84 53 100 68 69 70 77 63 58 77 75 "
    "29 29 66 56 86 75 79 60 79 69 63 61 73 68 99 69 61 69 39 34 39 84 50 50 61 63 55 63 62 35 63 63 28 28 58 28 97 63 61 63 63 "
    "41 52 39 63 59 82 59 59 52 64 34 64 84").split()]
_BOLD = 1.2  # bold letters are wider
_FAMILY = "'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif"

INK = ("#1f2328", "#e6edf3")
FAINT = ("#57606a", "#9aa4ae")
LINE = ("#7a838c", "#8b949e")
GRID = ("#e3e6e9", "#30363d")
NODE = ("#eef1f4", "#2a2f36")
PAPER = ("#ffffff", "#16191d")
VALUE = ("#00704f", "#4fd1a5")
GRADIENT = ("#b23b00", "#ff9a57")
SERIES = [("#0b5fa5", "#6cb6ff"), GRADIENT, VALUE, ("#8a3f8f", "#d8a0dc"), ("#7a5c00", "#e3b341"), ("#1f2328", "#e6edf3")]


def text_width(text, size, bold=False) -> float:
    """What `text` takes in a sans-serif font, rather too much than too little."""
    total = 0
    for c in text:
        code = ord(c)
        total += _WIDTHS[code - 32] if 32 <= code < 127 else 100 if code < 0x3000 else 110
    return total * size * (_BOLD if bold else 1.0) / 100 + 1


def clean(text, limit=60) -> str:
    """`text` on one line, without what XML cannot hold; over `limit` characters the middle is left out."""
    text = " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in str(text)).split())
    return text if len(text) <= limit else f"{text[:limit // 2]}\u2026{text[-(limit // 2 - 1):]}"


@dataclass
class Text:
    """One line of text. `y` is its baseline, `anchor` start, middle or end; `tip` is shown where the mouse rests."""

    x: float
    y: float
    text: str
    color: tuple = INK
    size: float = 12
    anchor: str = "middle"
    bold: bool = False
    tip: str = ""

    def box(self):
        """(left, top, right, bottom)."""
        w = text_width(self.text, self.size, self.bold)
        left = self.x - {"start": 0, "middle": w / 2, "end": w}[self.anchor]
        return left, self.y - 0.8 * self.size, left + w, self.y + 0.24 * self.size


@dataclass
class Rect:
    """A rectangle with round corners; a circle where `radius` is half its side."""

    x: float
    y: float
    width: float
    height: float
    radius: float = 0
    fill: tuple | None = NODE
    stroke: tuple | None = LINE
    dash: bool = False

    def box(self):
        return self.x, self.y, self.x + self.width, self.y + self.height


@dataclass
class Path:
    """A line through `points`, or with ``curve=True`` cubic Bezier pieces: a start, then two control points and an end for
    each. With `fill` it is closed."""

    points: list
    stroke: tuple | None = LINE
    fill: tuple | None = None
    width: float = 1.3
    dash: str = ""
    curve: bool = False

    def box(self):
        xs, ys = zip(*self.points)
        return min(xs), min(ys), max(xs), max(ys)


class Picture:
    """A drawing: Jupyter shows it by itself, `save` writes it.

    Attributes
    ----------
    svg : str
        A self-contained SVG document, with a title and a description for those who cannot see it.
    items : list of Text, Rect and Path
    width, height : float
    """

    def __init__(self, items, width, height, title, description=""):
        self.items, self.width, self.height = list(items), float(width), float(height)
        self.title, self.description = clean(title, 200), clean(description, 10_000)

    def _repr_svg_(self):
        return self.svg

    def __repr__(self):
        return f"<Picture {self.title!r}, {self.width:.0f} x {self.height:.0f}: save(path) writes .svg, .png or .pdf>"

    @property
    def svg(self) -> str:
        return _svg(self)

    def save(self, path, scale=2.0) -> None:
        """Write the picture in the format that the name ends with.

        Parameters
        ----------
        path : str or PathLike
            ``.svg`` needs nothing; ``.png`` and ``.pdf`` need matplotlib.
        scale : float
            Pixels of a PNG for each unit of the drawing.

        Raises
        ------
        ValueError
            For any other ending.
        ImportError
            Where matplotlib is needed and not installed.
        """
        ending = os.path.splitext(os.fspath(path))[1].lower()
        if ending not in (".svg", ".png", ".pdf"):
            raise ValueError(f"path must end with .svg, .png or .pdf, got {os.fspath(path)!r}")
        if not (isinstance(scale, (int, float)) and 0 < scale <= 20):
            raise ValueError(f"scale must be a number above 0, at most 20, got {scale!r}")
        if ending == ".svg":
            with open(path, "w", encoding="utf-8", newline="\n") as file:
                file.write(self.svg)
            return
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise ImportError(f"{ending[1:].upper()} pictures are drawn by matplotlib, which is not installed: "
                              "pip install backprop[view]; or save as .svg, which needs nothing") from None
        _matplotlib(self, scale).savefig(path, format=ending[1:], metadata={"Title": self.title} if ending == ".pdf" else None)


# ---------------------------------------------------------------- SVG

def _number(v):
    return f"{v:.1f}".rstrip("0").rstrip(".") if v else "0"


def _paint(kind, color, used):
    """Attribute and class of a fill or stroke; the class lets the dark scheme replace it."""
    if color is None:
        return f'{kind}="none"', ""
    used.add((kind, color))
    return f'{kind}="{color[0]}"', f"bp-{kind[0]}{color[0][1:]}"


def _shape(tag, geometry, fill, stroke, more, used, body=""):
    paints = [_paint("fill", fill, used), _paint("stroke", stroke, used)] if tag != "text" else [_paint("fill", fill, used)]
    classes = " ".join(c for _, c in paints if c)
    return f'<{tag} {geometry} {" ".join(a for a, _ in paints)}{more} class="{classes}"' + (f">{body}</{tag}>" if body else "/>")


def _svg_item(item, used):
    n = _number
    if isinstance(item, Text):
        tip = f"<title>{escape(item.tip, quote=False)}</title>" if item.tip else ""
        more = f' font-size="{n(item.size)}" text-anchor="{item.anchor}"' + (' font-weight="bold"' if item.bold else "")
        return _shape("text", f'x="{n(item.x)}" y="{n(item.y)}"', item.color, None, more, used,
                      tip + escape(item.text, quote=False))
    if isinstance(item, Rect):
        geometry = (f'x="{n(item.x)}" y="{n(item.y)}" width="{n(item.width)}" height="{n(item.height)}"'
                    + (f' rx="{n(item.radius)}"' if item.radius else ""))
        return _shape("rect", geometry, item.fill, item.stroke, ' stroke-dasharray="5 3"' if item.dash else "", used)
    points = [f"{n(x)} {n(y)}" for x, y in item.points]
    if item.curve:
        d = f"M{points[0]}" + "".join(f"C{a} {b} {c}" for a, b, c in zip(points[1::3], points[2::3], points[3::3]))
    else:
        d = f"M{points[0]}" + "".join(f"L{p}" for p in points[1:])
    more = f' stroke-width="{n(item.width)}"' + (f' stroke-dasharray="{item.dash}"' if item.dash else "")
    return _shape("path", f'd="{d}{"Z" if item.fill else ""}"', item.fill, item.stroke, more, used)


def _svg(picture):
    used: set = set()
    w, h = _number(picture.width), _number(picture.height)
    paper = _svg_item(Rect(0, 0, picture.width, picture.height, fill=PAPER, stroke=None), used)
    body = [_svg_item(item, used) for item in picture.items]
    dark = "".join(f".bp-{kind[0]}{c[0][1:]}{{{kind}:{c[1]}}}" for kind, c in sorted(used))
    title, description = escape(picture.title, quote=True), escape(picture.description, quote=True)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        f'style="max-width:100%;height:auto" role="img" aria-label="{title}" font-family="{_FAMILY}">',
        f"<title>{title}</title>", f"<desc>{description}</desc>",
        f"<style>@media (prefers-color-scheme: dark){{{dark}}}</style>", paper, *body, "</svg>", ""])


# ---------------------------------------------------------------- matplotlib

def _round(rect, curve):
    """Points and codes of a rectangle; a quarter of a circle is a cubic with handles of 0.5523 of its radius."""
    r, points = rect.radius, []
    for x, y, dx, dy in ((0, 0, 0, 1), (1, 0, -1, 0), (1, 1, 0, -1), (0, 1, 1, 0)):  # corner, direction from where it is reached
        x, y = rect.x + x * rect.width, rect.y + y * rect.height
        ends = [(x + r * dx, y + r * dy), (x + 0.4477 * r * dx, y + 0.4477 * r * dy),
                (x + 0.4477 * r * dy, y - 0.4477 * r * dx), (x + r * dy, y - r * dx)]
        points += ends
    codes = [curve.LINETO, curve.CURVE4, curve.CURVE4, curve.CURVE4] * 4
    return points + points[:1], [curve.MOVETO, *codes[1:], curve.CLOSEPOLY]


def _matplotlib(picture, scale):
    """The same primitives on a matplotlib figure, one unit to a point."""
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve
    figure = Figure(figsize=(picture.width / 72, picture.height / 72), dpi=72 * scale, facecolor=PAPER[0])
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, picture.width)
    axes.set_ylim(picture.height, 0)
    axes.set_axis_off()
    for z, item in enumerate(picture.items, 2):
        if isinstance(item, Text):
            axes.text(item.x, item.y, item.text, color=item.color[0], fontsize=item.size, va="baseline", zorder=z,
                      ha={"start": "left", "middle": "center", "end": "right"}[item.anchor], family="DejaVu Sans",
                      weight="bold" if item.bold else "normal", parse_math=False)
            continue
        if isinstance(item, Rect):
            patch = PathPatch(Curve(*_round(item, Curve)))
            dash = (0, (5, 3)) if item.dash else "-"
        else:
            codes = [Curve.MOVETO] + [Curve.CURVE4 if item.curve else Curve.LINETO] * (len(item.points) - 1)
            closed = item.fill is not None
            patch = PathPatch(Curve(item.points + item.points[:1] * closed, codes + [Curve.CLOSEPOLY] * closed))
            dash = (0, tuple(float(v) for v in item.dash.split())) if item.dash else "-"
        patch.set(facecolor=item.fill[0] if item.fill else "none", edgecolor=item.stroke[0] if item.stroke else "none",
                  linewidth=getattr(item, "width", 1) if isinstance(item, Path) else 1, linestyle=dash, zorder=z, clip_on=False,
                  capstyle="butt")
        axes.add_patch(patch)
    return figure
