"""Reports of an evaluation, for people and for programs: [`write_report`]."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..files_pjvlt import write_text
from ..visualization.drawing import PREDICTION_COLOR, TRUTH_COLOR
from .language import NUM_SAMPLES, language_table
from .plots import NUM_COLORS, curve_plot, jpeg_uri, part_color, series_color
from .protocols import PROTOCOLS, BenchmarkScores

RULES = {
    "otb": "OTB toolkit: the first frame counts, as ground truth; all frames are the denominator.",
    "lasot": "LaSOT toolkit: the first frame counts, as ground truth; all frames are the denominator, and absent ones "
    "are never found.",
    "tnl2k": "TNL2K toolkit: the rules of LaSOT's (all frames are the denominator, absent ones are never found), but "
    "normalised precision is the mean of its whole curve.",
    "pytracking": "pytracking: the first frame counts, as ground truth; only frames that show the target are the "
    "denominator.",
    "pytracking_lasot": "pytracking, for its dataset LaSOT: the first frame counts, as ground truth; all frames are "
    "the denominator, and absent ones are never found.",
    "got10k": "GOT-10k toolkit: the first frame and those that hide the target are left out; the frames of all "
    "sequences are taken at once.",
}
LABELS = {
    "auc": "AUC",
    "precision": "P",
    "normalized_precision": "P norm",
    "op50": "OP 0.50",
    "op75": "OP 0.75",
    "ao": "AO",
    "sr50": "SR 0.50",
    "sr75": "SR 0.75",
    "fps": "frames per second",
}
TEXTS = {
    "own": "own sentences",
    "shuffled": "shuffled sentences",
    "empty": "empty sentences",
    "class": "class names as sentences",
}
PLOTS = {
    "success": ("Success", "overlap threshold", None),
    "precision": ("Precision", "centre error, pixels", 20.0),
    "normalized_precision": ("Normalised precision", "centre error, sizes of the target", 0.2),
}
TEMPLATE = Path(__file__).parent / "report.html.jinja"
PARTS = ("decode", "crop", "network")
MARKDOWN_ROWS = 20
NO_VALUE = "–"


@dataclass(frozen=True)
class TrackerResult:
    """What one tracker scored.

    text: which sentences it was given: `own`, `shuffled`, `empty`, `class`; None for trackers that are not ours.
    milliseconds: mean per frame of `decode`, `crop` and `network`; empty if unknown. fps: frames per second of crop
    and network, without decoding.
    """

    name: str
    scores: BenchmarkScores
    text: str | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    fps: float | None = None

    @property
    def label(self) -> str:
        """The name and, unless the sentences are the sequences' own, their kind."""
        return self.name if self.text in (None, "own") else f"{self.name}, {_sentences(self.text)}"


@dataclass(frozen=True)
class WorstSequence:
    """A sequence to look at.

    score: main metric, percent. frames: RGB uint8, (height, width, 3), boxes already drawn. captions: one for each;
    raises `ValueError` for another number.
    """

    name: str
    sentence: str
    score: float
    frames: list[np.ndarray]
    captions: list[str]

    def __post_init__(self):
        if len(self.frames) != len(self.captions):
            raise ValueError(f"{self.name}: {len(self.captions)} captions for {len(self.frames)} frames.")


@dataclass(frozen=True)
class EvaluationReport:
    """The content of a report.

    results: ours with the sequences' own sentences first, then ours with other sentences, then other trackers; at
    least one, all by the same protocol, or `ValueError`. published: rows of a paper's table: `tracker`, `source`,
    `protocol`, `dataset`, and metric name -> percent (or `fps`). notes: printed as they are. environment: such as
    {"device": "cpu"}.
    """

    dataset: str
    split: str
    model: str
    results: list[TrackerResult]
    worst: list[WorstSequence] = field(default_factory=list)
    published: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        protocols = sorted({result.scores.protocol for result in self.results})
        if len(protocols) != 1:
            raise ValueError(f"A report takes results of one protocol; there are {protocols or 'no results'}.")

    @property
    def protocol(self) -> str:
        return self.results[0].scores.protocol

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the overall scores, the main one first."""
        return PROTOCOLS[self.protocol].metrics

    def ranked(self, metric: str | None = None) -> list[TrackerResult]:
        """Results from best to worst by one metric, by default the main one; those without it last."""
        return sorted(self.results, key=lambda r: -_number(r.scores.get(metric or self.metrics[0]), -math.inf))


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, and a table.

    name: of the section, for links. text: the paragraphs. rows: each as long as `header`. best: number of the row
    that is printed bold. texts: how many columns, from the left, hold text; the others hold numbers.
    """

    name: str
    title: str
    text: list[str] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    best: int | None = None
    texts: int = 1


