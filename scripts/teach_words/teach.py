"""Teach a trained tracker what phrases mean, with many objects of each labelled image at once.

    python scripts/teach_words outputs/start --config scripts/recipes/pjvlt_small_phrases.yaml \\
      --tracker outputs/start --features outputs/features --phrase_pairs images/phrases/pairs_val.jsonl

The stem stays as it is, so its maps of `--pairs` training pairs of the recipe's mixture, and of `--views` crops of
each labelled image, are computed once and kept in `--features` (about 0.1 MB each). Then each step teaches the phrases
of `--images` images and, beside them, pairs of the mixture. If the checkpoint's SAIELs concatenate, they are turned
into ones that multiply first.

With `--tracker`, a checkpoint with the same stem, the model goes on tracking as that one does: its maps are kept on
pairs whose target it finds without words, whatever the sentence says. Its search crop may be larger, at the same scale
(`resize_checkpoint.py --same_scale` makes a smaller one): then the model sees a random part of it.

The recipe is one of `pjvlt-train`, of which this uses the data, the rates, the schedule, the seed and the batch size
(of the pairs); every other option that is given overrides it. On several cores or GPUs: accelerate launch
--num_processes 2 scripts/teach_words ... Checkpoints hold the moving average of the weights;
`--resume_from_checkpoint last` goes on from the last one.
"""

import argparse
import math
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from batches import PhraseBatches
from features import PhraseCrops, StoredMaps, stem_digest, store_crops, store_pairs
from parts import Parts
from product_fusion import to_product
from teacher import PhraseBatch, Teacher
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import get_scheduler

from modeling_pjvlt import PJVLTModel, PJVLTProcessor
from modeling_pjvlt.data.boxed_images import BoxedImages
from modeling_pjvlt.data.pairs.mixture import PairCollator
from modeling_pjvlt.evaluation.phrase_pairs import phrase_accuracy, read_phrase_pairs
from modeling_pjvlt.image_processing_pjvlt import hidden_template
from modeling_pjvlt.training.arguments import STABLE, TrainArguments
from modeling_pjvlt.training.build import build_model, build_pairs
from modeling_pjvlt.training.checkpoints import Checkpoints
from modeling_pjvlt.training.command_line import parse_arguments
from modeling_pjvlt.training.trainer import interruptible

