"""The configuration of PJVLT: all sizes, and the switches of the paper's ablations."""

import math

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

FUSION_MODES = ("progressive", "early", "late", "none")
OFFSET_ACTIVATIONS = ("sigmoid", "identity")
SAIEL_FUSIONS = ("concat", "sum", "product")
MODULATION_INITS = ("identity", "zero")
POSITIVE_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels", "patch_size"),
    *("template_size", "search_size", "saiel_hidden_size", "num_saiel_heads", "word_temperature", "ccm_reduction"),
    "pim_hidden_size",
)


@strict
class PJVLTConfig(PreTrainedConfig):
    """Sizes and switches of a [`PJVLTModel`]. The defaults are PJVLT-B of the paper: ViT-B/16 and BERT-base.

    The sentence is encoded by the BERT that `text_config` describes. A model without language (`fusion="none"` or
    `use_saiel=False`) has neither a BERT nor an alignment branch. Tables II to VI of the paper vary `fusion`,
    `num_fusion_layers`, `use_saiel`, `use_ccm`, `use_pim` and `saiel_fusion`.

    Raises `ValueError` (naming the fields) when sizes do not divide or a mode is unknown.
    """

    model_type = "pjvlt"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    text_config: dict | PreTrainedConfig | None = None  # the BERT; None is bert-base-uncased's architecture

    # vision stream
    hidden_size: int = 768  # C, channels of a visual token
    num_hidden_layers: int = 12  # J, vision layers
    num_attention_heads: int = 12
    intermediate_size: int = 3072  # width of the MLP
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.1  # of the last layer; it rises linearly from 0 at the first
    initializer_range: float = 0.02
    num_channels: int = 3
    patch_size: int = 16
    template_size: int = 128  # pixels, side of the template crop
    search_size: int = 256  # pixels, side of the search crop
    stem_channels: (
        list[int] | tuple[int, ...]
    ) = ()  # output channels of 3x3 convolutions of stride 2 before the patches, for small models
    stem_stages: (
        list[list[int]] | tuple[tuple[int, ...], ...]
    ) = ()  # stages of a convolutional stem: repeats, kernel, stride, expansion, channels of each
    stem_fine_stage: int | None = None  # an earlier stage (0 is the first) whose finer map is also cut into patches
    position_scale: float | int = 0.0  # positions start as sine waves of this amplitude (small models); 0: as noise
    attention_identity: float | int = (
        0.0  # queries and keys start as this multiple of their input: similar tokens attend to each other
    )

    # fusion
    fusion: str = "progressive"  # Table II: progressive, early, late or none
    num_fusion_layers: int | None = None  # Table III: how many of the last layers fuse; None is all of them
    use_saiel: bool = True  # Table IV
    saiel_fusion: str = "concat"  # Table V: concat, sum or product
    saiel_hidden_size: int = 256  # D, latent channels
    num_saiel_heads: int = 4
    word_temperature: float | int = 1.0  # tau of the word selection
    modulation_init: str = "identity"  # modulation by the sentence at the start: none, or "zero" as in the paper
    use_ccm: bool = True  # Table VI, channel communication
    ccm_reduction: int = 4  # C -> C / reduction -> C
    use_pim: bool = True  # Table VI, patch interaction
    pim_hidden_size: int = 640  # N -> this -> this -> N
    fusion_residual: bool = False  # True keeps a scaled residual around SAIEL and CCPIL, for pretrained backbones
    layer_scale_init: float = 1e-2  # s_1 and s_2 of `fusion_residual`

    # box head
    head_channels: list[int] | tuple[int, ...] = (256, 128, 64, 32)
    offset_activation: str = "sigmoid"  # or "identity": the centre may lie outside the cell that predicts it
    alignment_size: int | None = None  # E: patches are also scored by their cosine with the sentence in E channels

    # loss, Eq. 14-17
    focal_weight: float | int = 1.0
    giou_weight: float | int = 2.0
    l1_weight: float | int = 5.0
    box_cells: int = 1  # side of the block of cells around the target's centre that learn its box (paper: 1)

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for validator in self.__class_validators__:  # here, because `strict` would wrap their `ValueError`
            validator(self)

    def to_dict(self) -> dict:
        """As transformers has it, without the folder that the text encoder came from: a path of one machine."""
        values = super().to_dict()
        if isinstance(values.get("text_config"), dict):
            values["text_config"].pop("_name_or_path", None)
        return values

    @property
    def stem_stride(self) -> int:
        """Pixels between neighbouring positions of the map that the patches are cut from; 1 without a stem."""
        return 2 ** len(self.stem_channels) * math.prod(stage[2] for stage in self.stem_stages)

    @property
    def stem_fine_stride(self) -> int:
        """Like `stem_stride`, for the finer map of `stem_fine_stage`."""
        return 2 * math.prod(stage[2] for stage in self.stem_stages[: self.stem_fine_stage + 1])

    @property
    def template_grid(self) -> int:
        """Template patches along one side."""
        return self.template_size // self.patch_size

    @property
    def search_grid(self) -> int:
        """Search patches along one side, which is also the side of the head's maps."""
        return self.search_size // self.patch_size

    @property
    def num_visual_tokens(self) -> int:
        """N = N_z + N_x."""
        return self.template_grid**2 + self.search_grid**2

    @property
    def num_fused(self) -> int:
        """How many SAIEL + CCPIL pairs are built."""
        if self.fusion == "none" or not (self.use_saiel or self.use_ccm or self.use_pim):
            return 0
        return self.num_hidden_layers if self.num_fusion_layers is None else self.num_fusion_layers

    @property
    def uses_language(self) -> bool:
        """Whether any part of the model reads the sentence."""
        return self.use_saiel and self.num_fused > 0

    def validate_modes(self):
        """`fusion`, `saiel_fusion`, `modulation_init`, `offset_activation` and `box_cells` have valid values."""
        if self.fusion not in FUSION_MODES:
            raise ValueError(f"`fusion` must be one of {FUSION_MODES}, got {self.fusion!r}.")
        if self.saiel_fusion not in SAIEL_FUSIONS:
            raise ValueError(f"`saiel_fusion` must be one of {SAIEL_FUSIONS}, got {self.saiel_fusion!r}.")
        if self.modulation_init not in MODULATION_INITS:
            raise ValueError(f"`modulation_init` must be one of {MODULATION_INITS}, got {self.modulation_init!r}.")

        if self.offset_activation not in OFFSET_ACTIVATIONS:
            raise ValueError(
                f"`offset_activation` must be one of {OFFSET_ACTIVATIONS}, got {self.offset_activation!r}."
            )
        if self.box_cells < 1 or self.box_cells % 2 == 0:
            raise ValueError(f"`box_cells` must be an odd number, got {self.box_cells}.")
        if self.box_cells > 1 and self.offset_activation == "sigmoid":
            raise ValueError(
                "With `box_cells` above 1, `offset_activation` must be 'identity': a sigmoid cannot point into "
                "another cell."
            )

    def validate_sizes(self):
        """Sizes are positive, rates lie between 0 and 1, crops divide into patches, channels divide into heads."""
        for name in POSITIVE_FIELDS:
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if self.alignment_size is not None and self.alignment_size < 1:
            raise ValueError(f"`alignment_size` must be a positive number or None, got {self.alignment_size}.")
        for name in ("template_size", "search_size"):
            if getattr(self, name) % self.patch_size:
                raise ValueError(
                    f"`{name}` ({getattr(self, name)}) must be a multiple of `patch_size` ({self.patch_size})."
                )
        if self.position_scale and self.hidden_size % 4:
            raise ValueError(f"With `position_scale`, `hidden_size` ({self.hidden_size}) must be a multiple of 4.")
        self._check_stem()
        for size, heads in (("hidden_size", "num_attention_heads"), ("saiel_hidden_size", "num_saiel_heads")):
            if getattr(self, size) % getattr(self, heads):
                raise ValueError(
                    f"`{size}` ({getattr(self, size)}) must be a multiple of `{heads}` ({getattr(self, heads)})."
                )
        if self.num_fusion_layers is not None and not 1 <= self.num_fusion_layers <= self.num_hidden_layers:
            raise ValueError(
                f"`num_fusion_layers` ({self.num_fusion_layers}) must be between 1 and `num_hidden_layers` "
                f'({self.num_hidden_layers}), or None for all; `fusion="none"` turns fusion off.'
            )

    def _check_stem(self):
        stages = self.stem_stages
        if any(len(stage) != 5 or min(stage) < 1 or stage[2] > 2 for stage in stages):
            raise ValueError(
                f"Each of `stem_stages` must be repeats, kernel, stride (1 or 2), expansion and channels, got "
                f"{stages}."
            )
        if stages and len(self.stem_channels) != 1:
            raise ValueError(
                "With `stem_stages`, `stem_channels` must hold one number, the channels of the first convolution, got "
                f"{self.stem_channels}."
            )
        if self.patch_size % self.stem_stride:
            raise ValueError(
                f"`stem_channels` ({self.stem_channels}) and `stem_stages` shrink the image {self.stem_stride} times, "
                f"so `patch_size` ({self.patch_size}) must be a multiple of {self.stem_stride}."
            )
        fine = self.stem_fine_stage
        if stages and fine is not None and not 0 <= fine < len(stages) - 1:
            raise ValueError(f"`stem_fine_stage` must be one of `stem_stages` before the last, got {fine}.")

    def validate_text_layers(self):
        """Every layer of the text encoder is read by a vision layer, so that no parameter is unused."""
        if self.uses_language and self.text_config.num_hidden_layers < 1:
            raise ValueError("`text_config.num_hidden_layers` must be at least 1.")


__all__ = ["PJVLTConfig"]
