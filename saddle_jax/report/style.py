"""One style for all figures, and how they are saved: files on white, and SVG that follows the report page's colors.

Does not need JAX. Nothing here uses pyplot, whose state belongs to the user of a notebook.
"""

from __future__ import annotations

import io
import itertools
import pathlib
import re
import textwrap
import weakref
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image  # comes with matplotlib, which requires it

INK, SOFT, LINE, PAPER = "#1b1f24", "#59636e", "#d8dde3", "#ffffff"
WHITE = "#fefefe"  # stays white in dark mode; PAPER is the color of the page
# Okabe and Ito, 2008, for color-blind readers; orange is darker than theirs.
SERIES = ("#d55e00", "#0072b2", "#009e73", "#c0619a", "#b37700", "#3d9bd4", INK, "#8a8f96")
# The same for words, which need more contrast than lines do: 4.5 on white, as WCAG 2.2 asks for.
_WORDS = ("#b34f00", "#0072b2", "#007a59", "#a84a86", "#8a5c00", "#1f7896", INK, "#6a7077")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # keep series distinct in grayscale
LINES = ("-", "--", ":")
_DARK = ("#ff8b3d", "#5cb3f0", "#2bc79a", "#e59cc6", "#ffc04d", "#a3dcff", "", "#9aa4b0")  # SERIES on a dark page

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.facecolor": PAPER,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",  # text stays text: it is small, searchable, and in the page's own font
    "svg.hashsalt": "saddle_jax",  # the same figure gives the same file
}
styled = matplotlib.rc_context(RC)  # a decorator: what the function draws has this style

LETTERS, _SHORT = 64, 26  # per line of a legend; labels of at most `_SHORT` letters are set two in a row
LINE_HEIGHT = 0.18  # inches
_EDGE = 0.03  # of an axis' height: no label goes lower, where the other axis has its labels

_POINTS: MutableMapping[Line2D, Sequence[str]] = weakref.WeakKeyDictionary()  # what the markers of a line are

_ROLES = {
    **{color: f"--words-{place}" for place, color in enumerate(_WORDS)},
    **{color: f"--series-{place}" for place, color in enumerate(SERIES)},
    **{INK: "--ink", SOFT: "--soft", LINE: "--line", PAPER: "--page", "#000000": "--ink"},
}


def _variables(kind: str, colors: Sequence[str]) -> str:
    return " ".join(f"--{kind}-{place}: {color};" for place, color in enumerate(colors) if color != INK and color)


# For the page that holds inline figures. It defines --ink, --soft, --line, and --page itself.
CSS = f"""
:root {{ {_variables("series", SERIES)} {_variables("words", _WORDS)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables("series", _DARK)} {_variables("words", _DARK)} }} }}
figure svg {{ display: block; width: 100%; height: auto; stroke-linejoin: round; }}
figure svg text {{ fill: var(--ink); font-family: "DejaVu Sans", Verdana, system-ui, sans-serif; }}
"""


@styled
def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of a size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def series() -> Iterator[tuple[str, str]]:
    """Yield the color and the marker of one series after the other, without end."""
    return itertools.cycle(zip(SERIES, MARKERS, strict=True))


def words(color: str) -> str:
    """Return the color for words about a series of the color."""
    return _WORDS[SERIES.index(color)]


def legend(figure: Figure) -> None:
    """Add a legend above the axes. The figure grows with it, so that the axes keep their size."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns, size = (2, "medium") if max(map(len, labels)) <= _SHORT else (1, "small")
    lines = [plain(textwrap.fill(label, LETTERS)) for label in labels]
    made = figure.legend(handles, lines, loc="outside upper left", ncols=columns, fontsize=size)
    height = made.get_window_extent().height / figure.dpi
    figure.set_figheight(figure.get_figheight() + max(0.0, height - 2 * LINE_HEIGHT))  # two lines fit as it is


def name_points(line: Line2D, names: Sequence[str]) -> None:
    """Name each marker of a line. A page shows that under the pointer, and reads it aloud; see `render`."""
    _POINTS[line] = names


def interval(means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Return the lengths of error bars below and above means in percent, which end at 0 and at 100."""
    return np.stack([means - np.maximum(means - deviations, 0), np.minimum(means + deviations, 100) - means])


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each line's name behind its end, apart from each other. Call it when the axes have their final limits.

    Args:
      axes: the axes.
      ends: x, y, name, and color of each line.
    """
    height = axes.get_window_extent().height or 1.0
    apart = 1.25 * axes.figure.dpi / 72 * RC["font.size"] / height  # of the axes' height
    to_axes = axes.transData + axes.transAxes.inverted()
    places = sorted(((to_axes.transform((x, y))[1], x, y, name, color) for x, y, name, color in ends))
    heights = np.array([place[0] for place in places])
    heights = _spread(heights, apart)
    for new, (_, x, y, name, color) in zip(heights, places, strict=True):
        axes.annotate(
            plain(name), (x, y), (1.05, new), textcoords="axes fraction", va="center", color=words(color),
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 0, "relpos": (0, 0.5)},
        )  # fmt: skip


def _spread(heights: np.ndarray, apart: float) -> np.ndarray:
    """Return rising heights in [0, 1] moved as far as needed for each to be `apart` from the next, if there is room."""
    spread = np.array(heights, float)
    for _ in range(50):  # push neighbors away from each other until none overlap
        for low in range(len(spread) - 1):
            overlap = max(0.0, apart - (spread[low + 1] - spread[low]))
            spread[low] -= overlap / 2
            spread[low + 1] += overlap / 2
    slots = apart * np.arange(len(spread))
    lowest, highest = slots + _EDGE, 1 - slots[::-1]
    return np.minimum(np.maximum(spread, lowest), np.maximum(highest, lowest))


def note(figure: Figure, text: str) -> None:
    """Write sentences in small letters below the axes, in lines that fit."""
    letters = int(16 * figure.get_figwidth())
    lines = [textwrap.fill(line, letters) for line in text.split("\n")]
    figure.supxlabel(plain("\n".join(lines)), x=0.02, ha="left", fontsize="small", color=SOFT)


def plain(text: str) -> str:
    """Return the text escaped so that matplotlib does not render it as math."""
    return text.replace("$", r"\$")


@styled
def png(figure: Figure, dpi: int = 130) -> bytes:
    """Return the figure as a PNG on white, with few colors, so that it is small."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    Image.open(drawn).convert("RGB").quantize(128).save(small, format="png", optimize=True)
    return small.getvalue()