NEUTRAL = "the target"  # the sentence of the tracker whose maps are kept
DECISIVE = ("pairs", "views", "images", "objects", "asked", "saiel_learning_rate", "average", "tracker")  # own flags
TYPICAL = 64  # pairs over which the sentences' part of a concatenating SAIEL is averaged
CROP_SIZES = "template_size", "template_factor", "search_size", "search_factor"
DATA = (  # the fields of a recipe that decide its pairs
    "seed", "dataset_name", "dataset_weights", "dataset_split", "dataset_revision", "photographs",
    "photograph_difficulty", "pasted_share", "photograph_height", "labelled_share", "boxed_images",
    "boxed_words_share", "alike_share", "kind_share", "hidden_share", "absent_share", "max_gap", "min_box_side",
    "exclude_sequences", "twins", "words_share", "attribute_weights", "wrong_text_share", "no_text_share",
    "dataset_wrong_text_share", "dataset_no_text_share", "centre_jitter", "scale_jitter", "scale_jitter_per_axis",
    "flip_probability", "aspect_jitter", "template_flip_probability", "degrade_probability", "brightness_jitter",
)  # fmt: skip


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, TrainArguments]:
    parser = argparse.ArgumentParser(
        prog="teach_words",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other options are those of pjvlt-train.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", help="a tracker with the stages of a published network as its stem")
    parser.add_argument("--config", required=True, help="recipe of pjvlt-train")
    parser.add_argument("--features", type=Path, required=True, help="folder that keeps the stem's maps")
    parser.add_argument("--pairs", type=int, default=48_000, help="training pairs to store (default: %(default)s)")
    parser.add_argument("--views", type=int, default=6, help="crops of each labelled image (default: %(default)s)")
    parser.add_argument("--images", type=int, default=20, help="labelled images of a step (default: %(default)s)")
    parser.add_argument("--objects", type=int, default=5, help="most objects of an image (default: %(default)s)")
    parser.add_argument("--asked", type=int, default=1, help="phrases asked of each image (default: %(default)s)")
    parser.add_argument("--saiel_learning_rate", type=float, default=1e-3, help="default: %(default)s")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the moving average of the weights")
    parser.add_argument("--tracker", help="checkpoint with the same stem whose tracking is kept")
    parser.add_argument("--phrase_pairs", type=Path, help="table of phrase pairs, to validate at every checkpoint")
    own, rest = parser.parse_known_args(argv)
    for name in ("pairs", "views"):
        if getattr(own, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if min(own.objects, own.images) < 2 or own.asked not in (1, 2):
        parser.error("--images and --objects must be at least 2, and --asked 1 or 2")
    start = ["--config", own.config, "--model_name_or_path", own.checkpoint, "--stem_learning_rate", "0"]
    return own, parse_arguments([*start, *rest])


def stored_maps(own, args: TrainArguments, model, processor) -> tuple[StoredMaps, StoredMaps]:
    """Those of the labelled images and of the pairs; made if they are not there."""
    if not args.boxed_images:
        raise ValueError("--boxed_images names no folder of images with boxes and phrases")
    tools = {"model": model, "processor": processor, "num_workers": args.dataloader_num_workers}
    made_from = settings_of(args, model, processor)
    images = BoxedImages(args.boxed_images)
    crops = PhraseCrops(images, processor.image_processor.search_size, own.views, args.seed)
    stored = store_crops(own.features / "images", crops, made_from, **tools)
    pairs = build_pairs(args, processor.image_processor, own.pairs)
    return stored, store_pairs(own.features / "pairs", pairs, own.pairs, made_from, **tools)


def settings_of(args: TrainArguments, model: PJVLTModel, processor: PJVLTProcessor) -> dict:
    """What decides the stored maps: the stem, the crops, and the recipe's data."""
    crops = {name: getattr(processor.image_processor, name) for name in CROP_SIZES}
    return {"stem": stem_digest(model), **crops, **{name: getattr(args, name) for name in DATA}}


def tracker_to_keep(own, args: TrainArguments, model: PJVLTModel, processor: PJVLTProcessor):
    """The tracker whose maps are kept, its processor, and the tokens of its sentence.

    Raises `ValueError` unless its stem, its template and the scale of its search crop are the model's, and its search
    crop is at least as large.
    """
    args = replace(args, model_name_or_path=own.tracker)
    tracker, its_processor = build_model(args)
    tracker = to_product(tracker, typical_inputs(args, its_processor)).eval().requires_grad_(False)
    ours, theirs = settings_of(args, model, processor), settings_of(args, tracker, its_processor)
    growth = theirs["search_size"] / ours["search_size"]
    scaled = {"search_size": theirs["search_size"], "search_factor": theirs["search_factor"]}
    same_scale = math.isclose(theirs["search_factor"], growth * ours["search_factor"], rel_tol=1e-3)
    if growth < 1 or not same_scale or {**ours, **scaled} != theirs:
        raise ValueError(
            f"{own.tracker} cannot be kept by {own.checkpoint}: it must have the same stem, the same template, and a "
            "search crop of the same scale that is at least as large"
        )
    return tracker, its_processor, its_processor.encode_text([NEUTRAL])


def freeze_norms(head: nn.Module) -> None:
    """Let batch norms use their running statistics: those of a batch mix crops of photographs and of videos."""
    for module in head.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def typical_inputs(args: TrainArguments, processor: PJVLTProcessor) -> dict:
    """Crops and sentences of the first training pairs."""
    pairs = build_pairs(args, processor.image_processor, TYPICAL)
    inputs = PairCollator(processor)([pairs[i] for i in range(TYPICAL)])
    return {name: value for name, value in inputs.items() if name != "labels"}


def parameter_groups(model: nn.Module, args: TrainArguments, saiel_rate: float) -> list[dict]:
    """Text encoder, SAIELs with the teacher's own parameters, head, and all else; what is frozen is left out."""
    rates = {"text": args.text_learning_rate, "saiel": saiel_rate, "head": args.head_learning_rate}
    rates = {**rates, "rest": args.encoder_learning_rate}
    groups = {name: {"params": [], "lr": args.encoder_learning_rate if r is None else r} for name, r in rates.items()}
    for name, parameter in model.named_parameters():
        own = "saiel" if ".saiel." in name or not name.startswith("model.") else "rest"
        for group, prefix in (("text", "model.text_encoder."), ("head", "model.head.")):
            own = group if name.startswith(prefix) else own
        if parameter.requires_grad:
            groups[own]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def on_device(batch: PhraseBatch, device: torch.device) -> PhraseBatch:
    def move(value):
        return tuple(part.to(device) for part in value) if isinstance(value, tuple) else value.to(device)

    return replace(batch, **{f.name: move(getattr(batch, f.name)) for f in fields(batch)})


def main(argv: list[str] | None = None) -> int:
    try:
        own, args = parse(argv)
        accelerator = Accelerator(mixed_precision=args.mixed_precision)
        set_seed(args.seed)
        table = None if own.phrase_pairs is None else read_phrase_pairs(own.phrase_pairs)
        model, processor = build_model(args)
        if not model.config.stem_stages:
            raise ValueError("the checkpoint's stem has no stages of a published network, so it has nothing to keep")
        checkpoints = Checkpoints(args, accelerator, processor, {name: getattr(own, name) for name in DECISIVE})
        folder = checkpoints.prepare()
        first = 0 if folder is None else checkpoints.read(folder)["step"]
        model = to_product(model, typical_inputs(args, processor))
        seen, tracker = processor, None
        if own.tracker is not None:
            kept, seen, tokens = tracker_to_keep(own, args, model, processor)
            tracker = kept.to(accelerator.device), tokens
        with accelerator.main_process_first():
            stored = stored_maps(own, args, model.eval(), seen)
        images = processor.image_processor
        with torch.no_grad():
            template = model.embeddings.features(images.normalize_crops(hidden_template(images)[None].float()))
        sizes = own.images, own.objects, own.asked, args.per_device_train_batch_size
        template = tuple(part for part in template if part is not None)
        parts = Parts(seen.image_processor.search_size // model.config.patch_size, model.config.search_grid)
        batches = PhraseBatches(*stored, template, processor, *sizes, args.seed, accelerator.process_index, parts)
    except (ValueError, OSError) as error:
        print(f"teach_words: error: {error}", file=sys.stderr)
        return 2
    set_seed(args.seed)  # again, because making the maps draws numbers, and reading them does not
    # The copy comes first: it must not share the teacher's hooks.
    follow = get_ema_multi_avg_fn(own.average)
    averaged = AveragedModel(model.train(), accelerator.device, multi_avg_fn=follow, use_buffers=True)
    freeze_norms(model.head)
    teacher = Teacher(model, tracker)
    groups = parameter_groups(teacher, args, own.saiel_learning_rate)
    optimizer = torch.optim.AdamW(groups, weight_decay=args.weight_decay, betas=(0.9, 0.98))
    teacher, optimizer, scheduler = prepare(args, accelerator, teacher, optimizer, averaged)
    if folder is not None:
        checkpoints.restore(folder)
    else:
        torch.manual_seed(args.seed + accelerator.process_index)  # each process draws its own dropout

    def save(step: int) -> None:
        checkpoints.save(step, averaged.module)
        if table is not None and accelerator.is_main_process:
            accuracy = phrase_accuracy(averaged.module.eval(), processor, table)
            tqdm.write(f"step {step}: the phrase chooses its box in {accuracy:.1%} of {len(table)} pairs")

    def update() -> None:
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        averaged.update_parameters(model)

    teach(args, accelerator, teacher, batches, first, update, save)
    return 0


def prepare(args: TrainArguments, accelerator: Accelerator, teacher: Teacher, optimizer, averaged):
    """Teacher and optimizer, prepared by Accelerate, and a scheduler; checkpoints hold the averaged model, too."""
    decay = {"num_decay_steps": args.num_decay_steps} if args.lr_scheduler_type == STABLE else None
    steps = args.num_warmup_steps, args.max_train_steps
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, *steps, scheduler_specific_kwargs=decay)
    accelerator.register_for_checkpointing(scheduler, averaged)
    return *accelerator.prepare(teacher, optimizer), scheduler


def teach(args: TrainArguments, accelerator: Accelerator, teacher, batches: PhraseBatches, first: int, update, save):
    """Train from step `first` on: `update()` takes a step, `save(step)` writes a checkpoint."""
    bar = tqdm(range(first, args.max_train_steps), "teach", unit="step", disable=not accelerator.is_main_process)
    sums: Counter[str] = Counter()
    with interruptible(accelerator) as interrupted:
        for step in bar:
            loss, parts = teacher(on_device(batches.draw(step), accelerator.device))
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(teacher.parameters(), args.max_grad_norm)
            update()
            sums.update({name: value.item() for name, value in parts.items()} | {"steps": 1})
            done, stop = step + 1, interrupted()
            last = stop or done == args.max_train_steps
            if (done % args.logging_steps == 0 or last) and accelerator.is_main_process:
                count = sums.pop("steps")
                bar.write(f"step {done}: " + ", ".join(f"{name} {total / count:.3f}" for name, total in sums.items()))
                sums.clear()
            if done % args.checkpointing_steps == 0 or last:
                save(done)
            if stop:
                break