def to_json(report: EvaluationReport) -> dict:
    """Everything but the images, in types that JSON has; numbers that are not finite become None."""
    results = [
        {
            "name": result.name,
            "text": result.text,
            "scores": dict(result.scores),
            "sequences": result.scores.sequences,
            "attributes": result.scores.attributes,
            "curves": result.scores.curves,
            "thresholds": {name: result.scores.thresholds[name] for name in result.scores.curves},
            "milliseconds": result.milliseconds,
            "fps": result.fps,
        }
        for result in report.results
    ]
    return _plain(
        {
            "dataset": report.dataset,
            "split": report.split,
            "model": report.model,
            "protocol": report.protocol,
            "rules": RULES[report.protocol],
            "main_metric": report.metrics[0],
            "results": results,
            "language": language_table(report.results),
            "worst": [{"name": w.name, "sentence": w.sentence, "score": w.score} for w in report.worst],
            "published": report.published,
            "notes": report.notes,
            "environment": report.environment,
        }
    )


def to_markdown(report: EvaluationReport) -> str:
    """The report as GitHub's Markdown, without plots and images."""
    parts = [f"# {_markdown(_title(report))}", f"Protocol `{report.protocol}`. {RULES[report.protocol]}"]
    for section in _sections(report):
        parts.append(f"## {section.title}")
        parts += [_markdown(line) for line in section.text]
        rows = section.rows[:MARKDOWN_ROWS] if section.name == "sequences" else section.rows
        if rows:
            lines = ["| " + " | ".join(map(_markdown, section.header)) + " |"]
            lines.append("|---" * section.texts + "|---:" * (len(section.header) - section.texts) + "|")
            for number, row in enumerate(rows):
                cells = [f"**{_markdown(cell)}**" if number == section.best else _markdown(cell) for cell in row]
                lines.append("| " + " | ".join(cells) + " |")
            parts.append("\n".join(lines))
        if len(rows) < len(section.rows):
            parts.append(f"… and {len(section.rows) - len(rows)} more in report.json")
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in report.notes)]
    if report.environment:
        parts += ["## Environment", "\n".join(f"- {_markdown(line)}" for line in _environment(report))]
    return "\n\n".join(parts) + "\n"


