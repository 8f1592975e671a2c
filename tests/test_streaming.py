"""Streams of training pairs: the same samples whatever reads them, bounded memory, mixtures, broken images."""

import itertools
import json

import numpy as np
import pytest
from datasets import Dataset
from miniatures import BUILDERS
from test_dataset import FEATURES, draw_image
from torch.utils.data import DataLoader

from modeling_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.data import load_tracking_dataset
from modeling_pjvlt.data.converters import convert
from modeling_pjvlt.data.pairs.cropping import PairCropper
from modeling_pjvlt.data.pairs.streamed import StreamedPairs
from modeling_pjvlt.data.streaming import StreamingTrackingDataset

CROPPER = PairCropper(PJVLTImageProcessor(template_size=16, search_size=32))


@pytest.fixture
def lasot(isolated_cache):
    """Four training sequences in as many files."""
    miniature = BUILDERS["lasot"](isolated_cache / "raw")
    convert("lasot", miniature.root, isolated_cache / "converted", sequences_per_shard=1, progress=False)
    return isolated_cache / "converted"


def stream(folder):
    return load_tracking_dataset(str(folder), split="train", streaming=True)


def write(folder, lengths, broken=()):
    """A dataset of sequences named after their number; images in `broken` (sequence, frame) cannot be decoded."""
    rows = [(number, frame) for number, length in enumerate(lengths) for frame in range(length)]
    table = {
        "sequence": [f"s{number}" for number, _ in rows],
        "frame": [frame for _, frame in rows],
        "image": [{"bytes": b"no image", "path": None} if row in broken else draw_image(row[1] % 9) for row in rows],
        "box": [[float(frame), 1.0, 8.0, 8.0] for _, frame in rows],
        "visible": [True] * len(rows),
        "text": [f"text {number}" for number, _ in rows],
    }
    (folder / "data").mkdir(parents=True)
    Dataset.from_dict(table, features=FEATURES).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return stream(folder)


def drawn(pairs, workers=0):
    context = "fork" if workers else None
    batches = DataLoader(pairs, batch_size=pairs.batch_size, num_workers=workers, multiprocessing_context=context)
    return [
        (text, label.tolist()) for batch in batches for text, label in zip(batch["text"], batch["labels"], strict=True)
    ]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_samples_do_not_depend_on_the_number_of_workers(lasot):
    pairs = StreamedPairs({"lasot": stream(lasot)}, CROPPER, length=24, batch_size=4, buffer_size=16)
    alone = drawn(pairs)
    assert len(alone) == 24 and len({text for text, _ in alone}) > 1
    assert drawn(pairs, workers=2) == alone and drawn(pairs, workers=3) == alone
    pairs.set_epoch(1)
    assert drawn(pairs) != alone


def order_of(folder, epoch, length=60, seed=0):
    """Which frames the pairs of an epoch show, in order: whatever the crops do with them."""
    pairs = StreamedPairs({"a": stream(folder)}, CROPPER, length, batch_size=4, seed=seed, buffer_size=4)
    pairs.set_epoch(epoch)
    return [(p.search.sequence.name, p.template.index, p.search.index) for _, p in pairs._pairs()]


def test_each_epoch_of_a_stream_comes_in_an_order_of_its_own(lasot):
    epochs = [order_of(lasot, epoch) for epoch in range(3)]
    assert order_of(lasot, 0) == epochs[0]
    assert all(one != other for one, other in itertools.combinations(epochs, 2))
    assert order_of(lasot, 0, seed=1) != epochs[0]


def test_files_of_a_stream_are_shuffled_anew_each_epoch_and_each_time_round(lasot, monkeypatch):
    passes, pieces = [], StreamingTrackingDataset.pieces

    def recorded(self, max_frames=None, shuffle_seed=None):
        passes.append([])
        for piece in pieces(self, max_frames, shuffle_seed):
            passes[-1].append(piece.name)
            yield piece

    monkeypatch.setattr(StreamingTrackingDataset, "pieces", recorded)
    for epoch in range(3):
        order_of(lasot, epoch, length=300)
        assert len(passes) >= 3 * (epoch + 1)  # the stream ended and began again
    whole = [order for order in passes if len(order) == max(map(len, passes))]
    assert len({tuple(sorted(order)) for order in whole}) == 1
    assert len({tuple(order) for order in whole}) > len(whole) / 3
    first_passes = [order_of(lasot, epoch, length=1) and passes[-1] for epoch in range(8)]
    assert len({tuple(order) for order in first_passes}) > 1


