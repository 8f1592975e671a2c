"""Teach the alignment branch of a tracker which patches of an image a phrase means.

    python scripts/teach_words/align.py checkpoint --boxed_images images/phrases images/more \\
      --features outputs/align-features --output_dir aligned

Everything else stays as it is, so the stem's maps of `--views` crops of each labelled image are computed once and kept
in `--features`, and sentences are encoded once. Each step contrasts all objects of `--images` crops with one phrase of
each (as in CLIP), and once more those of the same crop. A checkpoint without the branch gets one. What the branch adds
to the logits of the scores is the cosine times `--gain`: the more, the more a sentence can move the target. Its bias
makes that 0 on average for objects and their own phrases. The result is stored as float16, as by
`average_checkpoints.py`.
"""

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import torch
from features import PhraseCrops, StoredMaps, stem_digest, store_crops
from teacher import contrast_loss, places_around
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from average_checkpoints import save_small

from modeling_pjvlt import PJVLTModel, PJVLTProcessor
from modeling_pjvlt.alignment_pjvlt import mean_word
from modeling_pjvlt.command_parser import new_folder
from modeling_pjvlt.data.boxed_images import BoxedImages
from modeling_pjvlt.evaluation.phrase_pairs import phrase_accuracy, read_phrase_pairs
from modeling_pjvlt.run_folders import find_checkpoint

FIRST_SCALE = 10.0  # of the cosines in the contrast, before training
WITHIN_WEIGHT = 0.3  # of the contrast within a crop
# shares that are left out: of the channels of patches and sentences, and of both hidden layers
CHANNEL_DROP, PATCH_DROP, WORD_DROP, SENTENCE_DROP = 0.1, 0.3, 0.2, 0.5
MAX_OBJECTS = 5  # of a crop
WARM_SHARE = 0.1  # of the steps, in which the rate rises
SENTENCES = 256  # that are encoded at once
TYPICAL = 20  # batches whose cosines are averaged


def with_alignment(model: PJVLTModel, size: int) -> PJVLTModel:
    """A model with the same weights and an alignment branch of `size` channels; one that has it stays as it is.

    Raises `ValueError` for a model without language.
    """
    if not model.config.uses_language:
        raise ValueError("the checkpoint has no language stream")
    if model.config.alignment_size is not None:
        return model
    config = copy.deepcopy(model.config)
    config.alignment_size = size
    extended = PJVLTModel(config).eval()
    extended.load_state_dict(extended.state_dict() | model.state_dict())
    return extended


@torch.no_grad()
def mean_words(model: PJVLTModel, processor: PJVLTProcessor, phrases: list[str]) -> Tensor:
    """(S, 2, C_text): the mean tokens of BERT's first and last hidden states."""
    means = []
    for start in tqdm(range(0, len(phrases), SENTENCES), "phrases", unit="batch", disable=None):
        tokens = processor.encode_text(phrases[start : start + SENTENCES])
        states = model.text_encoder(**tokens, output_hidden_states=True).hidden_states
        ends = [mean_word(words, tokens["attention_mask"]) for words in (states[0], states[-1])]
        means.append(torch.stack(ends, dim=1))
    return torch.cat(means)


class AlignmentTeacher(nn.Module):
    """The branch, with dropout, and its loss. crops: what `store_crops` stored. words: of `mean_words`, by phrase."""

    def __init__(self, model: PJVLTModel, crops: StoredMaps, words: dict[str, Tensor]):
        super().__init__()
        self.branch = model.alignment
        self.log_scale = nn.Parameter(torch.tensor(FIRST_SCALE).log())
        self._embeddings, self._crops, self._words = [model.embeddings], crops, words  # in a list: it is not trained
        self._usable = [number for number, row in enumerate(crops.rows) if len(row["boxes"]) > 1]
        branch = self.branch
        layers = (branch.patch, CHANNEL_DROP), (branch.project, PATCH_DROP)
        layers += (branch.sentence, WORD_DROP), (branch.project_sentence, SENTENCE_DROP)
        self._handles = [
            layer.register_forward_pre_hook(lambda _, given, rate=rate: functional.dropout(given[0], rate))
            for layer, rate in layers
        ]

    def finish(self) -> None:
        """Remove the dropout."""
        for handle in self._handles:
            handle.remove()

    def forward(self, rng: np.random.Generator, images: int) -> tuple[Tensor, Tensor]:
        """The loss of a batch of crops, and the mean cosine of its objects and their own phrases. Scalars."""
        numbers = sorted(rng.choice(self._usable, min(images, len(self._usable)), replace=False).tolist())
        boxes, phrases, meanings, crop_of = [], [], [], []
        for place, number in enumerate(numbers):
            row = self._crops.rows[number]
            for j in rng.permutation(len(row["boxes"]))[:MAX_OBJECTS]:
                boxes.append(row["boxes"][j])
                meanings.append(row["phrases"][j])
                phrases.append(str(rng.choice(meanings[-1])))
                crop_of.append(place)
        also = [[phrase in known and r != s for s, phrase in enumerate(phrases)] for r, known in enumerate(meanings)]
        also, crop_of, embed = torch.tensor(also), torch.tensor(crop_of), self._embeddings[0]
        with torch.no_grad():
            search = embed.project(*self._crops.take("search", numbers)) + embed.search_position
        patches = self.branch.encode_patches(search)
        words = torch.stack([self._words[phrase] for phrase in phrases])
        sentences = self.branch.encode_sentence(*words.unbind(dim=1))
        places, inside = places_around(torch.tensor(boxes), self.branch.grid)
        cosines = patches[crop_of[:, None], places] @ sentences.T  # (R, 9, S)
        logits = (cosines * self.log_scale.exp()).masked_fill(~inside[..., None], float("-inf")).logsumexp(dim=1)
        elsewhere = crop_of[:, None] != crop_of
        loss = contrast_loss(logits, also) + WITHIN_WEIGHT * contrast_loss(logits, also | elsewhere)
        own = torch.arange(len(phrases))
        return loss, cosines[own, :, own][inside].mean()