def to_html(report: EvaluationReport) -> str:
    """The report as one page that loads nothing: plots and frames are inside.

    The same report gives the same text. Raises `ImportError` without jinja2 or matplotlib.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ImportError('The page of a report needs jinja2: pip install "pjvlt[eval]".') from error
    folder = FileSystemLoader(TEMPLATE.parent)
    pages = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters.update(number=_format, jpeg_uri=jpeg_uri)
    parts, bars = _speed_bars(report)
    return pages.get_template(TEMPLATE.name).render(
        report=report,
        title=_title(report),
        rules=RULES[report.protocol],
        main=LABELS[report.metrics[0]],
        headline=_headline(report),
        sections={section.name: section for section in _sections(report)},
        plots=_plots(report),
        parts=parts,
        bars=bars,
        truth_color=_css(TRUTH_COLOR),
        prediction_color=_css(PREDICTION_COLOR),
        environment=_environment(report),
    )


def write_report(report: EvaluationReport, folder: str | Path) -> dict[str, Path]:
    """Write `report.json`, `report.md` and `report.html`, in this order, into a folder that is made if need be.

    Each is written beside its place and renamed, so no file is ever half written. Returns the paths by `json`, `md`,
    `html`. Raises `ImportError` without jinja2 or matplotlib, after the first two are written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[EvaluationReport], str]] = {
        "json": lambda r: json.dumps(to_json(r), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "md": to_markdown,
        "html": to_html,
    }
    paths = {}
    for kind, make in makers.items():
        paths[kind] = folder / f"report.{kind}"
        write_text(paths[kind], make(report))
    return paths


def _sections(report: EvaluationReport) -> list[Section]:
    """The sections of both report.md and report.html; those with an empty table are left out."""
    metrics, main, results = report.metrics, LABELS[report.metrics[0]], report.results
    labels = [LABELS[metric] for metric in metrics]
    ranked = report.ranked()
    trackers = Section(
        "trackers",
        "Trackers",
        [f"In percent, ranked by {main}; {len(results[0].scores.sequences)} sequences."],
        ["Tracker", *labels],
        [[r.label, *(_format(r.scores.get(m)) for m in metrics)] for r in ranked],
        0 if _finite(ranked[0].scores.get(metrics[0])) else None,
    )
    attributes = list(dict.fromkeys(name for r in results for name in r.scores.attributes))
    sizes = {name: r.scores.attributes[name]["sequences"] for r in results for name in r.scores.attributes}
    by_attribute = Section(
        "attributes",
        "Attributes",
        [f"{main} over the sequences that have each attribute."],
        ["Attribute", "Sequences", *(r.label for r in results)],
        [
            [name, str(sizes[name]), *(_format(r.scores.attributes.get(name, {}).get(metrics[0])) for r in results)]
            for name in attributes
        ],
    )
    parts = list(dict.fromkeys([*PARTS, *(part for r in results for part in r.milliseconds)]))
    speed = Section(
        "speed",
        "Speed",
        ["Milliseconds per frame, on average; frames per second are those of crop and network, without decoding."],
        ["Tracker", *parts, "frames per second"],
        [
            [r.label, *(_format(r.milliseconds.get(part)) for part in parts), _format(r.fps)]
            for r in results
            if r.milliseconds or r.fps is not None
        ],
    )
    tables = [trackers, _language_section(results), by_attribute, speed, _sequence_section(report)]
    return [section for section in [*tables, _published_section(report)] if section.rows]


def _language_section(results: Sequence[TrackerResult]) -> Section:
    text, rows = [], []
    table = language_table(results)
    for row in table:
        metric, difference = LABELS[row["metric"]], row["difference"]
        by = f"{abs(difference):.1f} points {'higher' if difference > 0 else 'lower'} than"
        if abs(difference) < 0.05:
            by = "the same, to a tenth of a point, as"
        line = f"With its own sentences {metric} is {by} with {_sentences(row['text'])}; "
        if not _finite(row["low"]):
            interval, line = NO_VALUE, line + "there are too few sequences for an interval."
        else:
            interval = _interval(row)
            if row["low"] > 0 or row["high"] < 0:
                line += f"the 95 % interval, {interval}, excludes zero."
            else:
                line += f"the 95 % interval, {interval}, includes zero, so the difference may be chance."
        text.append(line)
        values = [_format(row["with"]), _format(row["without"]), f"{difference:+.1f}", interval]
        rows.append([_sentences(row["text"]), *values, str(row["sequences"])])
    text.append(
        f"The interval is from a paired bootstrap: the sequences are drawn {NUM_SAMPLES:,} times with replacement, "
        "and the middle 95 % of the mean differences are kept."
    )
    text += [f"Here: {note}." for note in dict.fromkeys(row["note"] for row in table) if note]
    metric = LABELS[table[0]["metric"]] if table else ""
    header = ["Compared with", f"{metric}, own", f"{metric}, these", "Difference", "95 % interval", "Sequences"]
    return Section("language", "Gain from the sentences", text, header, rows)


def _sequence_section(report: EvaluationReport) -> Section:
    first, metrics = report.results[0], report.metrics
    others = [r for r in report.results[1:] if r.text is not None]
    names = sorted(
        first.scores.sequences, key=lambda name: _number(first.scores.sequences[name][metrics[0]], math.inf)
    )
    rows = [
        [
            name,
            *(_format(first.scores.sequences[name].get(m)) for m in metrics),
            *(_format(r.scores.sequences.get(name, {}).get(metrics[0])) for r in others),
        ]
        for name in names
    ]
    header = ["Sequence", *(LABELS[m] for m in metrics)]
    header += [f"{LABELS[metrics[0]]}, {_sentences(r.text)}" for r in others]
    return Section("sequences", "Sequences", [f"{first.label}, from worst to best."], header, rows)


def _published_section(report: EvaluationReport) -> Section:
    known = {"tracker", "source", "protocol", "dataset"}
    metrics = list(dict.fromkeys([*report.metrics, *(key for row in report.published for key in row)]))
    metrics = [m for m in metrics if m not in known and any(m in row for row in report.published)]
    rows, main = [], []
    if report.published:
        for result in report.ranked():
            measured = {**result.scores, "fps": result.fps}
            values = [_format(measured.get(m)) for m in metrics]
            rows.append([result.label, "measured here", report.protocol, *values])
            main.append(_number(measured.get(report.metrics[0]), -math.inf))
        for row in report.published:
            names = [str(row.get(key) or NO_VALUE) for key in ("tracker", "source", "protocol")]
            rows.append([*names, *(_format(row.get(m)) for m in metrics)])
            comparable = row.get("protocol") == report.protocol
            main.append(_number(row.get(report.metrics[0]), -math.inf) if comparable else -math.inf)
    best = int(np.argmax(main)) if main and max(main) > -math.inf else None
    return Section(
        "published",
        "Published numbers",
        ["Scores by different protocols cannot be compared digit by digit."],
        ["Tracker", "Source", "Protocol", *(LABELS.get(m, m) for m in metrics)],
        rows,
        best,
        texts=3,
    )


def _headline(report: EvaluationReport) -> list[tuple[str, str]]:
    """Pairs of a number and its meaning, for our first result."""
    first = report.results[0]
    cards = [(_format(first.scores.get(m)), f"{LABELS[m]}, percent") for m in report.metrics[:3]]
    for row in language_table(report.results)[:1]:
        what = f"points of {LABELS[row['metric']]} over {_sentences(row['text'])}"
        if _finite(row["low"]):
            what += f" (95 %: {_interval(row)})"
        cards.append((f"{row['difference']:+.1f}", what))
    if first.fps is not None:
        cards.append((_format(first.fps), "frames per second"))
    return [*cards, (str(len(first.scores.sequences)), "sequences")]


def _plots(report: EvaluationReport) -> list[dict]:
    """For each kind of curve, its title, the plot as SVG, and the lines of its legend, best first."""
    from markupsafe import Markup  # comes with jinja2

    plots, series = [], {id(result): number for number, result in enumerate(report.results)}
    for name, (title, xlabel, mark) in PLOTS.items():
        metric = report.metrics[0] if name == "success" else name
        ranked = [result for result in report.ranked(metric) if name in result.scores.curves]
        if not ranked:
            continue
        curves = sorted(((series[id(r)], r.scores.curves[name]) for r in ranked), key=lambda curve: -curve[0])
        svg = curve_plot(name, curves, ranked[0].scores.thresholds[name], xlabel, "frames, %", mark)
        lines = [
            {
                "label": result.label,
                "score": _format(result.scores.get(metric)),
                "color": series_color(series[id(result)]),
                "dashed": series[id(result)] >= NUM_COLORS,
            }
            for result in ranked
        ]
        plots.append({"title": f"{title} ({LABELS[metric]})", "svg": Markup(svg), "lines": lines})
    return plots


def _speed_bars(report: EvaluationReport) -> tuple[list[tuple[str, str]], list[dict]]:
    """(part, colour) pairs of the legend, and a bar for each tracker whose times are known; all bars share a scale."""
    times = [(r.label, {part: ms for part, ms in r.milliseconds.items() if _finite(ms)}) for r in report.results]
    times = [(label, values) for label, values in times if values]
    colors = {part: part_color(n) for n, part in enumerate(dict.fromkeys(part for _, v in times for part in v))}
    longest = max((sum(values.values()) for _, values in times), default=0) or 1
    bars = [
        {
            "label": label,
            "parts": [
                {
                    "name": part,
                    "milliseconds": _format(ms),
                    "percent": f"{100 * ms / longest:.2f}",
                    "color": colors[part],
                }
                for part, ms in values.items()
            ],
        }
        for label, values in times
    ]
    return list(colors.items()), bars


def _css(color: tuple[int, int, int]) -> str:
    return f"rgb{color}"


def _title(report: EvaluationReport) -> str:
    return f"{report.model} on {report.dataset}, {report.split}"


def _environment(report: EvaluationReport) -> list[str]:
    return [f"{name}: {value}" for name, value in report.environment.items()]


def _sentences(text: str) -> str:
    return TEXTS.get(text, f"{text} sentences")


def _interval(row: dict) -> str:
    return f"{row['low']:+.1f} to {row['high']:+.1f}"


def _finite(value) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _number(value, otherwise: float) -> float:
    return float(value) if _finite(value) else otherwise


def _format(value) -> str:
    return f"{value:.1f}" if _finite(value) else NO_VALUE


def _markdown(text: str) -> str:
    """The text in one line, with all markup escaped."""
    return re.sub(r"([\\`*<>\[\]|&])", r"\\\1", " ".join(text.split()))


def _plain(value):
    """A value in types that JSON has, at every depth; None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