def test_processes_share_each_batch_of_a_stream_and_can_start_later(lasot):
    def samples(rank, num_processes, first_batch, size):
        pairs = StreamedPairs({"lasot": stream(lasot)}, CROPPER, length=24, batch_size=size, buffer_size=16)
        pairs.place(rank, num_processes, first_batch)
        return [(sample["text"], sample["labels"].tolist()) for sample in pairs]

    alone = samples(0, 1, 0, 4)
    parts = [samples(rank, 2, 0, 2) for rank in range(2)]
    assert [s for b in range(6) for part in parts for s in part[2 * b : 2 * b + 2]] == alone
    assert samples(0, 1, 4, 4) == alone[16:] and samples(1, 2, 4, 2) == parts[1][8:]


def test_long_sequences_come_in_pieces(isolated_cache):
    frames = write(isolated_cache / "long", [23, 1, 5])
    assert [(piece.name, len(piece)) for piece in frames.pieces(max_frames=10)] == [
        ("s0", 10), ("s0", 10), ("s0", 3), ("s1", 1), ("s2", 5)
    ]  # fmt: skip
    assert [(whole.name, len(whole)) for whole in frames] == [("s0", 23), ("s1", 1), ("s2", 5)]
    _first, second, *_ = frames.pieces(max_frames=10)
    np.testing.assert_array_equal(second.frame(1), draw_image(11 % 9))
    assert second.boxes[1][0] == 11


def test_files_come_in_another_order_but_sequences_stay_whole(lasot):
    lengths = {sequence.name: len(sequence) for sequence in stream(lasot)}
    orders = []
    for seed in range(6):
        pieces = [(piece.name, len(piece)) for piece in stream(lasot).pieces(100, shuffle_seed=seed)]
        assert dict(pieces) == lengths and len(pieces) == len(lengths)
        orders.append(tuple(name for name, _ in pieces))
    assert len(set(orders)) > 1 and len(lengths) > 2


def test_waiting_pairs_hold_two_images_each(isolated_cache):
    pairs = StreamedPairs({"a": write(isolated_cache / "a", [30])}, CROPPER, length=4, batch_size=4, buffer_size=4)
    for _, pair in pairs._pairs():
        for frame in (pair.template, pair.search):
            assert len(frame.sequence.frames.rows) == 1
            np.testing.assert_array_equal(frame.sequence.frame(frame.index), draw_image(frame.index % 9))


def test_mixture_of_streams_keeps_to_its_weights(isolated_cache):
    streams = {name: write(isolated_cache / name, lengths) for name, lengths in (("a", [9]), ("b", [9, 9]))}
    pairs = StreamedPairs(streams, CROPPER, 200, 10, weights={"a": 3.0, "b": 1.0}, buffer_size=8)
    texts = [text for text, _ in drawn(pairs)]
    assert 15 < texts.count("text 1") < 50  # only b has it: half of a quarter


def test_broken_image_of_a_stream_is_skipped_and_counted(isolated_cache, caplog):
    pairs = StreamedPairs({"a": write(isolated_cache / "a", [40], broken={(0, 7)})}, CROPPER, 60, 4, buffer_size=8)
    assert len(drawn(pairs)) == 60
    assert 0 < pairs.failures.failed["a"] <= 10
    assert any("(a) cannot be read and is replaced: Sequence 's0', frame 7" in r.message for r in caplog.records)


def test_stream_of_broken_images_is_an_error(isolated_cache):
    broken = {(0, frame) for frame in range(9)}
    pairs = StreamedPairs({"a": write(isolated_cache / "a", [9], broken)}, CROPPER, 60, 4, buffer_size=8)
    with pytest.raises(ValueError, match=r"samples of a .*could not be read"):
        list(pairs)


def test_stream_names_the_bad_row(isolated_cache):
    folder = isolated_cache / "images" / "train"
    folder.mkdir(parents=True)
    from PIL import Image

    lines = [
        {"file_name": f"{n}.png", "sequence": "s", "frame": f, "box": [1, 1, 4, 4]} for n, f in enumerate((0, 2, 1))
    ]
    for line in lines:
        Image.fromarray(draw_image(1)).save(folder / line["file_name"])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match="not sorted by frame: sequence 's', frame 1"):
        list(stream(folder.parent))


def test_excluded_sequences_and_small_boxes_are_not_drawn_from_a_stream(isolated_cache):
    stream = {"a": write(isolated_cache / "a", [6, 6])}
    pairs = StreamedPairs(stream, CROPPER, length=8, batch_size=4, buffer_size=4, excluded=["s0"])
    assert {text for text, _ in drawn(pairs)} == {"text 1"}
    with pytest.raises(ValueError, match="no visible target"):
        drawn(StreamedPairs(stream, CROPPER, 8, 4, buffer_size=4, min_box_sides={"a": 8.0}))
