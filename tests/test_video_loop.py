"""The loop over a video: frames read backward in blocks, from every kind of source; targets given and corrected."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modeling_pjvlt import TrackingSession
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.video_loop_pjvlt import (
    TargetStart,
    backward_frames,
    check_starts,
    target_starts,
    track_both_ways,
    track_video,
)
from modeling_pjvlt.video_pjvlt import read_frames
from modeling_pjvlt.video_writer_pjvlt import VideoWriter

FRAMES = [np.full((16, 24, 3), 20 * i, np.uint8) for i in range(10)]


@given(last=st.integers(0, 9), frames_a_block=st.integers(1, 12))
def test_frames_come_backward_whatever_the_size_of_the_blocks(last, frames_a_block):
    found = list(backward_frames(read_frames(FRAMES), last, frames_a_block * FRAMES[0].nbytes))
    assert [frame.number for frame in found] == list(range(last, -1, -1))
    assert all(frame.image is FRAMES[frame.number] for frame in found)


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_a_file_read_backward_has_the_frames_and_times_of_the_file_read_forward(tmp_path, kind):
    if kind == "video":
        path = tmp_path / "clip.mp4"
        with VideoWriter(path, 12.5) as writer:
            for frame in FRAMES:
                writer.write(frame)
    else:
        path = tmp_path
        for number, frame in enumerate(FRAMES):
            Image.fromarray(frame).save(tmp_path / f"{number}.png")
    forward = list(read_frames(path).timed())[:8]
    backward = list(backward_frames(read_frames(path), 7, 3 * FRAMES[0].nbytes))
    assert [(f.number, f.time) for f in backward[::-1]] == [(f.number, f.time) for f in forward]
    for one, other in zip(backward[::-1], forward, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


def test_shorter_videos_are_read_from_any_place(tmp_path):
    reader = read_frames(FRAMES).first(5)
    assert reader.num_frames == 5 and len(list(reader)) == 5
    assert [frame.number for frame in reader.timed(3)] == [3, 4]
    assert [frame.number for frame in reader.timed(1, 3)] == [1, 2]


def test_targets_are_named_and_matched():
    assert [s.target_id for s in target_starts([[1, 2, 3, 4]] * 2)] == ["0", "1"]
    assert target_starts({"a": [1, 2, 3, 4]}, "it", 3) == [TargetStart("a", [1, 2, 3, 4], "it", 3)]
    assert [s.frame for s in target_starts(np.ones((2, 4)), None, [4, 5])] == [4, 5]
    with pytest.raises(TypeError, match="`boxes` must be a list"):
        target_starts(7)
    with pytest.raises(ValueError, match="Two targets are called 'a' in frame 4"):
        check_starts([TargetStart("a", None), TargetStart("a", None, frame=4), TargetStart("a", None, frame=4)])


def test_a_target_that_is_given_again_is_corrected_there_in_both_directions(tiny_model, tiny_processor):
    model, clip = tiny_model(stirred=True), ProceduralClip(5, 8, size=(90, 120))
    images = [clip.frame(i) for i in range(8)]
    boxes = {2: (20, 20, 12, 12), 5: (60, 40, 14, 10)}
    starts = [TargetStart("it", box, "a disc", frame) for frame, box in boxes.items()]
    frames = read_frames(images)

    def session():
        return TrackingSession(model, tiny_processor)

    def boxes_of(tracked):
        return {found.frame.number: found.targets[0].box for found in tracked if found.targets}

    def by_hand(first, other, last):
        """From one given frame over the other, in which the target is corrected, to the last one."""
        tracker, step = session(), 1 if first < other else -1
        tracker.add_target(images[first], boxes[first], "a disc")
        expected = {first: boxes[first]}
        for number in range(first + step, last + step, step):
            expected[number] = tracker.step(images[number])[0].box
            if number == other:
                tracker.correct("0", images[other], boxes[other])
                expected[other] = boxes[other]
        return expected

    expected = by_hand(2, 5, 7)
    forward = boxes_of(track_both_ways(session, frames, starts, "forward"))
    assert forward == expected
    turned = read_frames(images[2::-1])
    before = boxes_of(track_video(session(), turned.timed(), [TargetStart("it", boxes[2], "a disc")]))
    both = boxes_of(track_both_ways(session, frames, starts, "both"))
    assert both == expected | {2 - i: box for i, box in before.items()}
    assert boxes_of(track_both_ways(session, frames, starts, "backward")) == by_hand(5, 2, 0)
