"""Parquet files of tracking rows, each of which appears only when it is complete.

The footer of a file holds a fingerprint of its source and a report on its content. A conversion that was killed needs
nothing else to continue.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value
from PIL import Image as PILImage

from ...files_pjvlt import replacing, write_text
from ..frames import DECODING_ERRORS
from ..text import read_sentences
from .sources import Benchmark, ImageFile, Reference, SourceSequence

ROWS_PER_GROUP = 100  # what `datasets` writes for images: small enough to stream and to preview
FINGERPRINT, REPORT, BENCHMARK = b"pjvlt_fingerprint", b"pjvlt_report", b"pjvlt_benchmark"  # in the footer
CHECKS = ("fast", "full")
# Archive entries with other methods or flags are damaged: no benchmark encrypts its archives or uses other methods.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
UNREADABLE_FLAGS = 0x1 | 0x20 | 0x40  # encrypted, patched data, strongly encrypted
DAMAGED_ARCHIVE = (  # what zipfile raises where the damage is in ...
    zipfile.BadZipFile,  # ... a header or a checksum
    zlib.error,  # ... the compressed data
    EOFError,  # ... its end, which is missing
)


@dataclass
class ConversionReport:
    """What a conversion did.

    absent: frames whose target is not visible, where that is known. without_text: sequences without a sentence.
    given_text: sequences whose sentence comes from a file of sentences.
    skipped: (name, reason) of sequences and frames that were left out, and of files that do not fit together.
    """

    sequences: int = 0
    frames: int = 0
    absent: int = 0
    without_text: int = 0
    given_text: int = 0
    skipped: list[list[str]] = field(default_factory=list)

    def add(self, other: "ConversionReport") -> None:
        """Add the numbers and the list of another report."""
        for name in ("sequences", "frames", "absent", "without_text", "given_text"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.skipped += other.skipped


@dataclass(frozen=True)
class Shard:
    """One file that a conversion writes."""

    path: Path
    benchmark: str
    references: tuple[Reference, ...]
    check: str
    sentences: Path | None = None  # a file of sentences, whose hash is part of `check`

    @property
    def fingerprint(self) -> str:
        """A hash of the file's name, its sequences and the settings."""
        content = [self.benchmark, self.path.name, self.check, [reference.name for reference in self.references]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def empty(self) -> Path:
        """The marker that is written instead of a file without rows, which could not be streamed."""
        return self.path.with_name(f".{self.path.name}.empty")


def row_features(has_cover: bool) -> Features:
    """The columns of a tracking dataset. See [`TrackingDataset`]."""
    columns = {
        "sequence": Value("string"),
        "frame": Value("int32"),
        "image": Image(),
        "box": List(Value("float32"), length=4),
        "visible": Value("bool"),
        "text": Value("string"),
        "category": Value("string"),
    }
    return Features({**columns, "cover": Value("int8")} if has_cover else columns)


def finished_report(shard: Shard) -> ConversionReport | None:
    """The report of a finished shard, or None if it has not been written yet.

    Raises `ValueError` for a file of this name that was made from other sequences or with other settings.
    """
    if shard.path.is_file():
        footer = pq.read_metadata(shard.path).metadata or {}
    elif shard.empty.is_file():
        footer = {name.encode(): value.encode() for name, value in json.loads(shard.empty.read_text()).items()}
    else:
        return None
    if footer.get(FINGERPRINT, b"").decode() != shard.fingerprint:
        raise ValueError(
            f"{shard.path} was made from other sequences or with other settings; convert into an empty folder."
        )
    return ConversionReport(**json.loads(footer[REPORT]))


def benchmark_of(path: Path) -> str | None:
    """The benchmark a file was converted from, or None if this package did not write it."""
    value = (pq.read_metadata(path).metadata or {}).get(BENCHMARK)
    return None if value is None else value.decode()


def write_shard(shard: Shard, benchmark: Benchmark, on_sequence=lambda: None) -> ConversionReport:
    """Read the sequences of a shard and write its file. `on_sequence` is called after each sequence."""
    report = ConversionReport()
    schema = row_features(benchmark.has_cover).arrow_schema
    rows = _rows(shard, benchmark, report, on_sequence)
    first = next(rows, None)
    if first is None:
        write_text(shard.empty, json.dumps(_footer(shard, report)))
        return report
    with replacing(shard.path) as partial, pq.ParquetWriter(partial, schema, write_page_index=True) as writer:
        group = [first]
        for row in rows:
            if len(group) == ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group = []
            group.append(row)
        writer.write_table(pa.Table.from_pylist(group, schema))
        writer.add_key_value_metadata(_footer(shard, report))
    return report


def _footer(shard: Shard, report: ConversionReport) -> dict[str, str]:
    footer = {FINGERPRINT: shard.fingerprint, REPORT: json.dumps(asdict(report)), BENCHMARK: shard.benchmark}
    return {name.decode(): value for name, value in footer.items()}


def _rows(shard: Shard, benchmark: Benchmark, report: ConversionReport, on_sequence) -> Iterator[dict]:
    """Rows of all sequences that can be read. A row with the image of the previous row does not store it again."""
    images = _ImageReader(shard.check.split()[0] == "full")
    texts = {} if shard.sentences is None else read_sentences(shard.sentences)
    for reference in shard.references:
        try:
            sequences = benchmark.read(reference)
        except (ValueError, OSError) as error:
            report.skipped.append([reference.name, str(error)])
            sequences = []
        for sequence in sequences:
            sequence.text = texts.get(sequence.name, sequence.text)
            report.skipped += [[sequence.name, note] for note in sequence.notes]
            count = 0
            for row in _sequence_rows(sequence, images, report):
                count += 1
                yield row if benchmark.has_cover else {k: v for k, v in row.items() if k != "cover"}
            report.frames += count
            report.sequences += count > 0
            report.without_text += count > 0 and not sequence.text
            report.given_text += count > 0 and sequence.name in texts
        on_sequence()
    images.close()


def _sequence_rows(sequence: SourceSequence, images: "_ImageReader", report: ConversionReport) -> Iterator[dict]:
    known = np.isfinite(sequence.boxes).all(axis=1)
    for i, number in enumerate(sequence.frame_numbers()):
        image = sequence.images[i]
        try:
            encoded = images.read(image)
        except DECODING_ERRORS as error:
            if image != images.refused:  # once for all targets of a photograph
                report.skipped.append([f"{sequence.name}/{image.name}", str(error)])
                images.refused = image
            continue
        report.absent += bool(known[i] and not sequence.visible[i])
        cover = -1 if sequence.cover is None else int(sequence.cover[i])
        yield {
            "sequence": sequence.name,
            "frame": number,
            "image": encoded,
            "box": sequence.boxes[i].tolist() if known[i] else None,
            "visible": bool(sequence.visible[i]),
            "text": sequence.text,
            "category": sequence.category,
            "cover": None if cover < 0 else cover,
        }


class _ImageReader:
    """Reads encoded images and refuses broken ones; returns None for the image that it read last."""

    def __init__(self, decode_all: bool):
        self.decode_all = decode_all
        self.last: ImageFile | None = None
        self.refused: ImageFile | None = None
        self._archive: zipfile.ZipFile | None = None

    def read(self, image: ImageFile) -> dict | None:
        """The bytes of the file and its name. Raises one of `DECODING_ERRORS`."""
        if image == self.last:
            return None
        data = self._bytes(image)
        check_encoded(data, self.decode_all)
        self.last = image
        return {"bytes": data, "path": image.name}

    def _bytes(self, image: ImageFile) -> bytes:
        if image.member is None:
            return image.path.read_bytes()
        if self._archive is None or self._archive.filename != str(image.path):
            self.close()
            self._archive = zipfile.ZipFile(image.path)
        try:
            entry = self._archive.getinfo(image.member)
            if entry.flag_bits & UNREADABLE_FLAGS or entry.compress_type not in METHODS:
                raise zipfile.BadZipFile(f"compression method {entry.compress_type}, flags {entry.flag_bits:#x}")
            return self._archive.read(entry)
        except DAMAGED_ARCHIVE as error:
            raise ValueError(f"damaged inside its archive ({error})") from error

    def close(self) -> None:
        """Close the archive that is open."""
        if self._archive is not None:
            self._archive.close()


def check_encoded(data: bytes, decode: bool = False) -> None:
    """Raises one of `DECODING_ERRORS` for bytes that are empty, truncated or not an image.

    The image is decoded only with `decode`, or if the file does not end as a complete JPEG or PNG does.
    """
    if not data:
        raise ValueError("the file is empty")
    with PILImage.open(io.BytesIO(data)) as image:
        endings = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
        if decode or not data.rstrip(b"\x00").endswith(endings.get(image.format, b"\x00")):
            image.load()
