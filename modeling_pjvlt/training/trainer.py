"""The training loop: Accelerate, two parameter groups, checkpoints that load with `from_pretrained`."""

import json
import logging
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoTokenizer, get_scheduler

from ..configuration_pjvlt import PJVLTConfig
from ..data.dataset import load_tracking_dataset
from ..data.sampling import PairCollator, PairCropper, ProceduralPairs, SequencePairs, TrackingPairs
from ..data.streamed_pairs import StreamedPairs
from ..image_processing_pjvlt import PJVLTImageProcessor
from ..loss_pjvlt import cxcywh_to_xyxy, paired_giou
from ..modeling_pjvlt import PJVLTModel
from ..processing_pjvlt import PJVLTProcessor
from .arguments import PROCEDURAL, TrainArguments
from .checkpoints import save_checkpoint

logger = logging.getLogger(__name__)


def build_model(args: TrainArguments) -> tuple[PJVLTModel, PJVLTProcessor]:
    """The model and processor that a run starts from."""
    attention = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    if args.model_name_or_path is not None:
        model = PJVLTModel.from_pretrained(args.model_name_or_path, dtype=torch.float32, **attention)
        return model, PJVLTProcessor.from_pretrained(args.model_name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name_or_path)
    config = PJVLTConfig(**args.model_config)
    config.text_config.vocab_size = len(tokenizer)
    images = PJVLTImageProcessor(template_size=config.template_size, search_size=config.search_size)
    return PJVLTModel._from_config(config, **attention), PJVLTProcessor(images, tokenizer)


def build_pairs(args: TrainArguments, images: PJVLTImageProcessor, length: int) -> TrackingPairs | StreamedPairs:
    """The training samples: one dataset or a mixture, read at will or streamed."""
    cropper = PairCropper(images, args.centre_jitter, args.scale_jitter, args.flip_probability, args.brightness_jitter)
    weights = dict(zip(args.dataset_name, args.dataset_weights, strict=True))
    loaded = {
        name: load_tracking_dataset(name, split, revision, streaming=args.streaming)
        for name, split, revision in zip(args.dataset_name, args.dataset_split, args.dataset_revision, strict=True)
        if name != PROCEDURAL
    }
    if args.streaming:
        batch_size = args.per_device_train_batch_size
        return StreamedPairs(loaded, cropper, length, batch_size, args.seed, weights, args.max_gap)
    procedural = ProceduralPairs(
        words_share=args.words_share, wrong_text_share=args.wrong_text_share, no_text_share=args.no_text_share
    )
    sources = {
        name: procedural if name == PROCEDURAL else SequencePairs(loaded[name], args.max_gap)
        for name in args.dataset_name
    }
    return TrackingPairs(sources, cropper, length, args.seed, weights)


def parameter_groups(model: nn.Module, args: TrainArguments) -> list[dict]:
    """The paper's two groups: the box head, and everything else (ViT, BERT, SAIELs, CCPILs)."""
    head = [p for name, p in model.named_parameters() if name.startswith("head.")]
    encoder = [p for name, p in model.named_parameters() if not name.startswith("head.")]
    return [
        {"params": encoder, "lr": args.encoder_learning_rate},
        {"params": head, "lr": args.head_learning_rate},
    ]


def train(args: TrainArguments) -> Path:
    """Run a training; returns the folder of the last checkpoint."""
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    set_seed(args.seed)
    model, processor = build_model(args)
    length = args.max_train_steps * args.per_device_train_batch_size * accelerator.num_processes
    pairs = build_pairs(args, processor.image_processor, length)
    loader = DataLoader(
        pairs,
        batch_size=args.per_device_train_batch_size,
        num_workers=args.dataloader_num_workers,
        collate_fn=PairCollator(processor),
    )
    optimizer = torch.optim.AdamW(parameter_groups(model, args), weight_decay=args.weight_decay)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, args.num_warmup_steps, args.max_train_steps)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()

    log = RunLog(Path(args.output_dir), args, accelerator)
    for step, batch in enumerate(loader, start=1):
        outputs = model(**batch)
        accelerator.backward(outputs.loss)
        accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        scheduler.step()  # not prepared: Accelerate would step it once per process
        optimizer.zero_grad()
        log.step(step, outputs, batch["labels"], scheduler.get_last_lr())
        if step % args.checkpointing_steps == 0 or step == args.max_train_steps:
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                last = save_checkpoint(args.output_dir, step, accelerator.unwrap_model(model), processor)
    log.close()
    accelerator.end_training()
    return last if accelerator.is_main_process else Path(args.output_dir)


class RunLog:
    """Progress bar, and one JSON line in `log.jsonl` every `logging_steps`, with means over those steps."""

    def __init__(self, output_dir: Path, args: TrainArguments, accelerator: Accelerator):
        self.every, self.batch_size = args.logging_steps, args.per_device_train_batch_size * accelerator.num_processes
        self.main = accelerator.is_main_process
        self.bar = tqdm(total=args.max_train_steps, unit="step", disable=not self.main, dynamic_ncols=True)
        self.path = output_dir / "log.jsonl"
        self.sums: dict[str, torch.Tensor] = {}
        self.started = time.perf_counter()
        if self.main:
            output_dir.mkdir(parents=True, exist_ok=True)
            self.path.write_text("", encoding="utf-8")

    def step(self, step: int, outputs, labels, learning_rates: list[float]) -> None:
        """Add one step. `overlap` is the mean IoU of the boxes as the tracker would read them."""
        _, overlap = paired_giou(cxcywh_to_xyxy(outputs.pred_boxes.float()), cxcywh_to_xyxy(labels.float()))
        parts = {"loss": outputs.loss, "overlap": overlap.mean(), **outputs.loss_dict}
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.bar.update()
        if step % self.every:
            return
        now = time.perf_counter()
        line = {name: round(float(total) / self.every, 4) for name, total in self.sums.items()}
        rates = {
            "learning_rate": learning_rates[0],
            "pairs_per_second": round(self.every * self.batch_size / (now - self.started), 1),
        }
        self.sums, self.started = {}, now
        self.bar.set_postfix(loss=line["loss"], overlap=line["overlap"])
        if self.main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **line, **rates}) + "\n")

    def close(self) -> None:
        self.bar.close()
