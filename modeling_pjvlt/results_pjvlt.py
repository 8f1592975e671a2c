"""The results of tracking: lists of boxes and scores, with methods to save them and to show them as table or plot."""

import base64
import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .files_pjvlt import replacing
from .geometry_pjvlt import CORNERS, clip_box
from .streams_pjvlt import DEFAULT_FPS
from .video_pjvlt import refuse_outputs_over
from .video_writer_pjvlt import VideoWriter

# One colour per target, also distinct for people who cannot tell red from green (Okabe and Ito, 2008).
TARGET_COLORS = [(255, 196, 0), (86, 180, 233), (230, 80, 160), (0, 200, 140), (240, 120, 0), (150, 120, 255)]
FLAGS = ("lost", "redetected")
MAX_SHOWN = 900  # longest video, in frames, that is embedded in a notebook
COLUMNS = ["frame", "x", "y", "w", "h", "score", "time", "lost", "redetected"]  # of a table
FORMATS = {"json": ".json", "csv": ".csv", "txt": ".txt", "mot": ".txt"}  # format -> default suffix


class TrackingResults(list):
    """The results of one target: a list with one dict for each frame.

    Each dict has `frame`, `box` (`xmin`, `ymin`, `xmax`, `ymax` in pixels), `score` (0 to 1), `time`, `lost` and
    `redetected`. `frame` is the number of the frame in its source, from 0, where frames that a live source dropped
    also count; `time` is in seconds since the source's first frame. While `lost` is True, the box is a guess;
    `redetected` is True where a lost target was found again elsewhere in the frame.

    Args:
        results: the dicts.
        fps: frames per second of the video; None if unknown.
        text: the sentence that described the target.
        source: the video: a path, an address or "camera 0"; None for frames from memory.
        model: the checkpoint, as it was named.
        frames: the frames, for [`TrackingResults.save_video`]; it must be possible to iterate over them again.
        lost_score: a target whose score stays below it is lost; None if unknown, 0 if targets are never lost.

    A notebook shows the results as a table and, if the frames can be read again, as a video.

    Example:
        >>> results = tracker("clip.mp4", box=[120, 64, 90, 70], text="white dog")  # doctest: +SKIP
        >>> results.save("dog.csv")  # doctest: +SKIP
    """

    def __init__(
        self,
        results: Iterable[dict] = (),
        fps: float | None = None,
        text: str | None = None,
        source: str | None = None,
        model: str | None = None,
        frames: Iterable | None = None,
        lost_score: float | None = None,
    ):
        super().__init__(results)
        self.fps, self.text, self.source, self.model, self.frames = fps, text, source, model, frames
        self.lost_score = lost_score
        self._html: str | None = None

    def __getitem__(self, place):
        """One result, or for a slice the `TrackingResults` of those frames."""
        found = super().__getitem__(place)
        if not isinstance(place, slice):
            return found
        return TrackingResults(found, self.fps, self.text, self.source, self.model, self.frames, self.lost_score)

    def save(self, path: str | os.PathLike, format: str | None = None) -> Path:
        """Write the boxes to a file. Returns its path.

        The file appears under its name only once it is complete; a pipe or a device such as /dev/stdout is written
        directly. Missing parent folders are made. Boxes are x, y, width, height in pixels (the upper left corner of
        the image is 0, 0), with 3 decimals; scores have 4.

        Args:
            path: the file to write.
            format: one of these; by default chosen by the suffix.
                "json": {"video", "model", "text", "fps", "frames": [{"frame", "box", "score", "time"}, ...]}, with
                    "lost": true and "redetected": true in the frames where they hold.
                "csv": the header frame,x,y,w,h,score,time,lost,redetected and a line for each frame; frames count
                    from 0, and the last two are 0 or 1.
                "txt": x,y,w,h, a line for each frame.
                "mot": frame,id,x,y,w,h,score,-1,-1,-1; frames count from 1, the id is 1.

        Raises:
            ValueError: neither the suffix nor `format` names one of these, or the file is the video itself.
            OSError: the file cannot be written; an existing file stays as it was.
        """
        path = Path(path).expanduser()
        refuse_outputs_over(self.source, path)
        lines = {"json": self._json, "csv": self._csv, "txt": self._txt, "mot": self._mot}[pick_format(path, format)]()
        return _write_lines(path, lines)

    def to_pandas(self):
        """A `pandas.DataFrame` with a row for each frame: frame, x, y, w, h, score, time, lost and redetected."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("tables are made with pandas: pip install pandas") from error
        rows = [
            (r["frame"], *xywh(r), r["score"], r.get("time"), r.get("lost", False), r.get("redetected", False))
            for r in self
        ]
        return pandas.DataFrame(rows, columns=COLUMNS)

    def plot(self):
        """A matplotlib `Figure` of the score and of the size of the box (square root of its area, pixels) over time.

        Time is in seconds if `fps` is known, in frames otherwise. A dashed line marks `lost_score`, if it is known.
        The frame whose box was given has a score of 1 and is left out.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("plots are made with matplotlib: pip install matplotlib") from error

        class ShownFigure(Figure):
            """A figure that notebooks show without pyplot."""

            def _repr_png_(self) -> bytes:
                file = io.BytesIO()
                self.savefig(file, format="png")
                return file.getvalue()

        times = [result.get("time", result["frame"] / (self.fps or 1)) for result in self]
        sizes = [(max(w, 0) * max(h, 0)) ** 0.5 for _, _, w, h in map(xywh, self)]
        figure = ShownFigure(figsize=(8, 4), layout="constrained")
        above, below = figure.subplots(2, sharex=True)
        above.plot(times, [result["score"] if result["score"] < 1 else float("nan") for result in self])
        above.set(ylabel="score", ylim=(0, 1.05), title=self.text or "")
        if self.lost_score:
            lost = f"lost below {self.lost_score:g}"
            above.axhline(self.lost_score, color="tab:red", linestyle="--", linewidth=1, label=lost)
            above.legend(loc="lower right", frameon=False)
        below.plot(times, sizes)
        below.set(ylabel="box size (pixels)", xlabel="seconds" if self.fps else "frame")
        below.set_ylim(bottom=0)
        return figure

    def save_video(self, path: str | os.PathLike) -> Path:
        """Write a video of the frames with box and score drawn on them. Returns its path.

        The file appears under its name only once it is complete. Raises `ValueError` if the frames cannot be read
        again (those of a camera or a generator) or if `path` is the video itself, and what [`VideoWriter`] raises.
        """
        return _save_video({"": self}, self, path)

    def _repr_html_(self) -> str:
        if self._html is None:
            self._html = f"<pre>{escape(repr(self))}</pre>"
            if self.frames is not None and 0 < len(self) <= MAX_SHOWN:
                self._html = self._video_html() + self._html
        return self._html

    def _video_html(self) -> str:
        """The video, or the reason why there is none: the file may be gone by now, and the table is still useful."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                data = base64.b64encode(self.save_video(Path(folder) / "shown.mp4").read_bytes()).decode()
            except (ValueError, OSError) as error:
                return f"<p>no video: {escape(str(error))}</p>"
        return f'<video controls loop muted style="max-width: 100%" src="data:video/mp4;base64,{data}"></video>'

    def __repr__(self) -> str:
        if not self:
            return "TrackingResults: no frames"
        about = [f"{len(self)} frame{'s' * (len(self) > 1)}"]
        about += [f"{self.fps:g} fps"] if self.fps else []
        about += [f'"{self.text}"'] if self.text else []
        about += [str(self.source)] if self.source else []
        rows = [_row(result) for result in (self if len(self) <= 6 else [*self[:3], *self[-2:]])]
        if len(self) > 6:
            rows.insert(3, f"{'…':>7}")
        mean = sum(result["score"] for result in self) / len(self)
        head = f"{'frame':>7} {'x':>9} {'y':>9} {'w':>9} {'h':>9} {'score':>6}"
        return "\n".join([f"TrackingResults: {', '.join(about)}", head, *rows, f"mean score {mean:.3f}"])

    def __getstate__(self) -> dict:
        """Without the frames, which may be an open file."""
        return {**self.__dict__, "frames": None}

    def _json(self) -> Iterator[str]:
        head = {"video": self.source, "model": self.model, "text": self.text, "fps": self.fps}
        yield f'{json.dumps(head, ensure_ascii=False)[:-1]}, "frames": [\n'
        yield from self._json_frames()
        yield "]}\n"

    def _json_frames(self) -> Iterator[str]:
        for place, result in enumerate(self):
            box = [round(value, 3) for value in xywh(result)]
            line = {"frame": result["frame"], "box": box, "score": round(result["score"], 4)}
            if "time" in result:
                line["time"] = round(result["time"], 4)
            line |= {name: True for name in FLAGS if result.get(name)}
            yield f"{json.dumps(line)}{',' * (place < len(self) - 1)}\n"

    def _csv(self) -> Iterator[str]:
        yield f"{','.join(COLUMNS)}\n"
        yield from map(_csv_line, self)

    def _txt(self) -> Iterator[str]:
        return (f"{_box_text(result)}\n" for result in self)

    def _mot(self, number: int = 1) -> Iterator[str]:
        for result in self:
            yield f"{result['frame'] + 1},{number},{_box_text(result)},{result['score']:.4f},-1,-1,-1\n"


class TargetsResults(dict):
    """The results of several targets: a dict from target id to [`TrackingResults`], in the order of the targets.

    Args:
        results: the dict; all results are of one video.

    Example:
        >>> results = tracker("clip.mp4", boxes={"dog": [120, 64, 90, 70], "cat": [10, 20, 40, 30]})  # doctest: +SKIP
        >>> results["dog"][0]["box"], results.save("pets.csv")  # doctest: +SKIP
    """

    def save(self, path: str | os.PathLike, format: str | None = None) -> Path:
        """Write the boxes of all targets to one file; see [`TrackingResults.save`]. Returns its path.

        Args:
            path: the file to write.
            format: one of these; by default chosen by the suffix.
                "json": {"video", "model", "fps", "targets": [{"id", "text", "frames": [...]}, ...]}.
                "csv": id,frame,x,y,w,h,score,time,lost,redetected, target after target.
                "mot": as for one target; the ids are numbers from 1, in the order of the targets.

        Raises `ValueError` for "txt", which holds one target only, and whatever [`TrackingResults.save`] raises.
        """
        path, one = Path(path).expanduser(), next(iter(self.values()), TrackingResults())
        refuse_outputs_over(one.source, path)
        picked = pick_format(path, format)
        if picked == "txt":
            raise ValueError(f"{path}: txt holds one target only; choose json, csv or mot, or save each by itself")
        return _write_lines(path, {"json": self._json, "csv": self._csv, "mot": self._mot}[picked](one))

    def save_video(self, path: str | os.PathLike) -> Path:
        """Write a video with all targets, each in its colour with id and score; see [`TrackingResults.save_video`]."""
        return _save_video(self, next(iter(self.values()), TrackingResults()), path)

    def to_pandas(self):
        """One table for all targets, like that of [`TrackingResults.to_pandas`], with `id` as its first column."""
        tables = {target_id: results.to_pandas() for target_id, results in self.items()}
        import pandas

        return pandas.concat(tables, names=["id", None]).reset_index("id").reset_index(drop=True)

    def __repr__(self) -> str:
        return "\n".join(
            [f"{len(self)} targets", *(f"{target_id!r}: {results!r}" for target_id, results in self.items())]
        )

    def _json(self, one: TrackingResults) -> Iterator[str]:
        head = {"video": one.source, "model": one.model, "fps": one.fps}
        yield f'{json.dumps(head, ensure_ascii=False)[:-1]}, "targets": [\n'
        for place, (target_id, results) in enumerate(self.items()):
            own = json.dumps({"id": target_id, "text": results.text}, ensure_ascii=False)
            yield f'{own[:-1]}, "frames": [\n'
            yield from results._json_frames()
            yield f"]}}{',' * (place < len(self) - 1)}\n"
        yield "]}\n"

    def _csv(self, one: TrackingResults) -> Iterator[str]:
        file = io.StringIO(newline="")
        writer = csv.writer(file, lineterminator="")
        yield f"id,{','.join(COLUMNS)}\n"
        for target_id, results in self.items():
            file.seek(file.truncate(0))
            writer.writerow([target_id])
            yield from (f"{file.getvalue()},{_csv_line(result)}" for result in results)

    def _mot(self, one: TrackingResults) -> Iterator[str]:
        for number, results in enumerate(self.values(), 1):
            yield from results._mot(number)


def _save_video(results: Mapping[str, TrackingResults], one: TrackingResults, path: str | os.PathLike) -> Path:
    """Draw targets on their frames. one: any of the results, for the fields that they share."""
    refuse_outputs_over(one.source, path)
    if one.frames is None:
        raise ValueError("These frames cannot be read again: draw the boxes during tracking, as `pjvlt-track` does.")
    boxes: dict[int, dict[str, dict]] = {}
    for target_id, found in results.items():
        for result in found:
            boxes.setdefault(result["frame"], {})[target_id] = result
    names, drawn = list(results), 0
    with VideoWriter(path, one.fps or DEFAULT_FPS) as writer:
        for number, frame in zip(range(max(boxes, default=-1) + 1), one.frames, strict=False):
            if number in boxes:
                image = _open_image(frame)
                for target_id, result in boxes[number].items():
                    _draw(image, result, target_id, TARGET_COLORS[names.index(target_id) % len(TARGET_COLORS)])
                writer.write(np.array(image), next(iter(boxes[number].values())).get("time"))
                drawn += 1
        if drawn < len(boxes):
            raise ValueError(f"Only {drawn} of the {len(boxes)} frames could be read again.")
    return writer.path


def _write_lines(path: Path, lines: Iterator[str]) -> Path:
    """Write a text file under another name and rename it; write directly to a pipe or a device. Raises `OSError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path.is_file() or path.is_dir()):
            path.write_text("".join(lines), encoding="utf-8", newline="")
            return path
        with replacing(path) as partial:
            # A video's name may not be valid UTF-8; \\udce9 is valid JSON, and is read back as the same name.
            partial.write_text("".join(lines), encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def pick_format(path: str | os.PathLike, format: str | None = None) -> str:
    """The format of a file of boxes: `format`, else that of the suffix. Raises `ValueError` for an unknown one."""
    picked = format if format is not None else Path(path).suffix.lower().removeprefix(".")
    if picked not in FORMATS or (format is None and picked == "mot"):
        raise ValueError(
            f"{format!r} is not a format of boxes; choose one of {', '.join(FORMATS)}"
            if format is not None
            else f"{path}: boxes are written as .json, .csv or .txt; for another suffix, also give the format"
        )
    return picked


def _open_image(frame) -> Image.Image:
    from .image_processing_pjvlt import to_rgb  # brings torch, which saving boxes does without

    return Image.fromarray(np.ascontiguousarray(to_rgb(frame).permute(1, 2, 0).numpy()))


def _draw(image: Image.Image, result: dict, name: str, color: tuple[int, int, int]) -> None:
    """Draw the box, with name and score inside its upper left corner; the box of a lost target is thin."""
    draw, line = ImageDraw.Draw(image), max(2, min(image.size) // 150)
    x, y, w, h = xywh(result)
    width = 1 if result.get("lost") else line
    draw.rectangle([x, y, x + max(w, 1), y + max(h, 1)], outline=color, width=width)
    label = f"{name} {'lost' if result.get('lost') else format(result['score'], '.2f')}".strip()
    draw.text((x + 2 * line, y + line), label, fill=color, stroke_width=2, stroke_fill="black")


def xywh(result: dict) -> tuple[float, float, float, float]:
    """x, y, width, height of one result."""
    left, top, right, bottom = (result["box"][name] for name in CORNERS)
    return left, top, round(right - left, 9), round(bottom - top, 9)  # removes the noise of the subtraction


def make_result(
    number: int,
    box_xywh,
    score: float,
    time: float | None = None,
    frame_size: tuple[int, int] | None = None,
    lost: bool = False,
    redetected: bool = False,
) -> dict:
    """Make the result dict of frame `number` from a box (x, y, width, height); `time` is in seconds, None if unknown.

    With `frame_size` (height, width), the box is clipped to the frame and rounded to hundredths of a pixel, and the
    score to 4 decimals. Without it, both stay as the network gave them.
    """
    x, y, w, h = (float(value) for value in (box_xywh if frame_size is None else clip_box(box_xywh, frame_size)))
    corners, score = (x, y, x + w, y + h), float(score)
    if frame_size is not None:
        corners, score = [round(value, 2) for value in corners], round(score, 4)
    result = {"frame": number, "box": dict(zip(CORNERS, corners, strict=True)), "score": score}
    result |= {} if time is None else {"time": float(time)}
    return result | {"lost": lost, "redetected": redetected}


def _csv_line(result: dict) -> str:
    time = f"{result['time']:.4f}" if "time" in result else ""
    flags = ",".join(str(int(result.get(name, False))) for name in FLAGS)
    return f"{result['frame']},{_box_text(result)},{result['score']:.4f},{time},{flags}\n"


def _box_text(result: dict) -> str:
    return ",".join(f"{value:.3f}" for value in xywh(result))


def _row(result: dict) -> str:
    x, y, w, h = xywh(result)
    return f"{result['frame']:>7} {x:>9.1f} {y:>9.1f} {w:>9.1f} {h:>9.1f} {result['score']:>6.3f}"


__all__ = ["FORMATS", "TargetsResults", "TrackingResults"]
