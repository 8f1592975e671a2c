"""What tracking one target gives: a list of boxes and scores that saves itself, and shows itself as table and plot."""

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

# Of the first target, the second, and so on: apart for people who do not see red and green, too (Okabe and Ito, 2008).
TARGET_COLORS = [(255, 196, 0), (86, 180, 233), (230, 80, 160), (0, 200, 140), (240, 120, 0), (150, 120, 255)]
FLAGS = ("lost", "redetected")
MAX_SHOWN = 900  # frames of a video that a notebook keeps in itself
COLUMNS = ["frame", "x", "y", "w", "h", "score", "time", "lost", "redetected"]  # of a table
FORMATS = {"json": ".json", "csv": ".csv", "txt": ".txt", "mot": ".txt"}  # and the suffix that each is given


class TrackingResults(list):
    """One dict for each frame: `frame`, `box` (`xmin`, `ymin`, `xmax`, `ymax` in pixels), `score` (0 to 1), `time`,
    `lost` and `redetected`.

    `frame` is the number of the frame in its source, from 0, where those that a live source dropped count, too; `time`
    is in seconds since the source's first frame. While `lost` is True, the box is a guess; `redetected` is True where
    a lost target was found again elsewhere in the frame.

    Args:
        results: the dicts.
        fps: frames per second of the video; None where nobody knows.
        text: the sentence that described the target.
        source: the video: a path, an address or "camera 0"; None for frames from memory.
        model: the checkpoint, as it was named.
        frames: the frames again, for [`TrackingResults.save_video`]: something that can be iterated more than once.
        lost_score: a target whose score stays below it is lost; None where nobody knows, 0 where no target ever is.

    In a notebook it shows itself as a video that plays, where the frames can be read again, and as a table.

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
        """One result; or, for a slice, `TrackingResults` of the same video."""
        found = super().__getitem__(place)
        if not isinstance(place, slice):
            return found
        return TrackingResults(found, self.fps, self.text, self.source, self.model, self.frames, self.lost_score)

    def save(self, path: str | os.PathLike, format: str | None = None) -> Path:
        """Write the boxes to a file, which appears under its name only once it is complete. Returns its path.

        A pipe or a device such as /dev/stdout is written into, not replaced.

        Boxes are x, y, width, height in pixels (the upper left corner of the image is 0, 0), with 3 decimals; scores
        have 4. Missing parent folders are made.

        Args:
            path: where the file goes.
            format: by default what the suffix says.
                "json": {"video", "model", "text", "fps", "frames": [{"frame", "box", "score", "time"}, ...]}, with
                    "lost": true and "redetected": true in the frames where that is so.
                "csv": a line for each frame under the header frame,x,y,w,h,score,time,lost,redetected; frames count
                    from 0, and the last two are 0 or 1.
                "txt": x,y,w,h, a line for each frame.
                "mot": frame,id,x,y,w,h,score,-1,-1,-1; frames count from 1, the id is 1.

        Raises:
            ValueError: neither the suffix nor `format` names one of these, or the file is the video itself.
            OSError: the file cannot be written; what was there before is left as it was.
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

        Time is in seconds where the fps are known, in frames otherwise. A dashed line marks `lost_score`, where it is
        known. The frame whose box was given has a score of 1 and is left out.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("plots are made with matplotlib: pip install matplotlib") from error

        class ShownFigure(Figure):
            """A notebook shows it by itself, without pyplot."""

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
        """Write the frames with the box and the score drawn on them, as a video that appears once it is complete.

        Raises `ValueError` where the frames cannot be read again, as those of a camera or a generator, or where `path`
        is the video itself, and what [`VideoWriter`] raises.
        """
        return _save_video({"": self}, self, path)

    def _repr_html_(self) -> str:
        if self._html is None:
            self._html = f"<pre>{escape(repr(self))}</pre>"
            if self.frames is not None and 0 < len(self) <= MAX_SHOWN:
                self._html = self._video_html() + self._html
        return self._html

    def _video_html(self) -> str:
        """The video itself, or why there is none: a file may have gone since, and the table is worth showing."""
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
    """What tracking several targets gives: [`TrackingResults`] by their ids, in the order in which they were given.

    Args:
        results: by id; all of one video.

    Example:
        >>> results = tracker("clip.mp4", boxes={"dog": [120, 64, 90, 70], "cat": [10, 20, 40, 30]})  # doctest: +SKIP
        >>> results["dog"][0]["box"], results.save("pets.csv")  # doctest: +SKIP
    """

    def save(self, path: str | os.PathLike, format: str | None = None) -> Path:
        """Write all the boxes to one file; see [`TrackingResults.save`].

        Args:
            path: where the file goes.
            format: by default what the suffix says.
                "json": {"video", "model", "fps", "targets": [{"id", "text", "frames": [...]}, ...]}.
                "csv": id,frame,x,y,w,h,score,time,lost,redetected, target after target.
                "mot": as for one target; the ids are numbers from 1, in the order of the targets.

        Raises `ValueError` for "txt", which has room for one target, and as there.
        """
        path, one = Path(path).expanduser(), next(iter(self.values()), TrackingResults())
        refuse_outputs_over(one.source, path)
        picked = pick_format(path, format)
        if picked == "txt":
            raise ValueError(f"{path}: txt has room for one target; choose json, csv or mot, or save each by itself")
        return _write_lines(path, {"json": self._json, "csv": self._csv, "mot": self._mot}[picked](one))

    def save_video(self, path: str | os.PathLike) -> Path:
        """One video with every target in its own colour, with its id and score; see [`TrackingResults.save_video`]."""
        return _save_video(self, next(iter(self.values()), TrackingResults()), path)

    def to_pandas(self):
        """One table as of [`TrackingResults.to_pandas`], with a column `id` in front."""
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
    """Draw targets on their frames. one: any of the results, for what they share."""
    refuse_outputs_over(one.source, path)
    if one.frames is None:
        raise ValueError("These frames cannot be read again; draw the boxes while they come, as `pjvlt-track` does.")
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
    """Write a text file beside its place and rename it; into a pipe or a device. Raises `OSError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path.is_file() or path.is_dir()):
            path.write_text("".join(lines), encoding="utf-8", newline="")
            return path
        with replacing(path) as partial:
            # The name of a video may not be UTF-8; as \\udce9 it is valid JSON, and read back as the same name.
            partial.write_text("".join(lines), encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def pick_format(path: str | os.PathLike, format: str | None = None) -> str:
    """The format of a file of boxes: the one that is named, or else that of the suffix. Raises `ValueError`."""
    picked = format if format is not None else Path(path).suffix.lower().removeprefix(".")
    if picked not in FORMATS or (format is None and picked == "mot"):
        raise ValueError(
            f"{format!r} is no format of boxes; known are {', '.join(FORMATS)}"
            if format is not None
            else f"{path}: boxes are written as .json, .csv or .txt; for another name, say which format"
        )
    return picked


def _open_image(frame) -> Image.Image:
    from .image_processing_pjvlt import to_rgb  # brings torch, which saving boxes does without

    return Image.fromarray(np.ascontiguousarray(to_rgb(frame).permute(1, 2, 0).numpy()))


def _draw(image: Image.Image, result: dict, name: str, color: tuple[int, int, int]) -> None:
    """Draw the box, and name and score inside its upper left corner; a lost target's box is thin."""
    draw, line = ImageDraw.Draw(image), max(2, min(image.size) // 150)
    x, y, w, h = xywh(result)
    width = 1 if result.get("lost") else line
    draw.rectangle([x, y, x + max(w, 1), y + max(h, 1)], outline=color, width=width)
    label = f"{name} {'lost' if result.get('lost') else format(result['score'], '.2f')}".strip()
    draw.text((x + 2 * line, y + line), label, fill=color, stroke_width=2, stroke_fill="black")


def xywh(result: dict) -> tuple[float, float, float, float]:
    """x, y, width, height of one result."""
    left, top, right, bottom = (result["box"][name] for name in CORNERS)
    return left, top, round(right - left, 9), round(bottom - top, 9)  # a difference of hundredths is one again


def make_result(
    number: int,
    box_xywh,
    score: float,
    time: float | None = None,
    frame_size: tuple[int, int] | None = None,
    lost: bool = False,
    redetected: bool = False,
) -> dict:
    """The result of frame `number` of its source, from x, y, width, height; `time` in seconds, where it is known.

    With `frame_size` (height, width) as people want it: the box clipped to the frame and rounded to hundredths of a
    pixel, the score to 4 decimals. Without, everything as the network gave it.
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
