"""The arguments of a training run, and which of them fit together."""

import copy
import json
import math
from dataclasses import dataclass, field
from importlib.util import find_spec

from ..data.generated import BOXED_IMAGES, GENERATED, PHOTOGRAPHS, PROCEDURAL

STEP = "step"  # a tenth of the rate from one step on
STABLE = "warmup_stable_decay"  # a schedule that can be extended: the rate stays high until the last steps
# `step`, and the schedules of transformers that need no other settings than ours.
SCHEDULES = (
    STEP, STABLE, "cosine", "linear", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial",
    "cosine_with_restarts",
)  # fmt: skip
WITHOUT_WARMUP = (STEP, "constant")
ENDING = {"lr_scheduler_type", "num_decay_steps", "max_train_steps"}  # may change while the rate is still high
REPORTS = ["tensorboard", "wandb", "trackio"]
# May change when a run is resumed, because the result stays the same; all other arguments must not.
FREE_ON_RESUME = {
    "output_dir", "resume_from_checkpoint", "overwrite_output_dir", "checkpointing_steps", "checkpoints_total_limit",
    "dataloader_num_workers", "validation_steps", "validation_dataset_name", "validation_split",
    "validation_phrases", "num_validation_sequences", "max_validation_frames", "report_to", "push_to_hub",
    "hub_model_id", "hub_private_repo", "model_name_or_path", "tokenizer_name_or_path", "vision_backbone",
    "text_backbone", "gradient_checkpointing",
}  # fmt: skip

POSITIVE = (
    "max_train_steps", "per_device_train_batch_size", "global_batch_size", "gradient_accumulation_steps",
    "checkpointing_steps", "checkpoints_total_limit", "logging_steps", "validation_steps",
    "num_validation_sequences", "lr_drop_step", "num_decay_steps", "photograph_height",
)  # fmt: skip

SHARES = (
    "flip_probability", "words_share", "wrong_text_share", "no_text_share", "brightness_jitter",
    "photograph_difficulty", "boxed_words_share", "alike_share", "kind_share", "dataset_wrong_text_share",
    "dataset_no_text_share", "hidden_share", "absent_share", "template_flip_probability", "degrade_probability",
    "pasted_share", "labelled_share",
)  # fmt: skip
# Of the pairs of stored datasets; all but the first need another sequence, which a stream does not have at hand.
STORED_SHARES = ("hidden_share", "absent_share", "dataset_wrong_text_share", "dataset_no_text_share")
NEEDS = {
    "hub_model_id": "push_to_hub", "hub_private_repo": "push_to_hub",
    "validation_dataset_name": "validation_steps", "validation_phrases": "validation_steps",
}  # fmt: skip


