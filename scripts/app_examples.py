"""The clips that the web page of `app.py` offers: drawn at start, nothing is downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EXAMPLE_SEEDS = (3, 9)


@dataclass(frozen=True)
class Example:
    """A clip that is drawn at start, with its sentence and its box (x, y, w, h)."""

    path: Path
    text: str
    box: tuple[float, float, float, float]


def draw_examples(folder: Path, seeds: Sequence[int] = EXAMPLE_SEEDS, num_frames: int = 60) -> list[Example]:
    """Draw procedural clips into a folder; nothing is downloaded."""
    from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
    from modeling_pjvlt.video_writer_pjvlt import VideoWriter

    examples = []
    for seed in seeds:
        clip = ProceduralClip(seed, num_frames=num_frames)
        with VideoWriter(folder / f"example{seed}.mp4") as writer:
            for index in range(len(clip)):
                writer.write(clip.frame(index))
        box = tuple(round(float(value), 1) for value in clip.boxes[0])
        examples.append(Example(folder / f"example{seed}.mp4", clip.text, box))
    return examples
