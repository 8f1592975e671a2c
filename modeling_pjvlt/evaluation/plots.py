"""The graphics of a report: curves as inline SVG, frames as JPEG data URIs, and their colours."""

import base64
import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

NUM_COLORS = 8  # the page defines --series-0 to --series-7; further lines are dashed
NUM_PARTS = 3  # and --part-0 to --part-2
INK, GRID = "#010203", "#040506"  # placeholders, replaced by the page's own colours
SIZE_INCHES = (4.4, 3.3)


def curve_plot(
    name: str,
    curves: Sequence[tuple[int, np.ndarray]],
    thresholds: np.ndarray,
    xlabel: str,
    ylabel: str,
    mark: float | None = None,
) -> str:
    """Curves over thresholds as an SVG element that takes its colours from the page.

    Args:
        name: of the plot; every id inside starts with it, so that several plots can share a page.
        curves: (number of the series, (n,) values in percent), drawn in this order; see [`series_color`].
        thresholds: (n,), where the curves were sampled.
        mark: threshold that gets a thin line from bottom to top.

    The same arguments give the same text. Raises `ImportError` without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('The plots of a report need matplotlib: pip install "pjvlt[eval]".') from error
    colors = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    fixed = {"svg.hashsalt": f"pjvlt-{name}", "svg.fonttype": "none", "font.size": 10.0, **colors}
    top = max(np.max(curve, initial=100, where=np.isfinite(curve)) for _, curve in curves)  # pytracking can pass 100
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(fixed)
        figure = Figure(figsize=SIZE_INCHES)
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_axes((0.13, 0.15, 0.84, 0.82))
        axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(thresholds[0], thresholds[-1]), ylim=(0, top))
        axes.grid(color=GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=0.8)
        for series, curve in curves:
            style = "-" if series < NUM_COLORS else (0, (4, 2))
            axes.plot(
                thresholds, curve, color=_placeholder(series), linestyle=style, linewidth=2.4 if series == 0 else 1.5
            )
        for artist in (figure, axes):
            artist.patch.set_visible(False)
        text = io.StringIO()
        canvas.print_svg(text, metadata={"Date": None})
    return _inline(text.getvalue(), name)


def series_color(series: int) -> str:
    """CSS colour of a line: the page's custom property."""
    return f"var(--series-{series % NUM_COLORS})"


def part_color(number: int) -> str:
    """CSS colour of a part of a bar."""
    return f"var(--part-{number % NUM_PARTS})"


def jpeg_uri(frame: np.ndarray, width: int = 480, quality: int = 82) -> str:
    """An RGB uint8 frame, (height, width, 3), as a JPEG data URI at most `width` pixels wide."""
    image = Image.fromarray(frame)
    if image.width > width:
        height = max(1, round(image.height * width / image.width))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _placeholder(series: int) -> str:
    return f"#0a0b{series % NUM_COLORS:02x}"


def _inline(svg: str, name: str) -> str:
    """The svg element alone, with ids of its own; without header, metadata and styles that would reach the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| (?:width|height)="[\d.]+pt"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--line)")
    for series in range(NUM_COLORS):
        svg = svg.replace(_placeholder(series), series_color(series))
    return svg.replace("<svg", f'<svg role="img" aria-label="{name.replace("_", " ")} plot"', 1).strip()
