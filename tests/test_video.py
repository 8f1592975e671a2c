import doctest
import os
import struct
import warnings
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image
from tqdm import tqdm

from modeling_pjvlt import video_pjvlt, video_writer_pjvlt
from modeling_pjvlt.data.frames import VideoFrames
from modeling_pjvlt.video_pjvlt import read_frames, sort_frames
from modeling_pjvlt.video_writer_pjvlt import VideoWriter


def flat_frames(count, height=48, width=64):
    """Frames of one grey level each, 10 apart, so that a decoded frame tells its own number."""
    return [np.full((height, width, 3), 10 + 10 * index, np.uint8) for index in range(count)]


def noise_frames(count, height=48, width=64):
    """Frames that hardly compress, so that a file has many bytes to lose."""
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8))


def write_video(path, frames, fps=25.0):
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def write_faststart(path, frames):
    """A video with its index in front, as on the web: what is left of it after a broken download still opens."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    return path.read_bytes()


def write_audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return path


def grey_levels(frames):
    return [round(float(frame.mean()) / 10) * 10 for frame in frames]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_video_round_trip_keeps_count_order_and_colours(tmp_path, suffix):
    frames = flat_frames(12)
    for frame in frames:
        frame[:, 32:] = (200, 30, 40)
    path = write_video(tmp_path / f"clip{suffix}", frames, fps=30000 / 1001)
    reader = read_frames(path)
    decoded = list(reader)
    assert reader.fps == pytest.approx(30000 / 1001)
    assert reader.num_frames in (12, None)
    assert len(decoded) == 12
    assert decoded[0].dtype == np.uint8 and decoded[0].flags.c_contiguous
    for frame, original in zip(decoded, frames, strict=True):
        # Colour is stored at half resolution, so the seam between the halves is left out.
        for columns in (slice(0, 28), slice(36, 64)):
            assert np.abs(frame[:, columns].astype(int) - original[:, columns]).max() <= 6


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (7, 3), (128, 16)])
def test_video_is_decoded_on_half_of_the_cores(tmp_path, monkeypatch, cores, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    path, opened, open_container = write_video(tmp_path / "clip.mp4", flat_frames(2)), [], video_pjvlt._open_container
    monkeypatch.setattr(video_pjvlt, "_open_container", lambda path: opened.append(open_container(path)) or opened[-1])
    for _ in read_frames(path):
        assert opened[-1].streams.video[0].codec_context.thread_count == threads


def test_reader_starts_again_on_each_iteration(tmp_path):
    reader = read_frames(write_video(tmp_path / "clip.mp4", flat_frames(5)))
    assert grey_levels(reader) == grey_levels(reader) == [10, 20, 30, 40, 50]


IDENTITY = (1, 0, 0, 1)
MATRICES = {  # a, b, c, d of a display matrix: x' = a x + c y, y' = b x + d y; and the same of an array
    "upright": (IDENTITY, lambda f: f),
    "a quarter turn clockwise": ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
    "half a turn": ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
    "a quarter turn counterclockwise": ((0, -1, 1, 0), lambda f: np.rot90(f)),
    "mirrored": ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda f: f[::-1]),
    "mirrored and turned": ((0, 1, 1, 0), lambda f: f.swapaxes(0, 1)),
    "mirrored and turned the other way": ((0, -1, -1, 0), lambda f: f.swapaxes(0, 1)[::-1, ::-1]),
}


def matrix(a, b, c, d):
    return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize("kind", MATRICES)
def test_videos_are_shown_as_their_display_matrix_says(tmp_path, kind):
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:16, :16], frame[32:, :16] = 255, 120
    path = write_video(tmp_path / "phone.mp4", [frame])
    (stored,), content = read_frames(path), path.read_bytes()
    numbers, expected = MATRICES[kind]
    # The first matrix belongs to the whole file, the last one to the video track.
    at, shown = content.rindex(matrix(*IDENTITY)), matrix(*numbers)
    path.write_bytes(content[:at] + shown + content[at + len(shown) :])
    for (decoded,) in (read_frames(path), [VideoFrames(path, 1).open(0)]):
        np.testing.assert_array_equal(decoded, expected(stored))
        assert decoded.flags.c_contiguous


def write_thumbnail_and_video(path, frames, disposition=None):
    """What drones write: before the video a stream of one small frame."""
    with av.open(str(path), "w") as container:
        still = container.add_stream("mjpeg", rate=25)
        still.height, still.width, still.pix_fmt = 16, 32, "yuvj420p"
        if disposition is not None:
            still.disposition = disposition
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        container.mux(still.encode(av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8))))
        container.mux(still.encode(None))
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("disposition", [None, Disposition.attached_pic, Disposition.default], ids=str)
def test_thumbnail_before_the_video_is_not_taken_for_it(tmp_path, disposition):
    path = write_thumbnail_and_video(tmp_path / "drone.mp4", flat_frames(6), disposition)
    reader = read_frames(path)
    assert reader.num_frames == 6 and grey_levels(reader) == [10, 20, 30, 40, 50, 60]
    assert grey_levels([VideoFrames(path, 6).open(4)]) == [50]


def test_cover_alone_is_read_as_a_video_of_one_frame(tmp_path):
    path = tmp_path / "still.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 32, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8))))
        container.mux(stream.encode(None))
    (frame,) = read_frames(path)
    assert frame.shape == (16, 32, 3)


def test_folder_is_read_in_natural_order(tmp_path):
    for number in (10, 2, 1, 11):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    Image.new("L", (8, 6), 20).save(tmp_path / "FRAME20.JPG")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._frame1.png").write_bytes(b"not an image either")
    reader = read_frames(str(tmp_path))
    frames = list(reader)
    assert reader.num_frames == 5 and reader.fps == 30
    assert [frame[0, 0, 0] for frame in frames] == [1, 2, 10, 11, 20]
    assert all(frame.shape == (6, 8, 3) and frame.dtype == np.uint8 for frame in frames)


ORDERS = {  # of frames, by their names
    "numbers": ["frame1", "FRAME2", "frame10", "frame11"],
    "seconds and microseconds": ["10.975304", "11.011215", "11.043227", "11.107410"],
    "seconds as Python writes them": ["9.96", "10.0", "10.04", "10.125", "10.5", "10.75"],
    "time since 1970 as Python writes it": ["1712345678.25125", "1712345678.5", "1712345678.75", "1712345679.125"],
    "clip and counter": ["1.1", "1.2", "1.9", "1.10", "1.11", "2.1"],
    "clip and padded counter": ["1.0099", "1.0101", "1.9999", "1.10000"],
    "clip and every other frame": ["1.1", "1.3", "1.9", "1.11", "1.101"],
    "number and camera": ["0001_cam1", "0002_cam0", "0003_cam1", "0010_cam0"],
    "nanoseconds": ["999999999999999999", "1403636579763555584", "1403636579813555456"],
}


@pytest.mark.parametrize("kind", ORDERS)
def test_frames_are_sorted_by_their_names(tmp_path, kind):
    names = ORDERS[kind]
    for number, name in enumerate(names):
        Image.new("L", (8, 6), number).save(tmp_path / f"{name}.png")
    assert [frame[0, 0, 0] for frame in read_frames(tmp_path)] == list(range(len(names)))
    assert sort_frames(reversed(names)) == names


def test_examples_in_the_docstrings_are_true():
    assert doctest.testmod(video_pjvlt).failed == 0


def test_orientation_of_photographs_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to look at it
    Image.new("RGB", (8, 6)).save(tmp_path / "photo.jpg", exif=exif)
    (frame,) = read_frames(tmp_path)
    assert frame.shape == (8, 6, 3)


DEEP = {  # images of more than 8 bits a value, as thermal cameras and renderers write them
    "16-bit PNG": ("png", lambda grey: Image.fromarray(grey.astype(np.uint16) * 257)),
    "16-bit TIFF": ("tiff", lambda grey: Image.fromarray(grey.astype(np.uint16) * 257)),
    "32-bit TIFF": ("tiff", lambda grey: Image.fromarray(grey.astype(np.int32) * 257)),
    "float TIFF": ("tif", lambda grey: Image.fromarray(grey.astype(np.float32) / 255)),
}


@pytest.mark.parametrize("kind", DEEP)
def test_images_of_more_than_8_bits_keep_their_brightness(tmp_path, kind):
    suffix, make = DEEP[kind]
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for number in range(2):
        make(grey + 100 * number).save(tmp_path / f"{number}.{suffix}")
    for number, frame in enumerate(read_frames(tmp_path)):
        np.testing.assert_array_equal(frame, np.dstack([grey + 100 * number] * 3))


def test_float_image_beyond_1_is_named(tmp_path):
    Image.fromarray(np.full((6, 8), 290.5, np.float32)).save(tmp_path / "kelvin.tif")
    with pytest.raises(ValueError, match=r"kelvin.tif: .*float32 must hold 0 to 1, got 290.5 to 290.5"):
        list(read_frames(tmp_path))


def test_iterables_are_passed_through_unchanged():
    frames = [np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (4, 4)), torch.zeros(3, 4, 4)]
    reader = read_frames(frames)
    assert reader.num_frames == 3
    assert all(frame is original for frame, original in zip(reader, frames, strict=True))
    assert read_frames(iter(frames)).num_frames is None
    assert len(list(read_frames(np.zeros((5, 4, 4, 3), np.uint8)))) == 5


class Decoder:
    """As torchcodec's `VideoDecoder`, which `datasets` gives for a video: a length, an index, and no iterator."""

    metadata = SimpleNamespace(average_fps=12.5)

    def __init__(self, frames):
        self.frames = frames

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        return self.frames[index % len(self.frames)]  # no IndexError ends it


