"""Converting what only some of the benchmarks have: lists of splits, class maps, names of frames, damaged files."""

import re
import shutil
import zipfile

import pytest
from conversions import check_rows, convert_miniature, decode, read_videos
from miniatures import build_lasot, build_otb99, build_tnl2k, build_trackingnet
from PIL import Image as PILImage

from modeling_pjvlt.cli.convert import main as command
from modeling_pjvlt.data.converters import convert


def test_lasot_splits_come_from_lists_where_there_are_some(tmp_path):
    lasot = convert_miniature(build_lasot(tmp_path / "raw", lists=True), tmp_path / "converted")
    check_rows(lasot.output, lasot.miniature.splits)


@pytest.mark.parametrize(
    ("benchmark", "split", "listed"), [("lasot", "test", "testing_set.txt"), ("got10k", "val", "val/list.txt")]
)
def test_lists_of_sequences_may_name_one_with_blanks(benchmark, split, listed, tmp_path):
    root = tmp_path / "raw"
    folder = (root if benchmark == "lasot" else root / "val") / "my dog-1"
    frames = folder / "img" if benchmark == "lasot" else folder
    frames.mkdir(parents=True)
    PILImage.new("L", (8, 6)).save(frames / "00000001.png")
    (folder / "groundtruth.txt").write_text("1,1,2,2\n")
    (root / listed).write_text("my dog-1\n")
    report = convert(benchmark, root, tmp_path / "converted", [split], progress=False)
    assert [video.name for video in read_videos(tmp_path / "converted", split)] == ["my dog-1"], report


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
    assert 'of test has a sentence, so each gets "the target"' in capsys.readouterr().err


def test_sentences_for_other_names_are_noticed(tmp_path, capsys):
    miniature = build_lasot(tmp_path / "raw")
    path = tmp_path / "sentences.tsv"
    words = ["lasot", str(miniature.root), "--output", str(tmp_path / "out"), "--splits", "train"]
    path.write_text("elsewhere-1\ta sentence\n")
    assert command([*words, "--sentences", str(path)]) == 0
    assert f"{path} names none of these sequences" in capsys.readouterr().err
    path.write_text(f"{miniature.splits['train'].videos[0].name}\ta sentence\n")
    assert command([*words[:3], str(tmp_path / "more"), *words[4:], "--sentences", str(path)]) == 0
    assert "names none" not in capsys.readouterr().err


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


@pytest.mark.parametrize("benchmark", ["trackingnet", "yolo"])
@pytest.mark.parametrize(
    ("flag", "content", "message"),
    [
        ("--class_map", None, "--class_map: no file at {path}"),
        ("--class_map", "0\tcat\n1\n", "{path}, line 2: expected `"),
        ("--class_map", "cat\tdog\nmouse\n", "{path}, line "),
        ("--sentences", None, "--sentences: no file at {path}"),
        ("--sentences", b"a\t\xff", "--sentences: {path} is not text in UTF-8"),
        ("--sentences", "no tab", "{path}, line 1: expected `sequence<TAB>sentence`"),
    ],
)
def test_file_of_the_user_that_cannot_be_used_is_named_before_anything_is_written(
    benchmark, flag, content, message, tmp_path, capsys
):
    root, path, output = tmp_path / "raw", tmp_path / "mine.tsv", tmp_path / "converted"
    for part in ("images", "labels", "TEST/anno"):
        (root / part).mkdir(parents=True)
    (root / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "TEST/anno/a.txt").write_text("1,1,2,2\n")
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert command([benchmark, str(root), "--output", str(output), flag, str(path)]) == 2
    assert message.format(path=path) in capsys.readouterr().err and not output.exists()


def test_class_map_of_a_benchmark_that_brings_its_classes_is_refused(tmp_path):
    miniature = build_lasot(tmp_path / "raw")
    with pytest.raises(ValueError, match="--class_map is for trackingnet and yolo; lasot brings its classes"):
        convert_miniature(miniature, tmp_path / "converted", class_map=tmp_path / "classes.tsv")
    assert not (tmp_path / "converted").exists()


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
