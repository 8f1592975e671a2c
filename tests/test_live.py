"""Cameras, streams on loopback that stall, end, break and change size, and decoding ahead in a thread."""

import io
import itertools
import math
import re
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_video import flat_frames, grey_levels, write_thumbnail_and_video, write_video

from modeling_pjvlt import live_pjvlt
from modeling_pjvlt.live_pjvlt import Clock, FrameReader, Handoff, Tally, public_name, read_ahead
from modeling_pjvlt.video_pjvlt import read_frames

QUICK = 0.15  # seconds: the timeout of tests in which a stream stalls


TS = "video/mp2t"
MJPEG = "multipart/x-mixed-replace;boundary=ffmpeg"


def encode(frames, container="mpjpeg", codec="mjpeg"):
    """A stream without an index, as bytes: by default the parts of an MJPEG page, as network cameras have it."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as written:
        stream = written.add_stream(codec, rate=25, options={"g": "1"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in frames:
            written.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        written.mux(stream.encode(None))
    return out.getvalue()


def transport(frames):
    return encode(frames, "mpegts", "mpeg2video")


class Broadcast:
    """A web server whose one page is made of parts: bytes to send, and events to wait for."""

    def __init__(self, parts, content_type, length):
        self.parts, self.content_type, self.length = parts, content_type, length
        self.requests = 0
        self.over = threading.Event()
        broadcast = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                broadcast.requests += 1
                broadcast.send(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/live"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def send(self, handler):
        handler.send_response(200)
        handler.send_header("Content-Type", self.content_type)
        if self.length is not None:
            handler.send_header("Content-Length", str(self.length))
        handler.end_headers()
        try:
            for part in self.parts:
                if isinstance(part, bytes):
                    handler.wfile.write(part)
                    handler.wfile.flush()
                else:
                    part.wait(5)
        except OSError:  # the reader has gone
            pass

    def close(self):
        self.over.set()
        for part in self.parts:
            if not isinstance(part, bytes):
                part.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def broadcast():
    """Function: `broadcast(*parts, content_type=MJPEG, length=None)`, an HTTP stream on loopback."""
    servers = []

    def start(*parts, content_type=MJPEG, length=None):
        servers.append(Broadcast(parts, content_type, length))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def wait_until(condition):
    """Look again and again, for two seconds at most."""
    deadline = time.monotonic() + 2
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert condition()


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name == "pjvlt-frames"]


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    wait_until(lambda: not decoding_threads())


# Cameras


@pytest.mark.parametrize(
    ("platform", "device", "format"),
    [("linux", "/dev/video7", "v4l2"), ("darwin", "7:none", "avfoundation"), ("win32", "video=Front", "dshow")],
)
def test_each_system_has_its_name_for_a_camera(monkeypatch, platform, device, format):
    monkeypatch.setattr(live_pjvlt.sys, "platform", platform)
    monkeypatch.setattr(live_pjvlt, "_windows_camera", lambda index: "Front")
    found, options = live_pjvlt._camera_device(7)
    assert (found, options["format"]) == (device, format)


def test_camera_that_is_not_there_names_the_device(monkeypatch):
    monkeypatch.setattr(live_pjvlt.sys, "platform", "linux")
    with pytest.raises(OSError, match=r"camera 97 \(/dev/video97\): cannot be opened|PyAV cannot open it"):
        read_frames(97)
    with pytest.raises(ValueError, match="0 or more, got -1"):
        read_frames(-1)
    with pytest.raises(TypeError, match="got bool"):
        read_frames(True)


def test_camera_gives_its_frames(tmp_path, monkeypatch):
    # A file of raw MJPEG has no length and no index, like a camera.
    path = tmp_path / "camera.mjpeg"
    path.write_bytes(encode(flat_frames(3), "mjpeg", "mjpeg"))
    monkeypatch.setattr(live_pjvlt, "_camera_device", lambda index: (str(path), {"format": "mjpeg"}))
    reader = read_frames(0)
    assert reader.is_live and not reader.is_repeatable and reader.num_frames is None
    frames = list(reader)
    assert len(frames) + reader.num_dropped == 3
    assert grey_levels(frames)[-1] == 30


# Addresses


def test_addresses_are_told_from_files():
    assert all(map(live_pjvlt.is_address, ["rtsp://a/b", "HTTP://a", "https://a", "udp://@:1234", "tcp://a:1"]))
    assert not any(map(live_pjvlt.is_address, ["clip.mp4", "http", "C://clip.mp4", "rtsp", "7", 7]))
    with pytest.raises(FileNotFoundError, match="no such video file"):
        read_frames("http.mp4")


def test_passwords_are_left_out_of_names():
    assert public_name("rtsp://me:secret@camera.local/stream?x=1@2") == "rtsp://camera.local/stream?x=1@2"
    assert public_name("clips/a@b.mp4") == "clips/a@b.mp4" and public_name(2) == "camera 2"
    with pytest.raises(OSError, match="cannot be opened") as refused:
        read_frames("tcp://me:secret@127.0.0.1:9", timeout=QUICK)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("encoded", "content_type"),
    [(transport, TS), (encode, MJPEG)],
)
def test_stream_ends_with_its_newest_frame(broadcast, encoded, content_type):
    server = broadcast(encoded(flat_frames(8)), content_type=content_type)
    reader = read_frames(server.address)
    frames = list(reader)
    assert reader.is_live and reader.num_frames is None and reader.fps in (25, 30)
    assert frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8
    levels = grey_levels(frames)
    assert levels == sorted(levels) and levels[-1] == 80
    assert len(frames) + reader.num_dropped == 8
    assert server.requests == 1


def test_iterating_again_connects_again(broadcast):
    server = broadcast(encode(flat_frames(8)))
    reader = read_frames(server.address)
    assert grey_levels(reader)[-1] == grey_levels(reader)[-1] == 80
    assert server.requests == 2


def test_slow_consumer_gets_the_newest_frame_and_the_late_ones_are_counted(broadcast):
    rest = threading.Event()
    content = encode(flat_frames(22))
    seventh = [found.start() for found in re.finditer(b"--ffmpeg", content)][6]
    server = broadcast(content[:seventh], rest, content[seventh:])
    reader = read_frames(server.address, timeout=1)
    frames = iter(reader)
    first = next(frames)
    rest.set()
    wait_until(lambda: reader.num_dropped >= 20)  # all but the first and the newest
    assert 10 <= grey_levels([first])[0] <= 60
    assert grey_levels(frames) == [220]
    assert reader.num_dropped == 20


def test_stream_that_stalls_is_named_with_its_count(broadcast):
    server = broadcast(encode(flat_frames(6)), threading.Event())
    reader = read_frames(server.address, timeout=QUICK)
    started = time.monotonic()
    with pytest.raises(OSError, match=rf"{server.address}: no frame within 0\.15 s, after 6 frames"):
        list(reader)
    assert time.monotonic() - started < 2


def test_server_that_says_nothing_is_named(broadcast):
    server = broadcast(threading.Event())
    with pytest.raises(OSError, match=rf"{server.address}: nothing came within 0\.15 s"):
        read_frames(server.address, timeout=QUICK)


def test_change_of_size_says_both(broadcast):
    server = broadcast(transport(flat_frames(8)), transport(flat_frames(8, height=32)), content_type=TS)
    with pytest.raises(ValueError, match=r"changed from 64 x 48 to 64 x 32 pixels after \d+ frames: all frames"):
        list(read_frames(server.address))


def test_session_tells_of_another_size_in_a_file_by_itself(tiny_model, tiny_processor):
    from modeling_pjvlt import TrackingPipeline

    tracker = TrackingPipeline(model=tiny_model(), processor=tiny_processor)
    frames = [*flat_frames(2), *flat_frames(1, height=32)]
    with pytest.raises(ValueError, match="64 x 32 pixels, but target '0' was given in one of 64 x 48"):
        tracker(read_ahead(read_frames(frames)), box=[10, 10, 20, 20], text="dog", progress=False)


def test_noise_in_a_stream_is_stepped_over(broadcast):
    rng = np.random.default_rng(0)
    content = bytearray(transport(list(rng.integers(0, 256, (20, 48, 64, 3), np.uint8))))
    content[6000:8000] = bytes(2000)
    server = broadcast(bytes(content), content_type=TS)
    reader = read_frames(server.address)
    count = len(list(reader)) + reader.num_dropped
    assert 10 <= count <= 20


def test_video_file_on_a_server_keeps_every_frame(broadcast, tmp_path):
    content = transport(flat_frames(20))
    server = broadcast(content, content_type=TS, length=len(content))
    reader = read_frames(server.address)
    assert not reader.is_live
    frames = []
    for frame in reader:
        time.sleep(0.002)
        frames.append(frame)
    assert grey_levels(frames) == list(range(10, 210, 10)) and reader.num_dropped == 0


def test_thumbnail_before_the_video_on_a_server_is_not_taken_for_it(broadcast, tmp_path):
    content = write_thumbnail_and_video(tmp_path / "drone.mp4", flat_frames(6)).read_bytes()
    reader = read_frames(broadcast(content, content_type="video/mp4", length=len(content)).address)
    assert grey_levels(reader) == [10, 20, 30, 40, 50, 60]


def test_video_file_whose_server_breaks_off_is_named_with_its_count(broadcast):
    content = transport(flat_frames(20))
    server = broadcast(content[: len(content) // 2], content_type=TS, length=len(content))
    frames = []
    with pytest.raises(OSError, match=rf"{server.address}: the stream breaks off after \d+ frames"):
        frames.extend(iter(read_frames(server.address)))
    assert 5 <= len(frames) < 15


def test_address_without_an_answer_is_one_error(broadcast):
    with pytest.raises(OSError, match=r"tcp://127\.0\.0\.1:9: cannot be opened \(Connection refused\)"):
        read_frames("tcp://127.0.0.1:9", timeout=QUICK)
    server = broadcast(b"hello " * 500, content_type="text/plain")
    with pytest.raises(OSError, match=rf"{server.address}: cannot be opened"):
        read_frames(server.address, timeout=QUICK)
    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0, got 0"):
        read_frames(server.address, timeout=0)


def test_pipeline_tracks_a_stream(broadcast, tiny_model, tiny_processor):
    from modeling_pjvlt import TrackingPipeline

    tracker = TrackingPipeline(model=tiny_model(), processor=tiny_processor)
    server = broadcast(encode(flat_frames(4)))
    results = tracker(server.address, box=[10, 10, 20, 20], text="dog", progress=False)
    assert 1 <= len(results) <= 4 and results.source == server.address and results.fps == 30


# Numbers and times


@given(
    told=st.lists(st.none() | st.floats(-1e6, 1e6), max_size=30),
    fps=st.floats(0.5, 240),
    max_gap=st.sampled_from([math.inf, 10.0, 0.1]),
)
def test_time_never_stands_still_nor_goes_back(told, fps, max_gap):
    clock = Clock(fps, max_gap)
    stamped = [clock.stamp(None, time) for time in told]
    times = [frame.time for frame in stamped]
    assert [frame.number for frame in stamped] == list(range(len(told))) and times[:1] in ([], [0])
    assert all(0 < after - before <= max(max_gap, 1.0001 / fps) for before, after in itertools.pairwise(times))


def test_times_are_those_of_the_source_until_its_clock_jumps():
    clock = Clock(fps=10, max_gap=5)
    told = [100.0, 100.2, None, 100.4, 3.0, 3.1, 900.0, 900.3]
    times = [clock.stamp(None, time).time for time in told]
    assert times == pytest.approx([0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0])


def test_dropped_frames_count_in_the_numbers(broadcast):
    rest = threading.Event()
    content = encode(flat_frames(22))
    seventh = [found.start() for found in re.finditer(b"--ffmpeg", content)][6]
    server = broadcast(content[:seventh], rest, content[seventh:])
    reader = read_frames(server.address, timeout=1)
    frames = reader.timed()
    first = next(frames)
    rest.set()
    wait_until(lambda: reader.num_dropped >= 20)
    (last,) = frames
    assert grey_levels([first.image]) == [10 + 10 * first.number] and last.number == 21 and last.time > first.time


def test_times_of_a_stream_are_those_that_it_tells(broadcast):
    frames = list(read_frames(broadcast(transport(flat_frames(8)), content_type=TS).address).timed())
    assert all(frame.time == pytest.approx(frame.number / 25, abs=1e-3) for frame in frames)
    assert frames[-1].number == 7


def test_source_without_times_is_timed_by_its_arrival(broadcast, monkeypatch):
    now = itertools.count(50, 0.5)
    server = broadcast(encode(flat_frames(6)))
    reader = read_frames(server.address)
    monkeypatch.setattr(live_pjvlt, "time", SimpleNamespace(monotonic=lambda: next(now), sleep=time.sleep))
    frames = list(reader.timed())
    assert frames[-1].number == 5 and frames[-1].time == 2.5


# The queue, and reading ahead


def counted(count, log=None, error=None):
    def frames():
        for index in range(count):
            if log is not None:
                log.append(index)
            yield index
        if error is not None:
            raise error

    return FrameReader(frames, fps=12.5, num_frames=count)


def test_queue_drops_the_oldest_only_where_it_may():
    tally = Tally()
    handoff = Handoff(2, tally)
    assert all(handoff.put(index) for index in range(5))
    handoff.end()
    assert [handoff.take(), handoff.take()] == [3, 4] and tally.dropped == 3
    with pytest.raises(StopIteration):
        handoff.take()
    handoff.close()
    assert not handoff.put(5)
    with pytest.raises(TimeoutError):
        Handoff(2).take(timeout=0.01)


def test_reading_ahead_keeps_order_and_what_is_known():
    reader = read_ahead(counted(500), size=3)
    assert list(reader) == list(reader) == list(range(500))
    assert (reader.fps, reader.num_frames, reader.num_dropped) == (12.5, 500, 0)


def test_reading_ahead_is_bounded():
    log = []
    frames = iter(read_ahead(counted(100, log), size=4))
    assert log == []
    assert next(frames) == 0
    wait_until(lambda: len(log) == 6)  # one taken, four waiting, one in hand
    time.sleep(0.02)
    assert len(log) == 6
    assert list(frames) == list(range(1, 100))


def test_error_is_raised_in_the_place_of_its_frame(tmp_path):
    frames = iter(read_ahead(counted(3, error=ValueError("frame 3 is broken"))))
    assert list(itertools.islice(frames, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="frame 3 is broken"):
        next(frames)
    assert list(frames) == []


@pytest.mark.parametrize("stop", ["break", "exception", "collection"])
def test_thread_ends_when_the_consumer_stops(stop):
    closed = []

    def endless():
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    def consume():
        for frame in read_ahead(FrameReader(endless), size=2):
            if frame == 3 and stop == "exception":
                raise KeyboardInterrupt
            if frame == 3:
                break

    if stop == "exception":
        with pytest.raises(KeyboardInterrupt):
            consume()
    elif stop == "break":
        consume()
    else:
        frames = iter(read_ahead(FrameReader(endless), size=2))
        next(frames)
        assert decoding_threads()
        del frames
    wait_until(lambda: closed and not decoding_threads())


def test_files_and_folders_can_be_read_ahead(tmp_path):
    path = write_video(tmp_path / "clip.mp4", flat_frames(12))
    assert grey_levels(read_ahead(read_frames(path))) == grey_levels(read_frames(path))


def test_live_sources_are_not_read_ahead(broadcast):
    reader = read_frames(broadcast(encode(flat_frames(8))).address)
    assert read_ahead(reader) is reader and read_frames(reader) is reader
    with pytest.raises(ValueError, match="at least 1, got 0"):
        read_ahead(reader, size=0)


def test_missing_pyav_is_named(monkeypatch):
    monkeypatch.setattr(live_pjvlt, "av", None)
    for source in (0, "rtsp://127.0.0.1/a"):
        with pytest.raises(ImportError, match="pip install av"):
            read_frames(source)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://me:secret@cam.local:554/s?channel=1", "rtsp://cam.local:554/s?channel=1"),
        ("rtsps://me:sec/ret@cam.local/s", "rtsps://cam.local/s"),
        ("rtmp://me:sec?ret#1@cam.local/s", "rtmp://cam.local/s"),
        ("rtsp://me:s@cret@cam.local/s", "rtsp://cam.local/s"),
        ("http://cam/v.cgi?user=me&pwd=secret&x=1", "http://cam/v.cgi?user=me&pwd=***&x=1"),
        ("http://cam/v.mp4?X-Amz-Signature=secret", "http://cam/v.mp4?X-Amz-Signature=***"),
        ("ftp://me:secret@host/a.mp4", "ftp://host/a.mp4"),
        ("rtsp://me:secret", "rtsp://***"),
        ("rtsp://[::1]:554/s", "rtsp://[::1]:554/s"),
        ("http://host:8080/live@720.mp4", "http://host:8080/live@720.mp4"),
        ("cannot open 'rtsp://me:secret@cam/s' now", "cannot open 'rtsp://cam/s' now"),
        ("/home/me@work/clip.mp4", "/home/me@work/clip.mp4"),
    ],
)
def test_address_is_shown_without_what_is_secret(address, shown):
    assert public_name(address) == shown


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "rtmp", "rtmps", "http", "tcp"])
def test_password_is_in_no_part_of_an_error(scheme):
    with pytest.raises(OSError) as caught:
        list(read_frames(f"{scheme}://me:{'geheim'.upper()}@127.0.0.1:9/s", timeout=5))
    assert f"{scheme}://127.0.0.1:9/s: " in str(caught.value)
    assert "GEHEIM" not in "".join(traceback.format_exception(caught.value))