class WrappingDecoder(Decoder):
    """As decord's `VideoReader`, whose arrays are its own."""

    def __getitem__(self, index):
        return SimpleNamespace(asnumpy=lambda: self.frames[index])

    def get_avg_fps(self):
        return 24.0


@pytest.mark.parametrize(("decoder", "fps"), [(Decoder, 12.5), (WrappingDecoder, 24.0)])
def test_decoders_that_can_only_be_indexed_are_read(decoder, fps):
    frames = flat_frames(3)
    reader = read_frames(decoder(frames))
    assert (reader.fps, reader.num_frames, reader.is_repeatable) == (fps, 3, True)
    for _ in range(2):
        assert all(frame is original for frame, original in zip(reader, frames, strict=True))


def test_map_style_dataset_of_torch_is_read():
    class Frames(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return torch.full((3, 4, 4), index, dtype=torch.uint8)

    reader = read_frames(Frames())
    assert [int(frame.max()) for frame in reader] == [0, 1, 2] and reader.fps == 30


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, frames):
        self.frames = frames

    def __iter__(self):
        return iter(self.frames)


class NoLength(list):
    """As a reader of imageio whose plugin does not know the length: `Format.Reader._get_length` does this."""

    def __len__(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    "wrap",
    [
        lambda frames: tqdm(frame for frame in frames),
        lambda frames: torch.utils.data.DataLoader(Stream(frames), batch_size=None, collate_fn=lambda frame: frame),
        Stream,
        NoLength,
        iter,
    ],
)
def test_iterables_whose_length_is_unknown_are_read_once(wrap):
    frames = flat_frames(3)
    reader = read_frames(wrap(frames))
    assert reader.num_frames is None and not reader.is_repeatable
    assert grey_levels(reader) == [10, 20, 30]


