"""Change the crop or patch size of a trained checkpoint, to train on with a faster or finer model.

    python scripts/resize_checkpoint.py modeling_pjvlt/pretrained/pjvlt-tiny --patch_size 16 --template_size 80 \\
      --search_size 160 --output_dir outputs/start
    pjvlt-train --model_name_or_path outputs/start --dataset_name photographs --photographs my-images \\
      --output_dir outputs/mine

PIM mixes a fixed number of patches, so a PJVLT takes crops of one size only. This script makes a model of another size
from the weights of the old one. Weights that belong to a position in a crop are interpolated between the two grids:
position tables (as for any ViT), and the token side of PIM, whose weights are scaled so that its sums stay the same.
The weights of a larger patch give the mean of the patches that it replaces (compare Beyer et al., "FlexiViT: one model
for all patch sizes", 2023). All other weights are copied.

With --same_scale a smaller search crop shows less around the target, at the scale that the model knows, instead of the
same at a smaller scale: the middle of its grid is kept, and the sizes of boxes, which are fractions of the crop, grow.
Such a model tracks at once, nearly as well as the old one, and faster.

Else the new model is a start, not a tracker: train it before you use it.
"""

import argparse

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from modeling_pjvlt import PJVLTConfig, PJVLTModel, PJVLTProcessor
from modeling_pjvlt.command_parser import new_folder
from modeling_pjvlt.files_pjvlt import replacing_folder
from modeling_pjvlt.run_folders import find_checkpoint


def resize_tokens(values: Tensor, old: PJVLTConfig, new: PJVLTConfig, cut: bool) -> Tensor:
    """(N, channels) values of the old grids' tokens, template first, to (N', channels) of the new grids'."""
    template, search = values.split([old.template_grid**2, old.search_grid**2])
    return torch.cat([resize_grid(template, new.template_grid), resize_search(search, new.search_grid, cut)])


def resize_grid(values: Tensor, grid: int) -> Tensor:
    """(n * n, channels) values of a square grid to (grid * grid, channels)."""
    side = round(len(values) ** 0.5)
    if grid == side:
        return values
    plane = values.T.reshape(1, -1, side, side)
    return interpolate(plane, (grid, grid), mode="bicubic", antialias=True, align_corners=False)[0].flatten(1).T


def cut_grid(values: Tensor, grid: int) -> Tensor:
    """The middle (grid * grid, channels) of a square grid's values; halfway between two cells if it lies there."""
    side = round(len(values) ** 0.5)
    plane = values.unflatten(0, (side, side))
    if (side - grid) % 2:
        plane = (plane[1:] + plane[:-1]) / 2
        plane = (plane[:, 1:] + plane[:, :-1]) / 2
    first = (len(plane) - grid) // 2
    return plane[first : first + grid, first : first + grid].flatten(0, 1)


def resize_search(values: Tensor, grid: int, cut: bool) -> Tensor:
    """Values of the search grid: its middle, or all of it in another resolution."""
    return cut_grid(values, grid) if cut else resize_grid(values, grid)


