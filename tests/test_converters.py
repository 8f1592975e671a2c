"""Converting the seven benchmarks as their authors lay them out: rows, reports, shards, and what is refused."""

import json
import re
import shutil
import zipfile
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, List, Value, load_dataset
from huggingface_hub import DatasetCard
from miniatures import BUILDERS, build_coco, build_lasot, build_lasotext, build_otb99, build_tnl2k, build_trackingnet
from miniatures_common import Miniature, Row, Split, Video, truncated_image
from PIL import Image as PILImage

from modeling_pjvlt.cli.convert import main as command
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


@dataclass(frozen=True)
class Conversion:
    """A miniature, the folder of its conversion, and the report."""

    miniature: Miniature
    output: Path
    report: dict


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


def convert_miniature(miniature: Miniature, output: Path, **options) -> Conversion:
    options = {"class_map": miniature.class_map, "progress": False, **options}
    return Conversion(miniature, output, convert(miniature.benchmark, miniature.root, output, **options))


def shards(output: Path, split: str) -> list[Path]:
    return sorted((output / "data").glob(f"{split}-*"))


def read_videos(output: Path, split: str) -> list[Video]:
    """What the shards of a split hold, in the order of their rows; consecutive rows of one sequence are a video."""
    rows = [row for shard in shards(output, split) for row in pq.read_table(shard).to_pylist()]
    return [
        Video(*named, tuple(map(read_row, group)))
        for named, group in groupby(rows, key=itemgetter("sequence", "text", "category"))
    ]


def read_row(row: dict) -> Row:
    image = row["image"] and row["image"]["bytes"]
    box = None if row["box"] is None else tuple(row["box"])
    return Row(row["frame"], image, box, row["visible"], row.get("cover"))


def without_images(videos) -> list[tuple]:
    """All of the videos but the images, so that a failure can be read."""
    return [
        (video.name, video.text, video.category, [(row.frame, row.box, row.visible, row.cover) for row in video.rows])
        for video in videos
    ]


def check_rows(output: Path, splits: dict[str, Split]) -> None:
    """Every row is as expected, to the last byte of its image."""
    for split, expected in splits.items():
        videos = read_videos(output, split)
        assert without_images(videos) == without_images(expected.videos)
        wrong = [
            f"{video.name}, frame {row.frame}"
            for video, right in zip(videos, expected.videos, strict=True)
            for row, right_row in zip(video.rows, right.rows, strict=True)
            if row.image != right_row.image
        ]
        assert not wrong


def numbers(report: dict) -> dict:
    """The report as plain data."""
    names = ("sequences", "frames", "absent", "without_text")
    return {split: {name: getattr(part, name) for name in names} for split, part in report.items()}


def decode(encoded: bytes) -> np.ndarray:
    return np.array(PILImage.open(BytesIO(encoded)).convert("RGB"))


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


# What only some of the benchmarks have


def test_lasot_splits_come_from_lists_where_there_are_some(tmp_path):
    lasot = convert_miniature(build_lasot(tmp_path / "raw", lists=True), tmp_path / "converted")
    check_rows(lasot.output, lasot.miniature.splits)


def test_lasot_without_folders_of_categories_gives_the_same_rows(tmp_path):
    lasot = convert_miniature(build_lasot(tmp_path / "raw", flat=True), tmp_path / "converted")
    check_rows(lasot.output, lasot.miniature.splits)


def test_trackingnet_is_not_converted_for_training_without_classes(tmp_path, capsys):
    miniature = build_trackingnet(tmp_path / "raw")
    with pytest.raises(
        ValueError, match=r"6 training sequences in .* no --class_map was given: a file of lines ID<TAB>"
    ):
        convert_miniature(miniature, tmp_path / "converted", class_map=None)
    other = tmp_path / "other.tsv"
    other.write_text("somebody\tperson\n")
    with pytest.raises(ValueError, match=r"other\.tsv names none of them"):
        convert_miniature(miniature, tmp_path / "converted", class_map=other)
    assert not (tmp_path / "converted").exists()
    test = [str(miniature.root), "--output", str(tmp_path / "converted"), "--splits", "test"]
    assert command(["trackingnet", *test]) == 0
    assert 'of test has a sentence, so each is called "the target"' in capsys.readouterr().err


@pytest.mark.parametrize("num_proc", [1, 2])
def test_sentences_of_a_file_replace_the_benchmarks_own(num_proc, tmp_path):
    miniature = build_lasot(tmp_path / "raw")
    first, *others = (video.name for video in miniature.splits["train"].videos)
    path = tmp_path / "sentences.tsv"
    path.write_text(f"{first}\tmine, not yours\n")
    output = tmp_path / "converted"
    lasot = convert_miniature(miniature, output, sentences=path, num_proc=num_proc, sequences_per_shard=1)
    texts = {video.name: video.text for video in read_videos(lasot.output, "train")}
    own = {video.name: video.text for video in miniature.splits["train"].videos}
    assert texts == {**own, first: "mine, not yours"} and others
    path.write_text(f"{first}\tanother\n")
    with pytest.raises(ValueError, match="other settings"):
        convert_miniature(miniature, output, sentences=path, sequences_per_shard=1)


def test_trackingnet_refuses_a_folder_made_with_other_classes(tmp_path):
    net = convert_miniature(build_trackingnet(tmp_path / "raw"), tmp_path / "converted")
    other = tmp_path / "other.tsv"
    other.write_text(net.miniature.class_map.read_text() + "somebody\tperson\n")
    with pytest.raises(ValueError, match=re.escape(str(net.output))):
        convert_miniature(net.miniature, net.output, class_map=other)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("inside", [False, True], ids=["from_outside", "from_inside"])
