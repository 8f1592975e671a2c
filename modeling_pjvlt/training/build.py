"""Builds model, processor, samples and loader from the arguments; the loader can start at any batch."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from torch import nn
from torch.utils.data import BatchSampler, DataLoader
from transformers import AutoConfig, AutoTokenizer

from ..configuration_pjvlt import PJVLTConfig
from ..data.boxed_images import BoxedImages
from ..data.converters.sources import filled_lines
from ..data.generated import BOXED_IMAGES, GENERATED, PHOTOGRAPHS, PROCEDURAL
from ..data.loading import load_tracking_dataset
from ..data.pairs.boxed_images import BoxedImagePairs
from ..data.pairs.cropping import PairCropper, WindowJitter
from ..data.pairs.mixture import PairCollator, TrackingPairs
from ..data.pairs.sources import PhotographPairs, ProceduralPairs, SequencePairs
from ..data.pairs.streamed import StreamedPairs
from ..data.synthetic.photographs import PhotographFolder
from ..image_processing_pjvlt import PJVLTImageProcessor
from ..modeling_pjvlt import PJVLTModel
from ..processing_pjvlt import PJVLTProcessor
from ..run_folders import find_checkpoint
from .arguments import TrainArguments, columns_of

STEM = "embeddings.stem."


def build_model(args: TrainArguments) -> tuple[PJVLTModel, PJVLTProcessor]:
    """The model and processor that a run starts from."""
    attention = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    if args.model_name_or_path is not None:
        checkpoint = find_checkpoint(args.model_name_or_path)
        model = PJVLTModel.from_pretrained(checkpoint, dtype=torch.float32, **attention)
        processor = PJVLTProcessor.from_pretrained(checkpoint)
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name_or_path)
        config = None
        if args.model_config is not None:
            text = (
                {} if args.text_backbone is None else {"text_config": AutoConfig.from_pretrained(args.text_backbone)}
            )
            config = PJVLTConfig(**{**text, **args.model_config})
        if args.vision_backbone is not None:
            model = PJVLTModel.from_backbones(args.vision_backbone, args.text_backbone, config)
            if args.attn_implementation:
                model.set_attn_implementation(args.attn_implementation)
        else:
            if config.uses_language:
                config.text_config.vocab_size = len(tokenizer)
            model = PJVLTModel._from_config(config, **attention)
        sizes = {"template_size": model.config.template_size, "search_size": model.config.search_size}
        images = PJVLTImageProcessor(**sizes, **(args.image_processor_config or {}))
        processor = PJVLTProcessor(images, tokenizer)
    if args.freeze_text_encoder and model.config.uses_language:
        model.text_encoder.requires_grad_(False)
    if args.stem_learning_rate == 0:
        model.embeddings.stem.requires_grad_(False)
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model, processor


def parameter_groups(model: nn.Module, args: TrainArguments) -> list[dict]:
    """The paper's two groups: the box head, and everything else (ViT, BERT, SAIELs, CCPILs).

    A convolutional stem and BERT form groups of their own if they have their own rate. Frozen parameters are left out.
    """
    rates = {"": args.encoder_learning_rate, "head.": args.head_learning_rate}
    own = {STEM: args.stem_learning_rate, "text_encoder.": args.text_learning_rate}
    rates |= {prefix: rate for prefix, rate in own.items() if rate is not None}
    groups = {prefix: {"params": [], "lr": rate} for prefix, rate in rates.items()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[max(filter(name.startswith, groups), key=len)]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def build_pairs(args: TrainArguments, images: PJVLTImageProcessor, length: int) -> TrackingPairs | StreamedPairs:
    """The training samples: one dataset or a mixture, stored or streamed."""
    cropper = PairCropper(
        images,
        WindowJitter(args.centre_jitter, args.scale_jitter, args.aspect_jitter, args.scale_jitter_per_axis),
        args.flip_probability,
        args.brightness_jitter,
        args.template_flip_probability,
        args.degrade_probability,
    )
    weights = dict(zip(args.dataset_name, args.dataset_weights, strict=True))
    loaded = {
        name: load_tracking_dataset(name, split, revision, columns_of(args), streaming=args.streaming)
        for name, split, revision in zip(args.dataset_name, args.dataset_split, args.dataset_revision, strict=True)
        if name not in GENERATED
    }
    sides = dict(zip(args.dataset_name, args.min_box_side, strict=True))
    excluded = read_excluded(args, loaded)
    if args.streaming:
        batch_size, gap = args.per_device_train_batch_size, args.max_gap
        return StreamedPairs(
            loaded, cropper, length, batch_size, args.seed, weights, gap, min_box_sides=sides, excluded=excluded
        )
    text_shares = {"wrong_text_share": args.wrong_text_share, "no_text_share": args.no_text_share}
    shares = args.dataset_wrong_text_share, args.dataset_no_text_share, args.hidden_share, args.absent_share
    sources = {
        name: SequencePairs(dataset, args.max_gap, sides[name], excluded, *shares) for name, dataset in loaded.items()
    }
    if BOXED_IMAGES in args.dataset_name:
        shares = {name: getattr(args, name) for name in ("alike_share", "kind_share", "absent_share")}
        words = args.boxed_words_share
        sources[BOXED_IMAGES] = BoxedImagePairs(BoxedImages(args.boxed_images), words, **shares, **text_shares)
    if PROCEDURAL in args.dataset_name:
        words, attributes = args.words_share, args.attribute_weights
        sources[PROCEDURAL] = ProceduralPairs(words_share=words, attribute_weights=attributes, **text_shares)
    if PHOTOGRAPHS in args.dataset_name:
        sources[PHOTOGRAPHS] = PhotographPairs(
            PhotographFolder(args.photographs, labelled_share=args.labelled_share),
            difficulty=args.photograph_difficulty,
            pasted_share=args.pasted_share,
            frame_height=args.photograph_height,
            **text_shares,
        )
    sources = {name: sources[name] for name in args.dataset_name}  # in the order of their weights
    return TrackingPairs(sources, cropper, length, args.seed, weights, args.twins)


def read_excluded(args: TrainArguments, loaded: dict) -> frozenset[str]:
    """The sequences that `--exclude_sequences` names, one a line; blanks around a name and empty lines do not count.

    Raises `FileNotFoundError` without the file, `ValueError` where it names no sequence, or none of the datasets (the
    second is not checked for streamed ones).
    """
    if args.exclude_sequences is None:
        return frozenset()
    path = Path(args.exclude_sequences)
    if not path.is_file():
        raise FileNotFoundError(f"--exclude_sequences: no file at {path}; it lists sequences, one name a line.")
    names = frozenset(filled_lines(path))
    if not names:
        raise ValueError(f"--exclude_sequences: {path} is empty; it lists sequences, one name a line.")
    if not args.streaming and not any(names.intersection(dataset.names) for dataset in loaded.values()):
        raise ValueError(
            f"--exclude_sequences: none of the {len(names)} names in {path} is a sequence of "
            f"{', '.join(args.dataset_name)}; expected one name a line, as in the datasets' column `sequence`."
        )
    return names


def batches_of_rank(
    length: int, batch_size: int, rank: int = 0, num_processes: int = 1, first_batch: int = 0
) -> SkipBatchSampler:
    """Sample indices of each batch of one process, from `first_batch` on.

    The batches b of all processes together hold the samples from b * n to (b + 1) * n - 1, where n is `batch_size *
    num_processes`. Each process has a part of them, in order, so the samples of a step do not depend on the number of
    processes.
    """
    batches = BatchSampler(range(length), batch_size, drop_last=True)
    return SkipBatchSampler(BatchSamplerShard(batches, num_processes, rank), first_batch)


def samples_of_batch(batch: int, batch_size: int, rank: int, num_processes: int) -> list[int]:
    """The samples of one process in a batch."""
    first = (batch * num_processes + rank) * batch_size
    return list(range(first, first + batch_size))


def build_loader(
    args: TrainArguments,
    pairs: TrackingPairs | StreamedPairs,
    processor,
    rank: int,
    num_processes: int,
    first_batch: int,
) -> DataLoader:
    """Batches of one process from `first_batch` on; their crops are still bytes, see [`normalize_pairs`]."""
    settings = {
        "num_workers": args.dataloader_num_workers,
        "collate_fn": PairCollator(processor, normalize=False),
        "pin_memory": torch.cuda.is_available(),
        # Otherwise the loader would draw from the global generator, and a resumed run would differ.
        "generator": torch.Generator(),
    }
    if isinstance(pairs, StreamedPairs):
        pairs.place(rank, num_processes, first_batch)
        return DataLoader(pairs, batch_size=args.per_device_train_batch_size, **settings)
    batches = batches_of_rank(len(pairs), args.per_device_train_batch_size, rank, num_processes, first_batch)
    return DataLoader(pairs, batch_sampler=batches, **settings)


def grouped(batches, number: int) -> Iterator[list]:
    """Lists of `number` batches; an incomplete list at the end is dropped."""
    iterator = iter(batches)
    while len(group := list(itertools.islice(iterator, number))) == number:
        yield group
