import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from modeling_pjvlt.evaluation import PROTOCOLS, score_benchmark
from modeling_pjvlt.evaluation.language import language_table, paired_difference
from modeling_pjvlt.evaluation.report import (
    RULES,
    EvaluationReport,
    TrackerResult,
    WorstSequence,
    to_html,
    to_json,
    to_markdown,
    write_report,
)
from modeling_pjvlt.visualization.drawing import PREDICTION_COLOR, TRUTH_COLOR

HOSTILE = '<script>alert("a & b")</script>|`*'
VOID = {"meta", "img", "br", "link", "hr", "input"}


def scores(shift, protocol="lasot", sequences=6, frames=12):
    """Scores of a tracker whose boxes, 20 pixels wide, are `shift` pixels to the right, more in later sequences."""
    truth = {f"video-{i}": np.tile([30.0, 30, 20, 20], (frames, 1)) for i in range(sequences)}
    predictions = {name: box + np.array([shift * (1 + i / 4), 0, 0, 0]) for i, (name, box) in enumerate(truth.items())}
    rest = {"attributes": {"fast": list(truth)[:2], "dark": list(truth)}}
    if protocol == "got10k":
        rest["frame_sizes"] = dict.fromkeys(truth, (100, 200))
    else:
        rest["absent"] = {name: np.zeros(frames) for name in truth}
    return score_benchmark(predictions, truth, protocol=protocol, **rest)


def report(protocol="lasot", sequences=6, **changes):
    ours = {"milliseconds": {"decode": 2.0, "crop": 1.0, "network": 9.0}, "fps": 100.0}
    results = [
        TrackerResult("pjvlt-tiny", scores(4, protocol, sequences), "own", **ours),
        TrackerResult("pjvlt-tiny", scores(8, protocol, sequences), "shuffled"),
        TrackerResult("best-of-all", scores(1, protocol, sequences)),
        TrackerResult("last", scores(12, protocol, sequences)),
    ]
    frames = [np.full((60, 900, 3), shade, np.uint8) for shade in (0, 200)]
    published = {"tracker": "of a paper", "source": "a paper, table 3", "protocol": "pytracking", "auc": 61.25}
    parts = {
        "results": results,
        "worst": [WorstSequence("video-3", "a dog", 12.5, frames, ["frame 0", "frame 9"])],
        "published": [published],
        "notes": ["Seen twice."],
        "environment": {"device": "cpu"},
    }
    return EvaluationReport("Some Benchmark", "test", "pjvlt-tiny", **{**parts, **changes})


@pytest.fixture(scope="module")
def page():
    return to_html(report())