def test_tnl2k_knows_the_split_of_a_root_by_its_own_name(split, inside, tmp_path, monkeypatch):
    miniature = build_tnl2k(tmp_path / "raw")
    root = miniature.root / f"TNL2K_{split}_subset"
    if inside:
        monkeypatch.chdir(root)
    report = convert("tnl2k", "." if inside else root, tmp_path / "converted", progress=False)
    assert list(report) == [split]
    check_rows(tmp_path / "converted", {split: miniature.splits[split]})


def test_tnl2k_tells_the_split_by_the_nearest_folder_that_names_one(tmp_path):
    tnl2k = convert_miniature(build_tnl2k(tmp_path / "training_data"), tmp_path / "converted")
    check_rows(tnl2k.output, tnl2k.miniature.splits)


def test_otb99_boxes_of_david_belong_to_frames_300_to_770_of_all_his_images(tmp_path):
    otb = convert_miniature(build_otb99(tmp_path / "raw", long_david=True), tmp_path / "converted", splits=["train"])
    check_rows(otb.output, {"train": otb.miniature.splits["train"]})


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["10.975304", "11.011215", "11.043227"], [0, 1, 2]),  # a part of a second says nothing about the frame
        (["0001_cam1", "0002_cam0", "0003_cam1"], [0, 1, 2]),
        (["1403636579763555584", "1403636579813555456", "1403636579863555584"], [0, 1, 2]),  # too large for a row
        (["f8", "f9", "f10"], [8, 9, 10]),
    ],
)
def test_boxes_meet_their_frames_whatever_these_are_called(names, numbers, zipped, tmp_path):
    frames, anno = tmp_path / "in" / "TRAIN_0" / "frames" / "clip", tmp_path / "in" / "TRAIN_0" / "anno"
    frames.mkdir(parents=True)
    anno.mkdir()
    for number, name in enumerate(names):
        PILImage.new("L", (8, 6), 50 * number).save(frames / f"{name}.png")
    (anno / "clip.txt").write_text("".join(f"{number},1,2,2\n" for number in range(len(names))))
    if zipped:
        (tmp_path / "in" / "TRAIN_0" / "zips").mkdir()
        with zipfile.ZipFile(tmp_path / "in" / "TRAIN_0" / "zips" / "clip.zip", "w") as archive:
            for path in frames.iterdir():
                archive.write(path, path.name)
        shutil.rmtree(frames)
    (tmp_path / "classes.tsv").write_text("clip\tdog\n")
    convert("trackingnet", tmp_path / "in", tmp_path / "out", class_map=tmp_path / "classes.tsv", progress=False)
    (video,) = read_videos(tmp_path / "out", "train")
    assert [row.frame for row in video.rows] == numbers
    assert [(decode(row.image)[0, 0, 0], row.box[0]) for row in video.rows] == [(0, 0), (50, 1), (100, 2)]


def test_full_check_finds_an_image_that_is_damaged_inside(tmp_path):
    miniature = build_tnl2k(tmp_path / "raw")
    (path,) = miniature.root.rglob("Arrow_Video_ZZ04_done/imgs/00002.png")
    data = bytearray(path.read_bytes())
    middle = data.index(b"IDAT") + 8
    data[middle : middle + 8] = bytes(8)
    path.write_bytes(data)
    fast, full = (
        convert_miniature(miniature, tmp_path / check, splits=["train"], check=check).report["train"]
        for check in ("fast", "full")
    )
    assert full.frames == fast.frames - 1 == 9
    (found,) = [entry for entry in full.skipped if entry not in fast.skipped]
    assert "Arrow_Video_ZZ04_done" in found[0] and "00002.png" in found[0]
    assert read_videos(tmp_path / "full", "train")[0].rows[1].frame == 3


@pytest.mark.parametrize(
    "where", ["compressed data", "compression method", "another method", "flags", "flag of a patch"]
)
def test_trackingnet_drops_the_frame_that_is_damaged_inside_its_archive(tmp_path, where):
    miniature = build_trackingnet(tmp_path / "raw")
    archive = miniature.root / "TRAIN_1" / "zips" / "A1RSx6j_ra0_10.zip"
    with zipfile.ZipFile(archive) as old:
        files = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in files.items():
            new.writestr(name, content)
        start = new.getinfo("2.jpg").header_offset + 30 + len("2.jpg")
    data = bytearray(archive.read_bytes())
    if where == "compressed data":
        data[start : start + 40] = b"\xff" * 40
    else:
        entry = data.rindex(b"2.jpg") - 46  # of the central directory
        offset, number = {
            "flags": (8, 1),
            "flag of a patch": (8, 0x20),
            "compression method": (10, 0xFFFF),
            "another method": (10, zipfile.ZIP_LZMA),
        }[where]
        data[entry + offset : entry + offset + 2] = number.to_bytes(2, "little")
    archive.write_bytes(data)
    report = convert_miniature(miniature, tmp_path / "converted", splits=["train"]).report["train"]
    (video,) = [v for v in read_videos(tmp_path / "converted", "train") if v.name == "A1RSx6j_ra0_10"]
    assert [row.frame for row in video.rows] == [0, 1, 3]
    assert any("A1RSx6j_ra0_10" in what and "2.jpg" in what for what, _ in report.skipped)
