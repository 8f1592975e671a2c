"""From arguments to what a run trains on: model, processor, samples, and a loader that can start anywhere."""

import itertools
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import AutoTokenizer

from ..configuration_pjvlt import PJVLTConfig
from ..data.dataset import load_tracking_dataset
from ..data.photographs import PhotographFolder
from ..data.sampling import (
    PairCollator,
    PairCropper,
    PhotographPairs,
    ProceduralPairs,
    SequencePairs,
    TrackingPairs,
)
from ..data.streamed_pairs import StreamedPairs
from ..image_processing_pjvlt import PJVLTImageProcessor
from ..modeling_pjvlt import PJVLTModel
from ..processing_pjvlt import PJVLTProcessor
from .arguments import DRAWN, PHOTOGRAPHS, PROCEDURAL, TrainArguments, columns_of
from .run_folders import find_checkpoint


def build_model(args: TrainArguments) -> tuple[PJVLTModel, PJVLTProcessor]:
    """The model and processor that a run starts from."""
    attention = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    if args.model_name_or_path is not None:
        checkpoint = find_checkpoint(args.model_name_or_path)
        model = PJVLTModel.from_pretrained(checkpoint, dtype=torch.float32, **attention)
        processor = PJVLTProcessor.from_pretrained(checkpoint)
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name_or_path)
        config = None if args.model_config is None else PJVLTConfig(**args.model_config)
        if args.vision_backbone is not None:
            model = PJVLTModel.from_backbones(args.vision_backbone, args.text_backbone, config)
            if args.attn_implementation:
                model.set_attn_implementation(args.attn_implementation)
        else:
            if config.uses_language:
                config.text_config.vocab_size = len(tokenizer)
            model = PJVLTModel._from_config(config, **attention)
        images = PJVLTImageProcessor(template_size=model.config.template_size, search_size=model.config.search_size)
        processor = PJVLTProcessor(images, tokenizer)
    if args.freeze_text_encoder and model.config.uses_language:
        model.text_encoder.requires_grad_(False)
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model, processor


def parameter_groups(model: nn.Module, args: TrainArguments) -> list[dict]:
    """The paper's two groups: the box head, and everything else (ViT, BERT, SAIELs, CCPILs); frozen ones left out."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in trained if not name.startswith("head.")], "lr": args.encoder_learning_rate},
        {"params": [p for name, p in trained if name.startswith("head.")], "lr": args.head_learning_rate},
    ]


def build_pairs(args: TrainArguments, images: PJVLTImageProcessor, length: int) -> TrackingPairs | StreamedPairs:
    """The training samples: one dataset or a mixture, read at will or streamed."""
    cropper = PairCropper(images, args.centre_jitter, args.scale_jitter, args.flip_probability, args.brightness_jitter)
    weights = dict(zip(args.dataset_name, args.dataset_weights, strict=True))
    loaded = {
        name: load_tracking_dataset(name, split, revision, columns_of(args), streaming=args.streaming)
        for name, split, revision in zip(args.dataset_name, args.dataset_split, args.dataset_revision, strict=True)
        if name not in DRAWN
    }
    if args.streaming:
        batch_size = args.per_device_train_batch_size
        return StreamedPairs(loaded, cropper, length, batch_size, args.seed, weights, args.max_gap)
    sources = {name: SequencePairs(dataset, args.max_gap) for name, dataset in loaded.items()}
    if PROCEDURAL in args.dataset_name:
        sources[PROCEDURAL] = ProceduralPairs(
            words_share=args.words_share,
            wrong_text_share=args.wrong_text_share,
            no_text_share=args.no_text_share,
            attribute_weights=args.attribute_weights,
        )
    if PHOTOGRAPHS in args.dataset_name:
        sources[PHOTOGRAPHS] = PhotographPairs(
            PhotographFolder(args.photographs),
            difficulty=args.photograph_difficulty,
            pasted_share=args.pasted_share,
            wrong_text_share=args.wrong_text_share,
            no_text_share=args.no_text_share,
        )
    sources = {name: sources[name] for name in args.dataset_name}  # in the order of their weights
    return TrackingPairs(sources, cropper, length, args.seed, weights, args.twins)


class BatchesOfRank(Sampler):
    """Indices of the batches of one process, from a batch on.

    Batch b of all processes together holds samples b * n to (b + 1) * n, and each process has its part of them in
    order: so the data of a step do not depend on how many processes share it.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, num_processes: int = 1, first_batch: int = 0):
        self.batch_size, self.rank, self.num_processes = batch_size, rank, num_processes
        self.first_batch, self.num_batches = first_batch, length // (batch_size * num_processes)

    def __len__(self) -> int:
        return self.num_batches - self.first_batch

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.first_batch, self.num_batches):
            yield samples_of_batch(batch, self.batch_size, self.rank, self.num_processes)


def samples_of_batch(batch: int, batch_size: int, rank: int, num_processes: int) -> list[int]:
    """Which samples a process has in a batch."""
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
    """Batches of one process from `first_batch` on, their crops still bytes: see [`normalize_pairs`]."""
    settings = {
        "num_workers": args.dataloader_num_workers,
        "collate_fn": PairCollator(processor, normalize=False),
        "pin_memory": torch.cuda.is_available(),
        "generator": torch.Generator(),  # or the loader would draw from the global one, and a resumed run differ
    }
    if isinstance(pairs, StreamedPairs):
        pairs.place(rank, num_processes, first_batch)
        return DataLoader(pairs, batch_size=args.per_device_train_batch_size, **settings)
    batches = BatchesOfRank(len(pairs), args.per_device_train_batch_size, rank, num_processes, first_batch)
    return DataLoader(pairs, batch_sampler=batches, **settings)


def grouped(batches, number: int) -> Iterator[list]:
    """Lists of `number` batches; what is left at the end is not given."""
    iterator = iter(batches)
    while len(group := list(itertools.islice(iterator, number))) == number:
        yield group