def grow_sizes(weight: Tensor, bias: Tensor, factor: float, usual: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of logits whose sigmoids are `factor` times those before, best around the size `usual`.

    The logit of the larger size is nearly linear in that of the size: fitted by least squares in log sizes.
    """
    sizes = np.geomspace(0.4, 2.2, 100) * usual
    larger = np.minimum(factor * sizes, 0.98)
    near = np.exp(-2 * np.log(sizes / usual) ** 2)
    slope, shift = np.polyfit(logit(sizes), logit(larger), 1, w=near)
    return weight * slope, bias * slope + shift


def logit(share: np.ndarray) -> np.ndarray:
    return np.log(share / (1 - share))


def resize_weights(
    weights: dict[str, Tensor], old: PJVLTConfig, new: PJVLTConfig, cut: bool = False
) -> dict[str, Tensor]:
    """The weights of a model with the old config for one whose crops and patches are the new config's.

    cut: whether the new search crop is the middle of the old one.
    """
    resized = dict(weights)
    search_density = 1.0 if cut else (old.search_grid / new.search_grid) ** 2
    density = torch.cat(
        [
            torch.full((new.template_grid**2,), (old.template_grid / new.template_grid) ** 2),
            torch.full((new.search_grid**2,), search_density),
        ]
    )
    for name, value in weights.items():
        if name.endswith(".pim.fc1.weight"):
            resized[name] = resize_tokens(value.T, old, new, cut).T * density
        elif name.endswith(".pim.fc3.weight"):
            resized[name] = resize_tokens(value, old, new, cut)
        elif name.endswith(".pim.fc3.bias"):
            resized[name] = resize_tokens(value[:, None], old, new, cut)[:, 0]
        elif name.endswith("template_position"):
            resized[name] = resize_grid(value[0], new.template_grid)[None]
        elif name.endswith("search_position"):
            resized[name] = resize_search(value[0], new.search_grid, cut)[None]
        elif name in ("embeddings.projection.weight", "embeddings.fine_projection.weight"):
            fine = name == "embeddings.fine_projection.weight"
            side = new.patch_size // (new.stem_fine_stride if fine else new.stem_stride)
            shrink = (value.shape[-1] / side) ** 2
            resized[name] = interpolate(value, (side, side), mode="area") * shrink
    return resized


def resize_model(model: PJVLTModel, search_factor: float | None = None, **sizes: int) -> PJVLTModel:
    """A model with other `patch_size`, `template_size` or `search_size`.

    search_factor: of the old checkpoint (side of the search region over that of the target), if the scale of its crop
    is to stay. Raises `ValueError` for sizes that do not fit.
    """
    settings = {**model.config.to_diff_dict(), **sizes}
    new = PJVLTConfig(
        **{name: value for name, value in settings.items() if name not in ("model_type", "architectures")}
    )
    resized = PJVLTModel(new)
    if search_factor is None:
        resized.load_state_dict(resize_weights(model.state_dict(), model.config, new))
        return resized.eval()
    growth = model.config.search_size / new.search_size
    if growth <= 1 or new.patch_size != model.config.patch_size:
        raise ValueError("--same_scale needs a smaller --search_size, and patches as they are")
    resized.load_state_dict(resize_weights(model.state_dict(), model.config, new, cut=True))
    last = resized.head.size[-1]
    with torch.no_grad():
        weight, bias = grow_sizes(last.weight, last.bias, growth, 1 / search_factor)
        last.weight.copy_(weight)
        last.bias.copy_(bias)
    return resized.eval()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a folder or Hub id")
    for name, meaning in (
        ("patch", "side of a patch"),
        ("template", "side of the template crop"),
        ("search", "side of the search crop"),
    ):
        parser.add_argument(f"--{name}_size", type=int, help=f"{meaning} in pixels (default: as it was)")
    parser.add_argument("--same_scale", action="store_true", help="a smaller search crop shows less, not smaller")
    parser.add_argument("--output_dir", type=new_folder, required=True, help="must be absent or empty")
    args = parser.parse_args(argv)
    sizes = {name: getattr(args, name) for name in ("patch_size", "template_size", "search_size")}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    if not sizes:
        parser.error("nothing to do: give --patch_size, --template_size or --search_size")
    args.checkpoint = find_checkpoint(args.checkpoint)
    old = PJVLTModel.from_pretrained(args.checkpoint, dtype=torch.float32)
    processor = PJVLTProcessor.from_pretrained(args.checkpoint)
    images = processor.image_processor
    try:
        model = resize_model(old, images.search_factor if args.same_scale else None, **sizes)
    except ValueError as error:
        parser.error(str(error))
    images.template_size, images.search_size = model.config.template_size, model.config.search_size
    if args.same_scale:
        images.search_factor *= model.config.search_size / old.config.search_size
    with replacing_folder(args.output_dir) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
    before, after = old.config.num_visual_tokens, model.config.num_visual_tokens
    advice = "" if args.same_scale else "; train it before you use it"
    print(f"{args.output_dir}: {after} visual tokens instead of {before}{advice}")


if __name__ == "__main__":
    main()
