"""Draw training samples: pairs of crops, their boxes and their sentences, on one image.

    python scripts/contact_sheet.py --photographs my-images --output_file sheet.png
    python scripts/contact_sheet.py --config scripts/recipes/pjvlt_tiny.yaml --output_file sheet.png
    python scripts/contact_sheet.py --dataset_name my-data --output_file sheet.png --rows 4 --columns 6

Every flag of pjvlt-train about data is accepted (--dataset_name, --photograph_difficulty, --centre_jitter,
--seed, ...), and --config reads the data of a recipe. The left image of a pair is the template, the right one the
search region with its label; black is outside the frame. The brightness is that of the network's input. Some sentences
may be wrong on purpose: the last line of the sheet says how many, and why.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from modeling_pjvlt.data.generated import GENERATED, PHOTOGRAPHS
from modeling_pjvlt.data.pairs.mixture import TrackingPairs
from modeling_pjvlt.files_pjvlt import replacing
from modeling_pjvlt.image_processing_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.processing_pjvlt import DEFAULT_SENTENCE
from modeling_pjvlt.training.arguments import TrainArguments
from modeling_pjvlt.training.build import build_pairs
from modeling_pjvlt.training.command_line import parse_arguments
from modeling_pjvlt.video_pjvlt import refuse_outputs_over
from modeling_pjvlt.visualization.drawing import draw_box, wrap_text

SCALE = 2  # pixels of the sheet for each pixel of a crop
FONT, LINE = ImageFont.load_default(24), 30  # pixels
GAP = 8
INK, SOFT, GROUND = (255, 255, 255), (170, 170, 170), (40, 40, 40)


def draw_pair(sample: dict[str, Tensor | str]) -> Image.Image:
    """The template above the sentence, and beside them the search crop with its label."""
    search_light, template_light = sample["brightness"].tolist()
    template = _enlarged(sample["template_pixel_values"], template_light)
    search = _enlarged(sample["pixel_values"], search_light)
    cx, cy, w, h = (v * search.width for v in sample["labels"].tolist())
    is_shown = w > 0 and h > 0
    if is_shown:
        search = Image.fromarray(draw_box(search, (cx - w / 2, cy - h / 2, w, h)))
    image = Image.new("RGB", (template.width + search.width, search.height), GROUND)
    image.paste(template, (0, 0))
    image.paste(search, (template.width, 0))
    draw, top = ImageDraw.Draw(image), template.height + GAP
    notes = [] if is_shown else ["(the target is not in the search region)"]
    for text, color in ((sample["text"], INK), *((note, SOFT) for note in notes)):
        for line in wrap_text(text, FONT, template.width - 2 * GAP):
            draw.text((GAP, top), line, color, FONT)
            top += LINE
    return image


def _enlarged(crop: Tensor, light: float) -> Image.Image:
    levels = np.clip(np.round(crop.permute(1, 2, 0).numpy() * light), 0, 255).astype(np.uint8)
    return Image.fromarray(levels).resize((crop.shape[2] * SCALE, crop.shape[1] * SCALE), Image.Resampling.NEAREST)


def draw_sheet(pairs: TrackingPairs, rows: int, columns: int, note: str = "") -> Image.Image:
    """The first `rows` times `columns` samples, and a note at the foot."""
    images = [draw_pair(pairs[index]) for index in range(rows * columns)]
    width, height = images[0].width + GAP, images[0].height + GAP
    lines = wrap_text(note, FONT, columns * width - 3 * GAP) if note else []
    sheet = Image.new(
        "RGB", (columns * width - GAP, rows * height - GAP + (2 * GAP + len(lines) * LINE) * bool(lines))
    )
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    for number, line in enumerate(lines):
        ImageDraw.Draw(sheet).text((GAP, rows * height + number * LINE), line, INK, FONT)
    return sheet


def describe_sentences(args: TrainArguments) -> str:
    """How many sentences are wrong or missing on purpose; empty where none is."""
    parts = []
    for kind, prefix, is_used in (
        ("generated pairs", "", GENERATED & set(args.dataset_name)),
        ("pairs of datasets", "dataset_", set(args.dataset_name) - GENERATED),
    ):
        wrong, missing = (getattr(args, f"{prefix}{name}_text_share") for name in ("wrong", "no"))
        if is_used and (wrong or missing):
            parts.append(
                f"up to {wrong:.0%} of the {kind} have a sentence about something else (--{prefix}wrong_text_share), "
                f'and up to {missing:.0%} only "{DEFAULT_SENTENCE}" (--{prefix}no_text_share)'
            )
    if not parts:
        return ""
    return f"On purpose, {'; '.join(parts)}: so the model learns that a clear template outweighs a wrong sentence."


def read_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, TrainArguments]:
    """The layout of the sheet, and the arguments of the training whose samples it shows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_file", type=Path, required=True, help="where the image goes (.png or .jpg)")
    parser.add_argument("--rows", type=int, default=6, help="default: 6")
    parser.add_argument("--columns", type=int, default=5, help="default: 5")
    own, rest = parser.parse_known_args(argv)
    if own.rows < 1 or own.columns < 1:
        parser.error("--rows and --columns must be at least 1")
    # A training needs these arguments, a sheet does not.
    needed = (
        [] if "--config" in rest else ["--output_dir", ".", "--model_config", "{}", "--tokenizer_name_or_path", "."]
    )
    if "--photographs" in rest and not {"--dataset_name", "--config"} & set(rest):
        needed += ["--dataset_name", PHOTOGRAPHS]
    try:
        return own, parse_arguments([*needed, *rest])
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


def main(argv: list[str] | None = None) -> None:
    own, args = read_arguments(argv)
    config = args.model_config or {}
    sizes = {name: config[name] for name in ("template_size", "search_size") if name in config}
    for folder in args.photographs or ():
        refuse_outputs_over(folder, own.output_file)
    pairs = build_pairs(args, PJVLTImageProcessor(**sizes), own.rows * own.columns)
    if not isinstance(pairs, TrackingPairs):
        raise SystemExit("A sheet of streamed data cannot be drawn; leave --streaming out.")
    own.output_file.parent.mkdir(parents=True, exist_ok=True)
    note = describe_sentences(args)
    with replacing(own.output_file) as partial:
        draw_sheet(pairs, own.rows, own.columns, note).save(partial)
    print(f"wrote {own.output_file}: {own.rows * own.columns} pairs of {', '.join(args.dataset_name)}")
    if note:
        print(note)


if __name__ == "__main__":
    main()