@dataclass
class TrainArguments:
    """Arguments of `pjvlt-train`. Names are those of transformers' no_trainer scripts."""

    output_dir: str = field(metadata={"help": "Folder for checkpoints and logs."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from: a folder or a Hub id. Or give --model_config."}
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of PJVLTConfig for a new model (in YAML, or as JSON)."}
    )
    image_processor_config: dict | str | None = field(
        default=None,
        metadata={
            "help": "Fields of PJVLTImageProcessor for a new model, such as search_factor and image_mean (in YAML, or "
            "as JSON)."
        },
    )
    vision_backbone: str | None = field(
        default=None,
        metadata={
            "help": "Start from a timm network of this name and from --text_backbone: a plain ViT, or a network whose "
            "first stages become a convolutional stem."
        },
    )
    text_backbone: str | None = field(
        default=None, metadata={"help": "The BERT that goes with --vision_backbone: a Hub id or a folder."}
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "BERT tokenizer: a folder or a Hub id; by default that of --text_backbone."}
    )
    dataset_name: list[str] | None = field(
        default=None,
        metadata={
            "help": "Training data, mixed if there are several: Hub ids or folders of tracking datasets; `procedural` "
            "for procedural clips (the default); `photographs` for clips made of the images in --photographs; "
            "`boxed_images` for pairs from the images in --boxed_images."
        },
    )
    dataset_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each dataset in the mixture, of any sum; by default all equal."}
    )
    dataset_split: list[str] | None = field(
        default=None,
        metadata={
            "help": "Split to train on: one for all datasets, or one for each; by default `train`, or the only one."
        },
    )
    columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of the datasets' columns where they are not ours, such as `box=bbox text=caption`; also "
            "for --validation_dataset_name."
        },
    )
    dataset_revision: list[str] | None = field(
        default=None, metadata={"help": "Revision of the datasets' repositories: one for all, or one for each."}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Stream the datasets and store nothing. A stream takes none of "
            f"{', '.join(f'--{name}' for name in STORED_SHARES)}."
        },
    )
    photographs: list[str] | None = field(
        default=None,
        metadata={"help": "Folders of images, with or without labels, for `--dataset_name photographs`."},
    )
    photograph_difficulty: float = field(
        default=1.0,
        metadata={"help": "From 0 to 1: how much targets change and are disturbed in the hardest photograph clips."},
    )
    pasted_share: float = field(
        default=0.5, metadata={"help": "Share of photograph clips whose target moves over another photograph."}
    )
    photograph_height: int = field(
        default=240, metadata={"help": "Height of the frames of photograph clips, in pixels; targets grow with it."}
    )
    labelled_share: float = field(
        default=0.5,
        metadata={
            "help": "Share of photograph clips whose target is a labelled object, where there are some; the target of "
            "the others is a random shape over texture."
        },
    )
    boxed_images: list[str] | None = field(
        default=None,
        metadata={"help": "Folders of images with a `boxes.jsonl`, for `--dataset_name boxed_images`."},
    )
    boxed_words_share: float = field(
        default=0.35,
        metadata={
            "help": "Share of boxed pairs that show two objects with different phrases; in most of these only the "
            "phrase says which one is meant."
        },
    )
    alike_share: float = field(
        default=0.4, metadata={"help": "Least share of these whose objects are of one category, which is harder."}
    )
    kind_share: float = field(
        default=0.2,
        metadata={
            "help": "Share of the other boxed pairs whose template is another object of the same name, in another "
            "image."
        },
    )
    hidden_share: float = field(
        default=0.0,
        metadata={"help": "Share of a dataset's pairs without a template: only the sentence identifies the target."},
    )
    absent_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of a dataset's pairs, and of the other boxed pairs, whose search region does not show the "
            "target."
        },
    )
    max_gap: int = field(
        default=200, metadata={"help": "Greatest number of frames between the two frames of a dataset's pair."}
    )
    min_box_side: list[float] | None = field(
        default=None,
        metadata={
            "help": "Leave out frames of the datasets whose box is not wider and higher than this many pixels: one "
            "number for all, or one for each; by default 0."
        },
    )
    exclude_sequences: str | None = field(
        default=None, metadata={"help": "File of the sequences to leave out, one name a line."}
    )
    max_train_steps: int = field(default=1000, metadata={"help": "Optimizer steps."})
    per_device_train_batch_size: int | None = field(
        default=None,
        metadata={"help": "Pairs in a batch of one device; by default 32, or what --global_batch_size gives."},
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Pairs per optimizer step on all devices together; the number of processes times "
            "--gradient_accumulation_steps must divide it."
        },
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the whole model, unless one of the next two is given."}
    )
    encoder_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of everything but the head: ViT, BERT, SAIELs, CCPILs; by default 1e-5."},
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the box head; by default 1e-4."}
    )
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW's weight decay."})
    lr_scheduler_type: str = field(
        default="cosine", metadata={"help": f"The schedule of the learning rates: {', '.join(SCHEDULES)}."}
    )
    lr_drop_step: int | None = field(
        default=None, metadata={"help": "With `--lr_scheduler_type step`: a tenth of the rate from this step on."}
    )
    num_decay_steps: int | None = field(
        default=None,
        metadata={
            "help": "With `--lr_scheduler_type warmup_stable_decay`: the rate falls to 0 over this many last steps."
        },
    )
    num_warmup_steps: int = field(
        default=0, metadata={"help": f"Steps of linear warm-up; {' and '.join(WITHOUT_WARMUP)} have none."}
    )
    max_grad_norm: float = field(default=0.1, metadata={"help": "Gradients are clipped to this norm."})
    mixed_precision: str = field(
        default="no", metadata={"help": "no, bf16 or fp16.", "choices": ["no", "bf16", "fp16"]}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa or flash_attention_2; by default what transformers chooses."}
    )
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that prepare pairs."})
    twins: bool = field(
        default=False,
        metadata={
            "help": "Draw generated pairs in twos that, where possible, have the same images and search region and "
            "differ in target and sentence."
        },
    )
    words_share: float = field(
        default=0.5, metadata={"help": "Share of procedural pairs in which only the sentence identifies the target."}
    )
    attribute_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "How often the distractor of such a pair differs in colour, pattern and form, as three weights; "
            "by default 8 5 5."
        },
    )
    wrong_text_share: float = field(
        default=0.1, metadata={"help": "Share of generated pairs with a clear template that get a wrong sentence."}
    )
    no_text_share: float = field(
        default=0.1, metadata={"help": "Share of generated pairs with a clear template that get no sentence."}
    )
    dataset_wrong_text_share: float = field(
        default=0.0,
        metadata={"help": "Share of a dataset's pairs with template and target that get another one's sentence."},
    )
    dataset_no_text_share: float = field(
        default=0.0,
        metadata={"help": "Share of a dataset's pairs with template and target that get no sentence."},
    )
    centre_jitter: float = field(
        default=3.0, metadata={"help": "The search crop is shifted by up to half this many target sizes each way."}
    )
    scale_jitter: float = field(
        default=0.25, metadata={"help": "Standard deviation of the logarithm of the search crop's scale."}
    )
    scale_jitter_per_axis: bool = field(
        default=False, metadata={"help": "Draw this scale for width and height separately, as OSTrack does."}
    )
    flip_probability: float = field(
        default=0.5,
        metadata={"help": "Share of pairs that are mirrored, with left and right swapped in the sentence."},
    )
    aspect_jitter: float = field(
        default=0.0, metadata={"help": "The aspect ratio of the search crop changes by a factor up to exp(± this)."}
    )
    template_flip_probability: float = field(
        default=0.0, metadata={"help": "Share of pairs whose template alone is mirrored (once more)."}
    )
    degrade_probability: float = field(
        default=0.0, metadata={"help": "Share of search crops that lose detail, light or colour."}
    )
    stem_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of a convolutional stem; 0 freezes it. By default that of the encoder."},
    )
    text_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of BERT; by default that of the encoder."}
    )
    brightness_jitter: float = field(
        default=0.2, metadata={"help": "Crops become brighter or darker by a factor of up to 1 ± this."}
    )
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "Batches whose gradients make one optimizer step."}
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Compute activations again in the backward pass: less memory, but slower."}
    )
    freeze_text_encoder: bool = field(default=False, metadata={"help": "Do not train BERT."})
    sync_batch_norm: bool = field(
        default=False, metadata={"help": "Compute the head's batch statistics over all processes together."}
    )
    torch_compile: bool = field(default=False, metadata={"help": "Compile the model with torch.compile."})
    checkpointing_steps: int = field(default=500, metadata={"help": "Steps between checkpoints."})
    checkpoints_total_limit: int | None = field(
        default=None, metadata={"help": "Keep this many of the newest checkpoints, and the best one; by default all."}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "Continue from a checkpoint of this run: its folder, `last` or `best`."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the checkpoints in --output_dir, and start again."}
    )
    validation_steps: int | None = field(
        default=None, metadata={"help": "Steps between validations by tracking; by default no validation."}
    )
    validation_dataset_name: str | None = field(
        default=None, metadata={"help": "Tracking dataset to validate on; by default procedural clips."}
    )
    validation_split: str | None = field(
        default=None, metadata={"help": "Split of that dataset; by default `validation`, or the only one."}
    )
    validation_phrases: str | None = field(
        default=None,
        metadata={
            "help": "Table of phrase pairs (.jsonl): validations also measure in how many the phrase selects its box "
            "(see `python -m modeling_pjvlt.evaluation.phrase_pairs --help`)."
        },
    )
    num_validation_sequences: int = field(default=8, metadata={"help": "Sequences that a validation tracks."})
    max_validation_frames: int = field(default=60, metadata={"help": "Greatest number of frames tracked in each."})
    logging_steps: int = field(default=50, metadata={"help": "Steps between lines of the log."})
    report_to: str | None = field(
        default=None, metadata={"help": "Also log to tensorboard, wandb or trackio.", "choices": REPORTS}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Upload the last checkpoint to the Hub at the end."})
    hub_model_id: str | None = field(
        default=None,
        metadata={"help": "Repository for --push_to_hub: user/name; by default the output folder's name."},
    )
    hub_private_repo: bool = field(
        default=False, metadata={"help": "Make a new repository private; nothing is sent to a public one."}
    )
    seed: int = field(default=0, metadata={"help": "Random seed of weights and samples."})

    def __post_init__(self):
        for name in ("model_config", "image_processor_config"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, json.loads(getattr(self, name)))
        self._spread_over_datasets()
        self._check_start()
        self._set_rates()
        self.columns = (
            [f"{ours}={theirs}" for ours, theirs in self.columns.items()]
            if isinstance(self.columns, dict)
            else self.columns
        )
        columns_of(self)
        for name in POSITIVE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}.")
        if self.per_device_train_batch_size is None and self.global_batch_size is None:
            self.per_device_train_batch_size = 32
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} must lie between 0 and 1, got {getattr(self, name)}.")
        weights = self.attribute_weights
        if weights is not None and not (len(weights) == 3 and all(0 < w < math.inf for w in weights)):
            raise ValueError(f"--attribute_weights must be three positive numbers, got {weights}.")
        self._check_schedule()
        if self.resume_from_checkpoint and self.overwrite_output_dir:
            raise ValueError("--resume_from_checkpoint and --overwrite_output_dir contradict each other.")
        for name, needed in NEEDS.items():
            if getattr(self, name) and not getattr(self, needed):
                raise ValueError(f"--{name} does nothing without --{needed}.")
        if self.report_to and find_spec(self.report_to) is None:
            raise ValueError(f"--report_to {self.report_to} needs it: pip install {self.report_to}.")
        for name in (PHOTOGRAPHS, BOXED_IMAGES):
            if (name in self.dataset_name) != bool(getattr(self, name)):
                raise ValueError(f"--dataset_name {name} and --{name} need each other.")

    def _set_rates(self) -> None:
        """Set the rates of encoder and head: their own argument, or --learning_rate, or the default."""
        rates = {"encoder_learning_rate": 1e-5, "head_learning_rate": 1e-4}
        for name, default in rates.items():
            if getattr(self, name) is None:
                setattr(self, name, default if self.learning_rate is None else self.learning_rate)
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--{name} must be 0 or more, got {getattr(self, name)}.")
        self.learning_rate = None  # so that a run is recorded the same way, however its rates were given

    def _check_schedule(self) -> None:
        """Check that the schedule is known, and that it uses the steps that are given for it."""
        schedule, warmup, decay = self.lr_scheduler_type, self.num_warmup_steps, self.num_decay_steps
        if schedule not in SCHEDULES:
            raise ValueError(f"--lr_scheduler_type must be one of {', '.join(SCHEDULES)}, got {schedule!r}.")
        if (schedule == STEP) != (self.lr_drop_step is not None):
            raise ValueError(f"--lr_drop_step and --lr_scheduler_type {STEP} need each other.")
        if (schedule == STABLE) != (decay is not None):
            raise ValueError(f"--num_decay_steps and --lr_scheduler_type {STABLE} need each other.")
        if warmup < 0:
            raise ValueError(f"--num_warmup_steps must be at least 0, got {warmup}.")
        if warmup and schedule in WITHOUT_WARMUP:
            raise ValueError(
                f"--lr_scheduler_type {schedule} has no warm-up, got --num_warmup_steps {warmup}: set that to 0, or "
                "choose a schedule with warm-up."
            )
        if decay is not None and warmup + decay > self.max_train_steps:
            raise ValueError(
                f"--num_warmup_steps {warmup} and --num_decay_steps {decay} do not fit into --max_train_steps "
                f"{self.max_train_steps}: lower the first two."
            )

    def _check_start(self) -> None:
        """Check that the run starts from a checkpoint, or from a config or two backbones and a tokenizer."""
        if (self.vision_backbone is None) != (self.text_backbone is None):
            raise ValueError("--vision_backbone and --text_backbone need each other.")
        anew = self.model_config is not None or self.vision_backbone is not None
        if (self.model_name_or_path is None) != anew:
            raise ValueError(
                "Give either --model_name_or_path (start from a checkpoint), or --model_config or --vision_backbone "
                "and --text_backbone (start anew)."
            )
        self.tokenizer_name_or_path = self.tokenizer_name_or_path or self.text_backbone
        if anew and self.tokenizer_name_or_path is None:
            raise ValueError("--model_config needs --tokenizer_name_or_path.")

    def _spread_over_datasets(self) -> None:
        """Give each dataset its split, revision, weight and least box side; a single value may stand for all."""
        self.dataset_name = _as_list(self.dataset_name) or [PROCEDURAL]
        if len(set(self.dataset_name)) < len(self.dataset_name):
            raise ValueError(f"--dataset_name names a dataset twice: {self.dataset_name}; give it a larger weight.")
        if self.streaming and GENERATED & set(self.dataset_name):
            raise ValueError("--streaming needs --dataset_name of stored datasets; generated ones cannot be streamed.")
        for name in ("dataset_split", "dataset_revision"):
            values = _as_list(getattr(self, name)) or [None]
            values = values * len(self.dataset_name) if len(values) == 1 else values
            setattr(self, name, values)
        self.dataset_weights = _as_list(self.dataset_weights) or [1.0] * len(self.dataset_name)
        sides = _as_list(self.min_box_side) or [0.0]
        self.min_box_side = sides * len(self.dataset_name) if len(sides) == 1 else sides
        if any(not 0 <= side < math.inf for side in sides):
            raise ValueError(f"--min_box_side must not be negative, got {sides}.")
        self._check_options_of_datasets(any(sides))
        for name in ("dataset_split", "dataset_revision", "dataset_weights", "min_box_side"):
            if len(getattr(self, name)) != len(self.dataset_name):
                raise ValueError(
                    f"--{name} has {len(getattr(self, name))} values for {len(self.dataset_name)} datasets."
                )

    def _check_options_of_datasets(self, sides: bool) -> None:
        """Check that options of stored datasets have one to apply to. sides: whether --min_box_side is given."""
        given = [f"--{name}" for name in STORED_SHARES if getattr(self, name)]
        if self.streaming and given:
            raise ValueError(
                f"{', '.join(given)} cannot be used with --streaming: set to 0 what is named here, or do not stream."
            )
        if not GENERATED.issuperset(self.dataset_name):
            return
        if BOXED_IMAGES in self.dataset_name:
            given = [name for name in given if name != "--absent_share"]
        given += ["--min_box_side"] * sides + ["--exclude_sequences"] * bool(self.exclude_sequences)
        if given:
            raise ValueError(f"{', '.join(given)} apply to stored datasets, but --dataset_name names none.")


