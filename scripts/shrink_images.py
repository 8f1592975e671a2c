"""Copy training data with smaller images, for places where space is short, such as a rented GPU.

    python scripts/shrink_images.py my-videos my-images --max_side 320 --quality 80 --output_dir small

A source is a folder of videos as `pjvlt-convert folders` takes them (NAME/img/*.jpg and NAME/groundtruth_rect.txt,
x,y,w,h a line) or a folder of boxed images (`boxes.jsonl`). Each gets a folder of its own name in the output folder,
with JPEG images no larger than `--max_side` and boxes to match. Of a video, the other text files are copied as they
are; of boxed images, only those for training are copied, without their captions.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from modeling_pjvlt.command_parser import new_folder
from modeling_pjvlt.files_pjvlt import replacing_folder
from modeling_pjvlt.pixels_pjvlt import rgb_image, upright_image
from modeling_pjvlt.video_pjvlt import IMAGE_SUFFIXES, sort_frames

BOXES, VIDEO_BOXES = "boxes.jsonl", "groundtruth_rect.txt"


def shrink_image(source: Path, target: Path, max_side: int, quality: int) -> float:
    """Write a smaller image as JPEG, and return the factor of its sides, at most 1."""
    with Image.open(source) as image:
        image = rgb_image(upright_image(image))
    scale = min(1.0, max_side / max(image.size))
    if scale < 1:
        image = image.resize(
            [max(round(side * scale), 1) for side in image.size], Image.Resampling.LANCZOS, reducing_gap=3
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target, quality=quality)
    return scale


def shrink_video(source: Path, target: Path, max_side: int, quality: int) -> None:
    """Copy a video: its images, its boxes, and its other text files. Raises `ValueError` if it has no images."""
    names = sort_frames(p.name for p in (source / "img").iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise ValueError(f"{source / 'img'} holds no images")
    scales = [
        shrink_image(source / "img" / n, (target / "img" / n).with_suffix(".jpg"), max_side, quality) for n in names
    ]
    for path in source.glob("*.txt"):
        if path.name != VIDEO_BOXES:
            shutil.copy(path, target / path.name)
    lines = (source / VIDEO_BOXES).read_text(encoding="utf-8").split("\n")
    scaled = [_scaled(line.replace("\t", ",").split(","), scales[0]) if line.strip() else "" for line in lines]
    (target / VIDEO_BOXES).write_text("\n".join(",".join(f"{v:g}" for v in row) for row in scaled), encoding="utf-8")


def shrink_boxed_images(source: Path, target: Path, max_side: int, quality: int) -> None:
    """Copy the images that `boxes.jsonl` names for training, and their boxes."""
    root = source / "images" if (source / "images").is_dir() else source
    rows = [json.loads(line) for line in (source / BOXES).read_text(encoding="utf-8").splitlines() if line.strip()]
    kept = []
    for row in tqdm(
        [r for r in rows if r.get("split", "train") == "train"], desc=source.name, unit="image", disable=None
    ):
        path = root / row["file"].removeprefix("images/")
        name = Path(row["file"].removeprefix("images/")).with_suffix(".jpg")
        scale = shrink_image(path, target / "images" / name, max_side, quality)
        with Image.open(target / "images" / name) as image:
            row |= {"file": name.as_posix(), "width": image.width, "height": image.height}
        for labelled in row["objects"]:
            labelled["box"] = [round(v, 2) for v in _scaled(labelled["box"], scale)]
        row.pop("captions", None)
        kept.append(json.dumps(row, ensure_ascii=False))
    target.mkdir(parents=True, exist_ok=True)
    (target / BOXES).write_text("\n".join(kept) + "\n", encoding="utf-8")


def _scaled(numbers, scale: float) -> list[float]:
    return [float(number) * scale for number in numbers]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="folders of videos or of boxed images")
    parser.add_argument("--max_side", type=int, default=320, help="pixels of the longer side (default: %(default)s)")
    parser.add_argument("--quality", type=int, default=80, help="JPEG quality, 1 to 95 (default: %(default)s)")
    parser.add_argument("--output_dir", type=new_folder, required=True, help="must be absent or empty")
    args = parser.parse_args(argv)
    try:
        with replacing_folder(args.output_dir) as partial:
            for source in args.sources:
                target = partial / source.name
                if (source / BOXES).is_file():
                    shrink_boxed_images(source, target, args.max_side, args.quality)
                    continue
                videos = sorted(path.parent for path in source.glob(f"*/{VIDEO_BOXES}"))
                if not videos:
                    raise ValueError(f"{source} holds neither {BOXES} nor videos (NAME/img, NAME/{VIDEO_BOXES})")
                for video in tqdm(videos, desc=source.name, unit="video", disable=None):
                    shrink_video(video, target / video.name, args.max_side, args.quality)
    except (ValueError, OSError) as error:
        print(f"shrink_images.py: error: {error}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in args.output_dir.rglob("*") if path.is_file())
    print(f"{args.output_dir}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