def resized(image_HWK: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an RGB image of uint8 in another size. Pixels that become larger stay squares of one color."""
    grows = height >= image_HWK.shape[0] and width >= image_HWK.shape[1]
    method = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(np.ascontiguousarray(image_HWK)).resize((width, height), method))


@styled
def save(figure: Figure, path: pathlib.Path) -> pathlib.Path:
    """Save the figure as PNG, PDF, and SVG, all on white; return the PNG's path.

    Args:
      figure: the figure.
      path: of the files, without the ending.
    """
    for ending, options in ((".png", {"dpi": 150}), (".pdf", {}), (".svg", {"metadata": {"Date": None}})):
        figure.savefig(path.with_name(path.name + ending), **options)
    return path.with_name(path.name + ".png")


def animate(frames: Sequence[bytes], path: pathlib.Path, seconds: float) -> pathlib.Path:
    """Save PNGs of one size as a GIF that repeats, and rests on the last one; return its path."""
    first, *rest = [
        Image.open(io.BytesIO(frame)).convert("RGB").quantize(64, dither=Image.Dither.NONE) for frame in frames
    ]
    durations = [round(1000 * seconds)] * len(rest) + [round(4000 * seconds)]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)
    return path


class Rendered(NamedTuple):
    """A figure for a page, and the same as files on white."""

    inline: str  # SVG
    files: Mapping[str, bytes]  # by their endings


@styled
def render(figure: Figure) -> Rendered:
    """Return the figure as SVG for a page with `CSS`, in the page's light or dark colors, and as files on white.

    It is laid out once, because that takes the longest.
    """
    svg = io.StringIO()
    lines = [line for line in figure.findobj(Line2D) if line in _POINTS]
    for number, line in enumerate(lines):
        line.set_gid(f"points-{number}")
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    figure.set_layout_engine("none")
    files = {".svg": svg.getvalue().encode(), ".pdf": _pdf(figure)}
    return Rendered(_inlined(svg.getvalue(), [_POINTS[line] for line in lines]), files)


def _pdf(figure: Figure) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="pdf", metadata={"CreationDate": None})
    return drawn.getvalue()


def _inlined(svg: str, titles: Sequence[Sequence[str]]) -> str:
    """Return an SVG for a page: in the page's colors, without what a page does not need, and with titles of marks."""
    root = ElementTree.fromstring(svg)  # noqa: S314 (our own text); leaves out comments
    for number, its_titles in enumerate(titles):
        _add_titles(root, f"points-{number}", its_titles)
    used = set(re.findall(r"#([\w-]+)", svg))
    for parent in root.iter():
        for child in list(parent):
            if _name(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _name(element.tag)
        attributes = {_name(key): _short(_name(key), value) for key, value in element.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        element.attrib.clear()
        element.attrib.update(attributes)
        if not (element.text or "").strip():
            element.text = None
        element.tail = None
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    return ElementTree.tostring(root, encoding="unicode")


def _add_titles(root: ElementTree.Element, group: str, titles: Sequence[str]) -> None:
    """Give each marker of a group a title, which browsers show under the pointer."""
    (found,) = (element for element in root.iter() if element.get("id") == group)
    markers = [element for element in found.iter() if _name(element.tag) == "use"]
    for marker, text in zip(markers, titles, strict=True):
        marker.set("role", "img")  # a screen reader passes over marks that have none
        ElementTree.SubElement(marker, "title").text = text


def _name(name: str) -> str:
    """Return a tag or an attribute without its namespace, which HTML does not need."""
    return name.rsplit("}", 1)[-1]


def _short(key: str, value: str) -> str:
    if key == "style":
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        return re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found[0]), value)
    if key in ("d", "points", "x", "y", "transform"):
        return re.sub(r"(\.\d\d)\d+", r"\1", value).replace("\n", "").replace(" \n", " ")
    return value


def _variable(color: str) -> str:
    return f"var({_ROLES[color]})" if color in _ROLES else color