class Tags(HTMLParser):
    """Follows the tags of a page: what is open, which ids there are, what it would load, what it says."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.ids, self.loads, self.text = [], set(), [], [], ""
        self.feed(page)
        self.close()

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.loads.append(value)

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_interval_of_a_steady_gain_excludes_zero():
    a = np.random.default_rng(1).uniform(20, 80, 50)
    difference, low, high = paired_difference(a, a - 3 + np.tile([-0.5, 0.5], 25))
    assert difference == pytest.approx(3)
    assert 2.5 < low < 3 < high < 3.5


def test_interval_of_a_gain_in_one_of_many_sequences_covers_zero():
    a = np.zeros(20)
    a[3] = 40
    difference, low, high = paired_difference(a, np.zeros(20))
    assert difference == pytest.approx(2)
    assert low == 0 < high


def test_interval_is_about_two_standard_errors_and_the_same_every_time():
    generator = np.random.default_rng(0)
    a, b = generator.normal(50, 20, 400), generator.normal(49, 20, 400)
    difference, low, high = paired_difference(a, b)
    error = (a - b).std() / 20
    assert (low, high) == pytest.approx((difference - 1.96 * error, difference + 1.96 * error), abs=0.1 * error)
    assert paired_difference(a, b) == (difference, low, high) != paired_difference(a, b, seed=1)
    assert paired_difference(b, a)[1:] == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize("number", [1, 4])
def test_interval_of_a_few_sequences_is_not_known(number):
    difference, low, high = paired_difference(np.full(number, 5.0), np.full(number, 2.0))
    assert difference == 3 and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("a, b", [([], []), ([1.0, 2], [1.0]), ([[1.0]], [[1.0]]), ([math.nan, 1], [1, 1])])
def test_scores_that_cannot_be_paired_are_refused(a, b):
    with pytest.raises(ValueError, match="Scores must"):
        paired_difference(np.array(a), np.array(b))


def test_language_table_compares_sequence_by_sequence():
    (row,) = language_table(report().results)
    own, shuffled = report().results[:2]
    pairs = [(s["auc"], shuffled.scores.sequences[name]["auc"]) for name, s in own.scores.sequences.items()]
    assert (row["text"], row["metric"], row["sequences"], row["note"]) == ("shuffled", "auc", 6, "")
    assert row["with"] == pytest.approx(own.scores["auc"]) and row["without"] == pytest.approx(shuffled.scores["auc"])
    assert (row["difference"], row["low"], row["high"]) == paired_difference(*np.array(pairs).T)


def test_language_table_of_pooled_frames_says_that_it_averages_sequences():
    results = report("got10k").results
    (row,) = language_table(results)
    assert row["metric"] == "ao" and "AO of each sequence" in row["note"]
    assert "AO of each sequence" in to_markdown(report("got10k"))


def test_language_table_says_when_the_overall_score_leaves_sequences_out():
    other = scores(8)
    other["auc"] += 5  # as if a sequence that was never found were left out of the mean curve
    (row,) = language_table([TrackerResult("ours", scores(4), "own"), TrackerResult("ours", other, "empty")])
    assert row["without"] == pytest.approx(other["auc"] - 5) and "leaves some out" in row["note"]


def test_language_table_needs_both_sides():
    results = report().results
    assert language_table(results[:1]) == language_table(results[1:]) == language_table(results[2:]) == []


def test_json_has_the_numbers_and_survives_a_round_trip():
    told = to_json(report())
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    first = report().results[0].scores
    assert told["protocol"] == "lasot" and told["main_metric"] == "auc"
    assert told["results"][0]["scores"] == dict(first)
    assert told["results"][0]["sequences"]["video-2"] == first.sequences["video-2"]
    assert told["results"][0]["attributes"]["fast"]["sequences"] == 2
    for name, curve in first.curves.items():
        assert told["results"][0]["curves"][name] == curve.tolist()
        assert told["results"][0]["thresholds"][name] == first.thresholds[name].tolist()
    assert told["results"][0]["fps"] == 100 and told["results"][0]["milliseconds"]["crop"] == 1
    assert told["language"][0]["text"] == "shuffled"


def test_what_is_not_finite_becomes_null():
    hidden = scores(4)
    hidden["auc"], hidden.sequences["video-1"]["auc"] = math.nan, np.float32(math.nan)
    hidden.curves["success"][:] = math.nan
    seen = report(results=[TrackerResult("ours", hidden, "own", {"crop": math.inf}, math.nan)])
    told = to_json(seen)
    json.dumps(told, allow_nan=False)
    assert told["results"][0]["scores"]["auc"] is None and told["results"][0]["milliseconds"]["crop"] is None
    assert "nan" not in to_markdown(seen) and "nan" not in Tags(to_html(seen)).text


def table(markdown, title):
    """Rows of the first table below a heading, as lists of cells."""
    lines = [line for line in markdown.split(f"## {title}\n")[1].split("\n## ")[0].splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_best_row_alone_is_bold(page):
    names = [row[0] for row in table(to_markdown(report()), "Trackers")]
    assert names == ["**best-of-all**", "pjvlt-tiny", "pjvlt-tiny, shuffled sentences", "last"]
    trackers = page.split('<section id="trackers">')[1].split("</section>")[0]
    assert re.findall(r'<tr class="best">\s*<th [^>]*>([^<]*)', trackers) == ["best-of-all"]
    unknown = scores(4)
    unknown["auc"] = math.nan
    assert "**" not in to_markdown(report(results=[TrackerResult("ours", unknown, "own")], published=[]))


def test_published_numbers_are_best_only_by_the_same_protocol():
    rows = [{"tracker": name, "protocol": protocol, "auc": 99.0} for name, protocol in (("a", "otb"), ("b", "lasot"))]
    other, same = (to_markdown(report(published=[row])) for row in rows)
    assert table(other, "Published numbers")[0][0] == "**best-of-all**"
    assert [row[0] for row in table(same, "Published numbers") if row[0].startswith("**")] == ["**b**"]


def test_each_number_carries_its_columns_name_for_a_narrow_page(page):
    tags = re.findall(r"<td([^>]*)>", page)
    assert len(tags) > 50 and all(re.search(r'data-column="[^"]+"', tag) for tag in tags)
    assert "@media (max-width" in page


def test_colours_of_the_boxes_are_explained_where_boxes_are_shown(page):
    worst = page.split('<section id="worst">')[1].split("</section>")[0]
    for color, words in ((TRUTH_COLOR, "ground truth"), (PREDICTION_COLOR, "predicted box")):
        assert re.search(rf'border-color: {re.escape(f"rgb{color}")}"></i>{words}', worst)


@pytest.mark.parametrize("protocol", ["lasot", "got10k"])
def test_markdown_names_the_protocol_and_its_rules(protocol):
    assert f"`{protocol}`. {RULES[protocol]}" in to_markdown(report(protocol))


def test_every_protocol_has_rules():
    assert set(RULES) == set(PROTOCOLS)


def test_markdown_says_what_the_interval_is_and_whether_it_excludes_zero():
    same = [TrackerResult("ours", scores(4), text) for text in ("own", "shuffled")]
    clear, unclear = to_markdown(report()), to_markdown(report(results=same))
    assert "paired bootstrap" in clear and "excludes zero" in clear
    assert "is the same" in unclear and "includes zero" in unclear and "excludes zero" not in unclear


def test_markdown_lists_twenty_sequences_from_the_worst_on():
    markdown = to_markdown(report(sequences=23))
    rows = table(markdown, "Sequences")
    values = [float(row[1]) for row in rows]
    assert len(rows) == 20 and values == sorted(values)
    assert not {"video-0", "video-1", "video-2"} & {row[0] for row in rows}
    assert "… and 3 more in report.json" in markdown


def test_published_rows_stand_beside_the_measured_ones_with_source_and_protocol():
    rows = table(to_markdown(report()), "Published numbers")
    assert rows[-1] == ["of a paper", "a paper, table 3", "pytracking", "61.2"]
    assert rows[1][:3] == ["pjvlt-tiny", "measured here", "lasot"]


def test_page_is_whole_and_loads_nothing(page):
    tags = Tags(page)
    assert tags.open == []
    assert page.startswith("<!DOCTYPE html>") and page.count("<html") == 1
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in tags.loads)
    assert not {"script", "link", "iframe", "metadata"} & tags.seen
    assert not re.search(r"https?://|@import|url\((?!#)", page)


def test_every_id_of_the_page_is_its_own_and_every_reference_has_one(page):
    tags = Tags(page)
    assert len(tags.ids) == len(set(tags.ids))
    wanted = set(re.findall(r"url\(#([^)]+)\)", page)) | {a[1:] for a in tags.loads if a[0] == "#"}
    assert wanted and wanted <= set(tags.ids)


def test_page_has_every_section(page):
    tags = Tags(page)
    sections = "trackers plots language attributes sequences worst speed published notes environment"
    assert set(sections.split()) <= set(tags.ids)
    assert page.count("<svg") == 3 and page.count("data:image/jpeg") == 2
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page
    for words in ("a dog", "frame 9", "Seen twice.", "a paper, table 3", "excludes zero", RULES["lasot"]):
        assert words in tags.text


def test_plots_take_the_colours_of_the_page(page):
    plots = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b(?=[;\"])", plots.replace("#m", ""))
    assert all(f"var(--series-{i})" in plots for i in range(4)) and "currentColor" in plots


def test_legends_are_ranked_by_score(page):
    for legend in re.findall(r'<ul class="legend">(.*?)</ul>', page, re.DOTALL):
        values = [float(value) for value in re.findall(r"<span>([\d.]+)</span>", legend)]
        assert len(values) == 4 and values == sorted(values, reverse=True)


def test_page_has_all_sequences():
    page = to_html(report(sequences=23))
    inside = page.split("<details>")[1].split("</details>")[0]
    assert inside.count("<tr>") == 1 + 23


def test_same_report_gives_the_same_bytes(page):
    assert to_html(report()) == page


def test_hostile_names_stay_text():
    one = report()
    named = scores(4)
    named.sequences[HOSTILE] = named.sequences["video-0"]
    named.attributes[HOSTILE] = named.attributes["fast"]
    hostile = EvaluationReport(
        HOSTILE,
        HOSTILE,
        HOSTILE,
        [TrackerResult(HOSTILE, named, "own", {HOSTILE: 1.0}), TrackerResult(HOSTILE, scores(8), HOSTILE)],
        [WorstSequence(HOSTILE, HOSTILE, 1.0, one.worst[0].frames[:1], [HOSTILE])],
        [{"tracker": HOSTILE, "source": HOSTILE, "protocol": HOSTILE, HOSTILE: 3.0}],
        [HOSTILE],
        {HOSTILE: HOSTILE},
    )
    page = to_html(hostile)
    tags = Tags(page)
    assert tags.open == [] and "script" not in tags.seen and tags.text.count(HOSTILE) > 15
    before_notes = to_markdown(hostile).split("## Notes")[0]
    assert "<script>" not in before_notes and not re.search(r"(?<!\\)\|`", before_notes)


@pytest.mark.parametrize(
    "bare",
    [
        report("got10k"),
        report(worst=[], published=[], notes=[], environment={}),
        report(results=[TrackerResult("ours", scores(4), "own")]),
        report(results=[TrackerResult("other", scores(4))]),
        report(results=[TrackerResult("ours", scores(4), "own", {"crop": 0.0})]),
        report(sequences=1),
        report(worst=[WorstSequence("v", "", math.nan, [], [])]),
        report(results=[TrackerResult(f"t{i}", scores(1 + i)) for i in range(10)]),
    ],
    ids=["got10k", "no extras", "alone", "not ours", "no time", "one sequence", "no images", "many trackers"],
)
def test_missing_parts_break_nothing(bare):
    assert to_markdown(bare).startswith("# pjvlt-tiny on Some Benchmark, test")
    json.dumps(to_json(bare), allow_nan=False)
    page = to_html(bare)
    tags = Tags(page)
    assert tags.open == [] and len(tags.ids) == len(set(tags.ids)) and "trackers" in tags.ids
    assert ("worst" in tags.ids) == bool(bare.worst) and ("published" in tags.ids) == bool(bare.published)
    assert ("speed" in tags.ids) == any(r.milliseconds for r in bare.results)
    assert page.count("<svg") == (1 if bare.protocol == "got10k" else 3)


def test_one_sequence_has_no_interval():
    markdown = to_markdown(report(sequences=1))
    assert "too few sequences for an interval" in markdown and "excludes zero" not in markdown


def test_results_of_different_protocols_are_refused():
    with pytest.raises(ValueError, match="one protocol"):
        report(results=[TrackerResult("a", scores(1)), TrackerResult("b", scores(1, "got10k"))])
    with pytest.raises(ValueError, match="no results"):
        report(results=[])
    with pytest.raises(ValueError, match="captions"):
        WorstSequence("v", "", 0.0, [np.zeros((2, 2, 3), np.uint8)], [])


def test_three_files_are_written_and_nothing_else(tmp_path):
    paths = write_report(report(), tmp_path / "new" / "folder")
    assert sorted(paths) == ["html", "json", "md"]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == sorted(paths.values())
    assert json.loads(paths["json"].read_text(encoding="utf-8")) == to_json(report())
    assert paths["md"].read_text(encoding="utf-8") == to_markdown(report())


def test_a_write_that_fails_in_the_middle_leaves_the_old_file_whole(tmp_path, monkeypatch):
    paths = write_report(report(), tmp_path)
    before = {path: path.read_bytes() for path in paths.values()}
    write = Path.write_text

    def full(self, text, **options):
        write(self, text[: len(text) // 2], **options)
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        write_report(report(notes=["another"]), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_its_libraries_the_numbers_are_written_and_the_extra_is_named(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "pjvlt\[eval\]"'):
        write_report(report(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