def teach(teacher: AlignmentTeacher, steps: int, images: int, rate: float, decay: float, seed: int) -> None:
    """AdamW, at a rate that rises and then falls to 0."""
    torch.manual_seed(seed)
    parts = [p for name, p in teacher.named_parameters() if name not in ("log_scale", "branch.gain", "branch.bias")]
    groups = [{"params": parts, "weight_decay": decay}, {"params": [teacher.log_scale], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=WARM_SHARE)
    for step in (bar := tqdm(range(steps), "align", unit="step", disable=None)):
        loss, _ = teacher(np.random.default_rng([seed, step]), images)
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.2f}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("--boxed_images", nargs="+", required=True, help="folders with a boxes.jsonl that has phrases")
    parser.add_argument("--features", type=Path, required=True, help="folder that keeps the stem's maps")
    parser.add_argument("--output_dir", type=new_folder, required=True, help="must be absent or empty")
    parser.add_argument("--phrase_pairs", type=Path, help="table of phrase pairs, to validate at the end")
    numbers = (
        ("--alignment_size", int, 128, "channels of a new branch"),
        ("--gain", float, 3.0, "added to a score's logit at a cosine of 1"),
        ("--views", int, 8, "crops of each labelled image"),
        ("--images", int, 96, "crops of a step"),
        ("--steps", int, 900, "steps"),
        ("--learning_rate", float, 1e-3, "highest rate"),
        ("--weight_decay", float, 0.2, "weight decay"),
        ("--seed", int, 0, "seed of crops, batches and the new branch"),
    )
    for flag, kind, default, about in numbers:
        parser.add_argument(flag, type=kind, default=default, help=f"{about} (default: %(default)s)")
    args = parser.parse_args(argv)
    for name in ("alignment_size", "views", "images", "steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        table = None if args.phrase_pairs is None else read_phrase_pairs(args.phrase_pairs)
        name = find_checkpoint(args.checkpoint)
        torch.manual_seed(args.seed)
        model = with_alignment(PJVLTModel.from_pretrained(name, dtype=torch.float32).eval(), args.alignment_size)
        processor = PJVLTProcessor.from_pretrained(name)
        size = model.config.search_size
        crops = PhraseCrops(BoxedImages(args.boxed_images), size, args.views, args.seed)
        made_from = {"stem": stem_digest(model), "search_size": size}
        made_from |= {name: getattr(args, name) for name in ("boxed_images", "views", "seed")}
        crops = store_crops(args.features, crops, made_from, model=model, processor=processor, num_workers=0)
    except (OSError, ValueError) as error:
        print(f"align: error: {error}", file=sys.stderr)
        return 2
    phrases = sorted({phrase for row in crops.rows for known in row["phrases"] for phrase in known})
    words = dict(zip(phrases, mean_words(model, processor, phrases), strict=True))
    teacher = AlignmentTeacher(model, crops, words)
    teach(teacher, args.steps, args.images, args.learning_rate, args.weight_decay, args.seed)
    teacher.finish()
    with torch.no_grad():
        rng = np.random.default_rng(args.seed)
        cosine = torch.stack([teacher(rng, args.images)[1] for _ in range(TYPICAL)]).mean()
        model.alignment.gain.fill_(args.gain)
        model.alignment.bias.copy_(-args.gain * cosine)
    if table is not None:
        accuracy = phrase_accuracy(model, processor, table)
        print(f"the phrase chooses its box in {accuracy:.1%} of {len(table)} pairs")
    save_small(model, processor, model.state_dict(), args.output_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