def share_batch(args: TrainArguments, num_processes: int) -> TrainArguments:
    """The arguments with the batch size of one device, derived from `--global_batch_size`.

    Raises `ValueError` where the processes and accumulated batches cannot share it evenly, or where both sizes are
    given and contradict each other.
    """
    whole, steps = args.global_batch_size, args.gradient_accumulation_steps
    if whole is None:
        return args
    shares = f"{num_processes} processes x {steps} --gradient_accumulation_steps"
    if whole % (num_processes * steps):
        raise ValueError(f"--global_batch_size {whole} cannot be shared evenly by {shares}: choose a multiple.")
    share = whole // (num_processes * steps)
    if args.per_device_train_batch_size not in (None, share):
        given = args.per_device_train_batch_size
        raise ValueError(
            f"--per_device_train_batch_size {given} x {shares} is {given * num_processes * steps}, but "
            f"--global_batch_size is {whole}: leave the first out, or change --gradient_accumulation_steps."
        )
    shared = copy.copy(args)
    shared.per_device_train_batch_size = share
    return shared


def columns_of(args: TrainArguments) -> dict[str, str]:
    """Column names of the dataset by our names. Raises `ValueError` for a word that is not OURS=THEIRS."""
    pairs = [word.partition("=") for word in args.columns or []]
    for ours, equals, theirs in pairs:
        if not (ours and equals and theirs):
            raise ValueError(f"--columns takes OURS=THEIRS, such as box=bbox, got {ours + equals + theirs!r}.")
    return {ours: theirs for ours, _, theirs in pairs}


def _as_list(value) -> list:
    """A list as it is, None as an empty one, anything else as a list of one."""
    return value if isinstance(value, list) else [] if value is None else [value]
