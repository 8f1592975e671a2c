"""Converting the seven benchmarks as their authors lay them out: rows, reports, shards, and what is refused."""

import json
import re
import shutil
import zipfile
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conversions import (
    Conversion,
    check_rows,
    convert_miniature,
    decode,
    numbers,
    shards,
)
from datasets import Features, Image, List, Value, load_dataset
from huggingface_hub import DatasetCard
from miniatures import BUILDERS, build_coco, build_lasot, build_lasotext, build_otb99, build_tnl2k, build_trackingnet
from miniatures_common import Miniature, truncated_image
from PIL import Image as PILImage

from modeling_pjvlt.data import load_tracking_dataset
from modeling_pjvlt.data.benchmarks import BENCHMARK_PROTOCOLS
from modeling_pjvlt.data.converters import convert

FEATURES = {
    "sequence": Value("string"),
    "frame": Value("int32"),
    "image": Image(),
    "box": List(Value("float32"), length=4),
    "visible": Value("bool"),
    "text": Value("string"),
    "category": Value("string"),
}
LOOKED_FOR = {  # what the error of a folder that holds nothing of the benchmark must speak of
    "lasot": "groundtruth.txt",
    "lasotext": "groundtruth.txt",
    "got10k": "GOT-10k_Train_000001",
    "trackingnet": "anno",
    "coco": "instances_",
    "tnl2k": "imgs",
    "otb99": "OTB_query_",
}


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory):
    """Keep the Arrow cache of `datasets` out of the user's home; the fixtures of this module share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module", params=list(BUILDERS))
def conversion(request, tmp_path_factory) -> Conversion:
    """Each benchmark, converted once."""
    folder = tmp_path_factory.mktemp(request.param)
    return convert_miniature(BUILDERS[request.param](folder / "raw"), folder / f"{request.param}-converted")


# What the builders write


@pytest.fixture(scope="module", params=list(BUILDERS))
def miniature(request, tmp_path_factory) -> Miniature:
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param) / "raw")


def test_miniature_expects_only_images_that_are_on_disk(miniature):
    on_disk = {path.read_bytes() for path in miniature.root.rglob("*") if path.suffix in (".jpg", ".png")}
    for path in miniature.root.rglob("*.zip"):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                on_disk.update(archive.read(name) for name in archive.namelist())
    images = [row.image for split in miniature.splits.values() for video in split.videos for row in video.rows]
    shown = [image for image in images if image is not None]
    assert shown and set(shown) <= on_disk
    assert all(decode(image).ndim == 3 for image in set(shown))


def test_images_of_one_video_differ(miniature):
    for split in miniature.splits.values():
        for video in split.videos:
            assert len({row.image for row in video.rows}) == len(video.rows)


def test_truncated_image_opens_but_does_not_decode():
    image = PILImage.open(BytesIO(truncated_image()))
    assert image.size == (32, 24)
    with pytest.raises(OSError, match="truncated"):
        image.load()


def test_long_david_has_more_images_than_boxes(tmp_path):
    david = build_otb99(tmp_path, long_david=True).splits["train"].videos[0]
    assert len(list((tmp_path / "OTB_videos" / "David" / "img").iterdir())) == 770
    assert [david.rows[0].frame, david.rows[-1].frame] == [300, 770]


# What converting them gives


def test_rows_are_what_the_authors_files_say(conversion):
    check_rows(conversion.output, conversion.miniature.splits)


def test_nothing_but_shards_card_and_report_is_written(conversion):
    output, splits = conversion.output, conversion.miniature.splits
    evaluated = conversion.miniature.benchmark in BENCHMARK_PROTOCOLS and "test" in splits
    tasks = {"eval.yaml"} if evaluated else set()
    assert {path.name for path in output.iterdir()} == {"data", "README.md", "conversion_report.json"} | tasks
    names = {path.name for path in (output / "data").iterdir()}
    assert names == {path.name for split in splits for path in shards(output, split)}
    for split in splits:
        of = len(shards(output, split))
        assert [path.name for path in shards(output, split)] == [
            f"{split}-{number:05d}-of-{of:05d}.parquet" for number in range(of)
        ]


def test_report_counts_sequences_frames_absences_and_missing_sentences(conversion):
    expected = {split: part.counts for split, part in conversion.miniature.splits.items()}
    assert numbers(conversion.report) == expected
    written = json.loads((conversion.output / "conversion_report.json").read_text(encoding="utf-8"))
    assert written == {split: asdict(part) for split, part in conversion.report.items()}


def test_report_says_what_was_left_out_and_why(conversion):
    for split, expected in conversion.miniature.splits.items():
        skipped = [list(entry) for entry in conversion.report[split].skipped]
        assert len(skipped) == len(expected.skipped), skipped
        for name, pattern in expected.skipped:
            assert any(name in what and why and re.search(pattern, f"{what}: {why}") for what, why in skipped), (
                name,
                skipped,
            )


def test_datasets_reads_the_columns_with_their_types(conversion):
    features = dict(FEATURES)
    if conversion.miniature.benchmark == "got10k":
        features["cover"] = Value("int8")
    for split in conversion.miniature.splits:
        assert load_dataset(str(conversion.output), split=split).features == Features(features)


def test_reader_shows_the_sequences(conversion):
    for split, expected in conversion.miniature.splits.items():
        sequences = list(load_tracking_dataset(str(conversion.output), split=split))
        assert [sequence.name for sequence in sequences] == [video.name for video in expected.videos]
        shown = None
        for sequence, video in zip(sequences, expected.videos, strict=True):
            assert sequence.text == (video.text or video.category or "the target")
            np.testing.assert_array_equal(sequence.boxes, [row.box or (0, 0, 0, 0) for row in video.rows])
            assert sequence.visible.tolist() == [row.visible for row in video.rows]
            for index, row in enumerate(video.rows):
                shown = row.image or shown
                np.testing.assert_array_equal(sequence.frame(index), decode(shown))


def test_card_says_how_many_sequences_and_frames_there_are(conversion):
    card = DatasetCard.load(conversion.output / "README.md")
    assert card.data.pretty_name and f"# {card.data.pretty_name}\n" in card.text
    assert conversion.miniature.benchmark in re.sub(r"[^a-z0-9]", "", card.text.lower())
    for split, expected in conversion.miniature.splits.items():
        assert f"| {split} | {' | '.join(str(count) for count in expected.counts.values())} |" in card.text


def test_smaller_shards_hold_the_same_rows(conversion, tmp_path):
    other = convert_miniature(conversion.miniature, tmp_path / "shards", sequences_per_shard=1)
    check_rows(other.output, conversion.miniature.splits)
    assert other.report == conversion.report
    assert len(list((other.output / "data").iterdir())) > len(list((conversion.output / "data").iterdir()))
    for split in conversion.miniature.splits:
        tables = [pq.read_table(shard, columns=["sequence", "image"]) for shard in shards(other.output, split)]
        names = [name for table in tables for name in set(table["sequence"].to_pylist())]
        assert len(names) == len(set(names))  # no sequence is in two
        assert all(table["image"][0].is_valid for table in tables if len(table))


@pytest.mark.slow
def test_two_processes_write_the_same_rows(tmp_path):
    miniature = build_trackingnet(tmp_path / "raw")
    alone = convert_miniature(miniature, tmp_path / "alone", sequences_per_shard=1)
    other = convert_miniature(miniature, tmp_path / "together", sequences_per_shard=1, num_proc=2)
    check_rows(other.output, miniature.splits)
    assert other.report == alone.report


def test_converting_again_redoes_nothing(conversion):
    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (conversion.output / "data").iterdir()}

    before = times()
    again = convert_miniature(conversion.miniature, conversion.output)
    assert times() == before
    assert again.report == conversion.report


@pytest.mark.parametrize("settings", [{"sequences_per_shard": 1}, {"check": "full"}], ids=str)
def test_other_settings_in_the_same_folder_are_refused(settings, conversion):
    with pytest.raises(ValueError, match=re.escape(str(conversion.output))):
        convert_miniature(conversion.miniature, conversion.output, **settings)
    check_rows(conversion.output, conversion.miniature.splits)


@pytest.mark.parametrize(("split", "other"), [("test", build_tnl2k), ("train", build_lasotext)])
def test_another_benchmark_in_the_same_folder_is_refused(split, other, tmp_path):
    lasot = convert_miniature(build_lasot(tmp_path / "raw"), tmp_path / "converted", splits=[split])
    with pytest.raises(ValueError, match=re.escape(str(lasot.output))):
        convert_miniature(other(tmp_path / "other"), lasot.output)
    check_rows(lasot.output, {split: lasot.miniature.splits[split]})


def test_splits_converted_one_after_the_other_end_with_the_same_files(conversion, tmp_path):
    def contents(output: Path) -> dict[str, bytes]:
        return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}

    for split in reversed(conversion.miniature.splits):
        convert_miniature(conversion.miniature, tmp_path / "output", splits=[split])
    assert contents(tmp_path / "output") == contents(conversion.output)


def test_conversion_that_was_killed_goes_on_where_it_was(tmp_path):
    whole = convert_miniature(build_otb99(tmp_path / "raw"), tmp_path / "converted", sequences_per_shard=3)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (whole.output / "data").iterdir()}
    lost = shards(whole.output, "train")[1]
    lost.rename(lost.with_name(f".{lost.name}.partial"))
    again = convert_miniature(whole.miniature, whole.output, sequences_per_shard=3)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (whole.output / "data").iterdir()}
    assert again.report == whole.report
    assert {path for path in before if before[path] != after.get(path)} == {lost}
    assert after.keys() == before.keys() and after[lost][1] == before[lost][1]


def test_only_the_splits_asked_for_are_converted(conversion, tmp_path):
    miniature = conversion.miniature
    split = list(miniature.splits)[-1]
    one = convert_miniature(miniature, tmp_path / "one", splits=[split])
    assert list(one.report) == [split]
    assert one.report[split] == conversion.report[split]
    assert {path.name.partition("-")[0] for path in (one.output / "data").iterdir()} == {split}
    check_rows(one.output, {split: miniature.splits[split]})


@pytest.mark.parametrize("benchmark", list(BUILDERS))
def test_unknown_split_is_refused(benchmark, tmp_path):
    miniature = BUILDERS[benchmark](tmp_path / "raw")
    with pytest.raises(ValueError, match="holdout"):
        convert_miniature(miniature, tmp_path / "converted", splits=["holdout"])


def test_unknown_benchmark_is_refused_with_those_that_are_known(tmp_path):
    with pytest.raises(ValueError, match=r"'imagenet'.*lasot"):
        convert("imagenet", tmp_path, tmp_path / "converted")


@pytest.mark.parametrize("benchmark", list(BUILDERS))
def test_missing_root_is_named_with_its_benchmark(benchmark, tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match=benchmark) as caught:
        convert(benchmark, tmp_path / "nowhere", tmp_path / "converted")
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_a_colon_in_the_name_of_the_folder_is_no_protocol(tmp_path, monkeypatch, isolated_cache):
    monkeypatch.chdir(tmp_path)
    BUILDERS["lasot"](tmp_path / "raw:1")
    convert("lasot", "raw:1", "converted:1", progress=False)
    assert convert("lasot", "raw:1", "converted:1", progress=False)
    (first, *_) = load_tracking_dataset("converted:1", split="train")
    assert first.frame(0).ndim == 3


def test_a_folder_is_never_converted_into_itself(tmp_path):
    BUILDERS["lasot"](tmp_path / "raw")
    (tmp_path / "raw" / "README.md").write_text("of its authors")
    with pytest.raises(ValueError, match="is the folder to read"):
        convert("lasot", tmp_path / "raw", tmp_path / "raw")
    assert (tmp_path / "raw" / "README.md").read_text() == "of its authors"


@pytest.mark.parametrize("benchmark", list(BUILDERS))
def test_root_with_nothing_of_the_benchmark_says_what_was_looked_for(benchmark, tmp_path):
    (tmp_path / "raw" / "folder").mkdir(parents=True)
    (tmp_path / "raw" / "notes.txt").write_text("not a benchmark")
    with pytest.raises((FileNotFoundError, ValueError), match=benchmark) as caught:
        convert(benchmark, tmp_path / "raw", tmp_path / "converted")
    assert LOOKED_FOR[benchmark] in str(caught.value)
    assert str(tmp_path / "raw") in str(caught.value)


def test_splits_that_the_root_lacks_are_left_out_unless_asked_for(tmp_path):
    miniature = build_coco(tmp_path / "raw")
    (miniature.root / "annotations" / "instances_train2017.json").unlink()
    assert list(convert_miniature(miniature, tmp_path / "converted").report) == ["val"]
    with pytest.raises((FileNotFoundError, ValueError), match=r"coco.*train"):
        convert_miniature(miniature, tmp_path / "other", splits=["train"])


@pytest.mark.parametrize("benchmark", list(BUILDERS))
def test_files_that_a_mac_leaves_beside_all_others_change_nothing(benchmark, tmp_path):
    miniature = BUILDERS[benchmark](tmp_path / "raw")
    plain = convert_miniature(miniature, tmp_path / "plain")
    for path in list(miniature.root.rglob("*")):
        path.with_name(f"._{path.name.removeprefix('._')}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    marked = convert_miniature(miniature, tmp_path / "marked")
    check_rows(marked.output, miniature.splits)
    assert marked.report == plain.report


# What the reader makes of folders that are alike


def test_large_folders_are_read_by_several_processes_and_give_the_same_rows(tmp_path, monkeypatch):
    lasot = convert_miniature(build_lasot(tmp_path / "raw"), tmp_path / "converted", sequences_per_shard=1)
    monkeypatch.setattr("modeling_pjvlt.data.sources.LARGE", 0)
    monkeypatch.setattr("modeling_pjvlt.data.sources.available_cores", lambda: 2)
    sequences = load_tracking_dataset(str(lasot.output), split="train")
    expected = lasot.miniature.splits["train"].videos
    assert len(shards(lasot.output, "train")) > 2
    assert {(s.name, len(s)) for s in sequences} == {(video.name, len(video.rows)) for video in expected}
    assert len(sequences.rows.cache_files) == 2  # each process wrote its own


def test_reader_tells_folders_of_one_name_apart(tmp_path):
    for builder in (build_tnl2k, build_otb99):
        miniature = builder(tmp_path / builder.__name__ / "raw")
        output = convert_miniature(miniature, tmp_path / builder.__name__ / "alike", sequences_per_shard=99).output
        names = [sequence.name for sequence in load_tracking_dataset(str(output), split="test")]
        assert names == [video.name for video in miniature.splits["test"].videos]


def test_reader_sees_that_a_folder_was_converted_anew(tmp_path):
    for lists in (False, True):
        miniature = build_lasot(tmp_path / f"raw-{lists}", lists=lists)
        output = convert_miniature(miniature, tmp_path / "anew", sequences_per_shard=99).output
        names = [sequence.name for sequence in load_tracking_dataset(str(output), split="test")]
        assert names == [video.name for video in miniature.splits["test"].videos]
        shutil.rmtree(output)
