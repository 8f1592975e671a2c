"""The parts of a report's page: tables, curves as inline SVG, frames as JPEG data URIs, bars, and the style."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from PIL import Image

NUM_COLORS = 8  # the page defines --series-0 to --series-7; further lines are dashed
INK, GRID = "#010203", "#040506"  # stand-ins, exchanged for the page's own colours
SIZE_INCHES = (4.4, 3.3)
STYLE = """
:root { --ink: #1b1f24; --soft: #5b6570; --page: #ffffff; --plate: #f3f5f7; --line: #d5dae0; --accent: #0b62c4;
  --series-0: #0b62c4; --series-1: #cf3f53; --series-2: #23824d; --series-3: #a87400; --series-4: #7448c4;
  --series-5: #0c8285; --series-6: #8c5a2b; --series-7: #6b7280;
  --part-0: #9aa5b1; --part-1: #e0a030; --part-2: #0b62c4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --page: #14171b; --plate: #1e2329;
  --line: #363d46; --accent: #6cb2ff;
  --series-0: #5aa9ff; --series-1: #ff7b8a; --series-2: #5fd38d; --series-3: #f0c04a; --series-4: #b79cff;
  --series-5: #4fd1d3; --series-6: #d9a066; --series-7: #a3adba;
  --part-0: #6b7684; --part-1: #d9a441; --part-2: #5aa9ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1rem; color: var(--ink); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 0; }
h3 span, .card span, figcaption, p { color: var(--soft); }
h3 span { font-weight: normal; margin-left: .4rem; }
p { margin: .3rem 0 .6rem; max-width: 46rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin-top: 1rem; }
.card { background: var(--plate); border-radius: .5rem; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.6rem; line-height: 1.2; color: var(--accent); }
.card span { display: block; font-size: .85rem; line-height: 1.3; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); overflow-wrap: normal; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child { padding-left: 0; }
tbody th { font-weight: normal; }
td { white-space: nowrap; }
.text { text-align: left; white-space: normal; }
.ours th, .ours td { font-weight: 700; }
summary { cursor: pointer; padding: .3rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 1.2rem; }
figure { margin: 0; }
figure b { display: block; margin-bottom: .3rem; }
svg { display: block; width: 100%; height: auto; color: var(--soft); stroke-linejoin: round; stroke-linecap: butt; }
.legend { list-style: none; margin: .4rem 0 0; padding: 0; font-size: .85rem; }
.legend li { display: flex; gap: .5rem; align-items: center; }
.legend i { flex: none; width: 1.4rem; border-top: .2rem solid; }
.legend i.dashed { border-top-style: dashed; }
.legend span { margin-left: auto; padding-left: .6rem; font-variant-numeric: tabular-nums; }
.strip { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .5rem; }
.strip img { display: block; width: 100%; height: auto; border-radius: .3rem; }
.strip figcaption { font-size: .8rem; }
.bars { display: grid; grid-template-columns: fit-content(40%) 1fr; gap: .4rem .8rem; align-items: center;
  font-size: .9rem; max-width: 46rem; margin: .8rem 0; }
.bar { display: flex; height: 1.1rem; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; }
.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; }
"""


@dataclass(frozen=True)
class Section:
    """A heading, words, and a table.

    name: of the section, for links. rows: as long as `header`. bold: numbers of the rows that stand out. texts: how
    many columns, from the left, are words; the others are numbers.
    """

    name: str
    title: str
    text: list[str] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    bold: tuple[int, ...] = ()
    texts: int = 1


def page_html(title: str, body: Sequence[str]) -> str:
    """A whole page around pieces of HTML. title: text, escaped here."""
    head = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<meta name="color-scheme" content="light dark"/><title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style></head>\n<body>"
    )
    return "\n".join([head, *body, "</body></html>"]) + "\n"


def section_html(section: Section, more: str = "") -> str:
    """A section as HTML; `more` is HTML that stands between its words and its table."""
    parts = [f"<p>{escape(line)}</p>" for line in section.text]
    kinds = [' class="text"' if column < section.texts else "" for column in range(len(section.header))]
    head = "".join(f'<th scope="col"{kind}>{escape(c)}</th>' for kind, c in zip(kinds, section.header, strict=True))
    rows = []
    for number, row in enumerate(section.rows):
        name, *cells = (f"{kind}>{escape(cell)}" for kind, cell in zip(kinds, row, strict=True))
        start = '<tr class="ours">' if number in section.bold else "<tr>"
        rows.append(f'{start}<th scope="row"{name}</th>{"".join(f"<td{cell}</td>" for cell in cells)}</tr>')
    lines = "\n".join(rows)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'
    if section.name == "sequences":
        table = f"<details><summary>All {len(rows)}, each with its scores</summary>\n{table}</details>"
    body = "\n".join([f"<h2>{escape(section.title)}</h2>", *parts, more, table])
    return f'<section id="{section.name}">{body}</section>'


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
        name: of the plot; starts every id inside, so that several plots can share a page.
        curves: (number of the series, (n,) values in percent), drawn in this order; see [`series_color`].
        thresholds: (n,), where the curves were sampled.
        mark: threshold with a thin line from bottom to top.

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
                thresholds, curve, color=_stand_in(series), linestyle=style, linewidth=2.4 if series == 0 else 1.5
            )
        for artist in (figure, axes):
            artist.patch.set_visible(False)
        text = io.StringIO()
        canvas.print_svg(text, metadata={"Date": None})
    return _inline(text.getvalue(), name)


def series_color(series: int) -> str:
    """CSS colour of a line: the page's custom property."""
    return f"var(--series-{series % NUM_COLORS})"


