"""Training samples from streamed datasets: sequences are cut into pieces, and pairs are drawn from each piece."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ..streaming import StreamingTrackingDataset
from .cropping import FramePair, PairCropper
from .mixture import FailureCount, Mixture
from .sources import PairRules, draw_pair

SPARE_PAIRS = 8  # kept to replace pairs that cannot be read


class StreamedPairs(IterableDataset):
    """Samples for `PJVLTModel` from streamed datasets, in a fixed order and in the form that [`TrackingPairs`] gives.

    A sample depends only on (seed, epoch, index): the order of the files, the pairs of each piece and the shuffling do
    not depend on the number of workers. For this, every worker reads the whole stream, and decodes only the images of
    its own batches; a few workers are enough.

    Args:
        datasets: streams, by name.
        cropper: makes samples of pairs.
        length: samples in an epoch; a dataset that ends earlier starts again in another order.
        batch_size: of the loader; workers take turns with whole batches.
        seed: with the epoch and the index, it decides a sample.
        weights: of the datasets, by name; by default all equal.
        max_gap, excluded: see [`PairRules`].
        pairs_per_piece: pairs drawn from a sequence, or from each `2 * max_gap` frames of a long one.
        buffer_size: pairs of each dataset, with their encoded images, among which the next one is drawn.
        min_box_sides: `min_box_side` of [`PairRules`] for each dataset, by name.
    """

    def __init__(
        self,
        datasets: Mapping[str, StreamingTrackingDataset],
        cropper: PairCropper,
        length: int,
        batch_size: int,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
        max_gap: int = 200,
        pairs_per_piece: int = 16,
        buffer_size: int = 128,
        min_box_sides: Mapping[str, float] | None = None,
        excluded: Iterable[str] = (),
    ):
        self.datasets = dict(datasets)
        names = list(self.datasets)
        self.mixture = Mixture(names, None if weights is None else [weights[name] for name in names])
        self.cropper, self.length, self.batch_size, self.seed = cropper, length, batch_size, seed
        sides, excluded = min_box_sides or {}, frozenset(excluded)
        self.rules = [PairRules(max_gap, sides.get(name, 0.0), excluded) for name in names]
        self.pairs_per_piece, self.buffer_size = pairs_per_piece, buffer_size
        self.epoch = 0
        self.failures = FailureCount()  # of this process
        self.place()

    def place(self, rank: int = 0, num_processes: int = 1, first_batch: int = 0) -> None:
        """Set the rank of this process and the first batch that it gives.

        Batch b holds the next `batch_size` samples for each process, one process after the other.
        """
        self.rank, self.num_processes, self.first_batch = rank, num_processes, first_batch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides all samples."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.num_processes - self.first_batch * self.batch_size

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        turn, turns = (0, 1) if worker is None else (worker.id, worker.num_workers)
        spare = {name: deque(maxlen=SPARE_PAIRS) for name in self.datasets}
        for index, (name, pair) in enumerate(self._pairs()):
            batch, rank = divmod(index // self.batch_size, self.num_processes)
            if rank == self.rank and batch >= self.first_batch and (batch - self.first_batch) % turns == turn:
                yield self._sample(index, name, [pair, *reversed(spare[name])])
            spare[name].append(pair)

    def _sample(self, index: int, name: str, pairs: list[FramePair]) -> dict:
        """A sample of the first pair that can be read. Counts failures, and raises `ValueError` if all pairs fail."""
        for attempt, pair in enumerate(pairs):
            self.failures.drawn[name] += 1
            rng = np.random.default_rng([self.seed, self.epoch, index, *([attempt] if attempt else [])])
            try:
                return self.cropper(pair, rng)
            except ValueError as error:
                self.failures.add(name, index, error)
                last = error
        raise ValueError(f"{len(pairs)} samples of {name} in a row could not be read; the last one: {last}")

    def _pairs(self) -> Iterator[tuple[str, FramePair]]:
        """All pairs of the epoch, undecoded."""
        streams = {name: self._shuffled(number) for number, name in enumerate(self.datasets)}
        rng = np.random.default_rng([self.seed, self.epoch])
        for _ in range(self.length):
            name = self.mixture.draw(rng)
            yield name, next(streams[name])

    def _shuffled(self, number: int) -> Iterator[FramePair]:
        """Pairs of one dataset, without end, drawn at random from a buffer that is kept full."""
        rng = np.random.default_rng([self.seed, self.epoch, number])
        buffer: list[FramePair] = []
        for pair in self._drawn(list(self.datasets.values())[number], self.rules[number], rng):
            if len(buffer) < self.buffer_size:
                buffer.append(pair)
                continue
            place = int(rng.integers(len(buffer)))
            buffer[place], pair = pair, buffer[place]
            yield pair

    def _drawn(
        self, dataset: StreamingTrackingDataset, rules: PairRules, rng: np.random.Generator
    ) -> Iterator[FramePair]:
        """Pairs in the order of the stream, which starts again when it ends."""
        while True:
            is_empty = True
            for piece in dataset.pieces(2 * rules.max_gap, shuffle_seed=int(rng.integers(2**31))):
                for _ in range(min(self.pairs_per_piece, len(piece))):
                    pair = draw_pair(piece, rng, rules)
                    if pair is not None:
                        is_empty = False
                        yield pair.alone()
            if is_empty:
                raise ValueError("The streamed dataset has no visible target; check the boxes and `visible`.")