def test_files_and_collections_can_be_read_again_and_live_streams_cannot(tmp_path):
    mkv = write_video(tmp_path / "clip.mkv", flat_frames(3))
    assert read_frames(mkv).num_frames is None
    for source in (mkv, flat_frames(3), tuple(flat_frames(3)), np.zeros((5, 4, 4, 3), np.uint8)):
        assert read_frames(source).is_repeatable


@pytest.mark.parametrize("name", ["take:1.mp4", "cam:1/c.mp4", "tcp:x.mkv", "concat:a|b.mp4", "crypto+file:1.mp4"])
def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert grey_levels(read_frames(write_video(name, flat_frames(3)))) == [10, 20, 30]
    assert not list(tmp_path.rglob(".*"))


def write_browser_recording(path, times):
    """As browsers record: no length, no count of frames, and a "frame rate" that is the clock's thousand ticks."""
    with av.open(str(path), "w", options={"live": "1"}) as container:
        stream = container.add_stream("libvpx", rate=1000)
        stream.height, stream.width = 48, 64
        for frame, time in zip(flat_frames(len(times)), times, strict=True):
            video_frame = av.VideoFrame.from_ndarray(frame).reformat(format="yuv420p")
            video_frame.pts, video_frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(video_frame))
        container.mux(stream.encode(None))
    return path


def test_rate_of_a_clock_is_not_taken_for_that_of_the_frames(tmp_path):
    times = [0, 1, *range(35, 335, 33)]
    reader = read_frames(write_browser_recording(tmp_path / "clip.webm", times))
    assert reader.num_frames is None and reader.fps == pytest.approx(1000 * (len(times) - 1) / times[-1])
    assert [frame.time for frame in reader.timed()] == pytest.approx([time / 1000 for time in times])


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_frames_at_their_times_are_read_at_their_times(tmp_path, suffix):
    times = [5.0, 5.04, 5.5, 5.52, 7.0]
    with VideoWriter(tmp_path / f"clip{suffix}", 25) as writer:
        for frame, time in zip(flat_frames(5), times, strict=True):
            writer.write(frame, time)
    frames = list(read_frames(writer.path).timed())
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
    assert grey_levels(frame.image for frame in frames) == [10, 20, 30, 40, 50]
    assert [frame.time for frame in frames] == pytest.approx([time - 5 for time in times], abs=1e-3)