def curve_figure(
    name: str,
    title: str,
    lines: Sequence[tuple[int, str, str, np.ndarray]],
    thresholds: np.ndarray,
    xlabel: str,
    mark: float | None = None,
) -> str:
    """A plot as [`curve_plot`] makes it, with its title above and its legend below, as an HTML figure.

    lines: (number of the series, label, score as text, (n,) curve in percent), in the order of the legend.
    """
    drawn = sorted(((series, curve) for series, _, _, curve in lines), key=lambda line: -line[0])
    dashed = ' class="dashed"'
    items = "\n".join(
        f'<li><i{dashed if series >= NUM_COLORS else ""} style="border-color: {series_color(series)}">'
        f"</i>{escape(label)}<span>{escape(score)}</span></li>"
        for series, label, score, _ in lines
    )
    plot = curve_plot(name, drawn, thresholds, xlabel, "frames, %", mark)
    return f'<figure><b>{escape(title)}</b>\n{plot}\n<ul class="legend">{items}</ul></figure>'


def speed_bars(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """One stacked bar for each (label, part -> milliseconds); all share a scale. Empty without rows."""
    if not rows:
        return ""
    parts = list(dict.fromkeys(part for _, values in rows for part in values))
    longest = max(sum(values.values()) for _, values in rows) or 1
    bars = []
    for label, values in rows:
        pieces = "".join(
            f'<div style="width: {100 * value / longest:.2f}%; background: {_part_color(parts.index(part))}" '
            f'title="{escape(part)} {value:.1f} ms"></div>'
            for part, value in values.items()
        )
        bars.append(f'<div>{escape(label)}</div><div class="bar">{pieces}</div>')
    key = "".join(
        f'<span><i style="background: {_part_color(number)}"></i>{escape(part)}</span>'
        for number, part in enumerate(parts)
    )
    return f'<div class="bars">{"".join(bars)}<div></div><div class="key">{key}</div></div>'


def strip(frames: Sequence[np.ndarray], captions: Sequence[str]) -> str:
    """Frames, RGB uint8 (height, width, 3), side by side as far as the page is wide, each above its caption."""
    shown = "".join(
        f'<figure><img src="{jpeg_uri(frame)}" '
        f'alt="{escape(caption)}"/><figcaption>{escape(caption)}</figcaption></figure>'
        for frame, caption in zip(frames, captions, strict=True)
    )
    return f'<div class="strip">{shown}</div>'


def _part_color(number: int) -> str:
    return f"var(--part-{number % 3})"


def jpeg_uri(frame: np.ndarray, width: int = 480, quality: int = 82) -> str:
    """An RGB uint8 frame, (height, width, 3), as a JPEG data URI at most `width` pixels wide."""
    image = Image.fromarray(frame)
    if image.width > width:
        height = max(1, round(image.height * width / image.width))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _stand_in(series: int) -> str:
    return f"#0a0b{series % NUM_COLORS:02x}"


def _inline(svg: str, name: str) -> str:
    """The svg element alone: no header, no metadata, no style that would reach the page, ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| (?:width|height)="[\d.]+pt"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--line)")
    for series in range(NUM_COLORS):
        svg = svg.replace(_stand_in(series), series_color(series))
    return svg.replace("<svg", f'<svg role="img" aria-label="{name.replace("_", " ")} plot"', 1).strip()