def test_frames_without_times_come_at_the_rate_of_their_source():
    timed = list(read_frames(flat_frames(3)).timed())
    assert [(frame.number, frame.time) for frame in timed] == [(0, 0), (1, 1 / 30), (2, 2 / 30)]


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_called_one(path):
    if not Path(path).is_char_device():
        pytest.skip(f"this system has no {path}")
    with pytest.raises(ValueError, match=f"{path}: this is a device, not a video file"):
        read_frames(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_called_one_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=r"clip\.mp4: this is a pipe or a socket, not a video file"):
        read_frames(tmp_path / "clip.mp4")


def test_the_device_of_a_camera_is_opened_as_one(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(video_pjvlt, "open_camera", lambda index, timeout: opened.append((index, timeout)))
    monkeypatch.setattr(Path, "is_char_device", lambda path: True)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    (tmp_path / "usb-camera").symlink_to("/dev/video3")  # as /dev/v4l/by-id has it
    read_frames(tmp_path / "usb-camera", timeout=2)
    read_frames("/dev/video0")
    assert opened == [(3, 2), (0, 10)]


def test_single_frame_is_refused_as_a_source():
    with pytest.raises(ValueError, match=r"single array of shape \(4, 6, 3\)"):
        read_frames(np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match="got one image of 4 x 4; put it in a list"):
        read_frames(Image.new("RGB", (4, 4)))


def test_missing_path_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        read_frames("nowhere.mp4")


def test_folder_without_images_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: no images"):
        read_frames(tmp_path)


@pytest.mark.parametrize("broken", [b"", b"not an image", None])
def test_undecodable_image_is_named(tmp_path, broken):
    good = tmp_path / "1.png"
    Image.fromarray(noise_frames(1)[0]).save(good)
    (tmp_path / "2.png").write_bytes(good.read_bytes()[:2000] if broken is None else broken)
    frames = iter(read_frames(tmp_path))
    next(frames)
    with pytest.raises(ValueError, match=r"2\.png: cannot be decoded"):
        next(frames)


def test_empty_file_is_named(tmp_path):
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(ValueError, match=r"clip\.mp4: the file is empty"):
        read_frames(tmp_path / "clip.mp4")


def test_file_that_is_no_video_is_named(tmp_path):
    (tmp_path / "clip.mp4").write_text("hello " * 200)
    with pytest.raises(ValueError, match=r"clip\.mp4: not a video"):
        read_frames(tmp_path / "clip.mp4")


def test_audio_without_video_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"sound\.m4a: no video in this file"):
        read_frames(write_audio(tmp_path / "sound.m4a"))


def test_video_without_its_index_is_named(tmp_path):
    path = write_video(tmp_path / "clip.mp4", noise_frames(10))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"clip\.mp4: not a video"):
        read_frames(path)


def test_video_cut_off_before_its_first_frame_is_named(tmp_path):
    path = tmp_path / "clip.mp4"
    content = write_faststart(path, noise_frames(10))
    path.write_bytes(content[: content.index(b"mdat") + 4])
    with pytest.raises(ValueError, match=r"clip\.mp4: (the video breaks off after 0|no) frame"):
        list(read_frames(path))


def test_video_that_ends_early_gives_its_frames_and_a_warning(tmp_path):
    path = tmp_path / "clip.mp4"
    content = write_faststart(path, noise_frames(20))
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"clip\.mp4: \d+ of 20 frames"):
        assert 5 <= len(list(read_frames(path))) < 15


def test_complete_video_gives_no_warning(tmp_path):
    path = write_video(tmp_path / "clip.mp4", noise_frames(20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read_frames(path))) == 20


def test_damaged_video_gives_its_frames_and_then_says_where_it_broke(tmp_path):
    path = write_video(tmp_path / "clip.mp4", noise_frames(20))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 6000] = bytes(6000)
    path.write_bytes(content)
    frames = iter(read_frames(path))
    next(frames)
    with pytest.raises(ValueError, match=r"clip\.mp4: the video breaks off after \d+ frames"):
        list(frames)


def test_missing_pyav_is_named(tmp_path, monkeypatch):
    for module in (video_pjvlt, video_writer_pjvlt):
        monkeypatch.setattr(module, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"any")
    with pytest.raises(ImportError, match="pip install av"):
        read_frames(tmp_path / "clip.mp4")
    with pytest.raises(ImportError, match="pip install av"):
        VideoWriter(tmp_path / "out.mp4", 25)
