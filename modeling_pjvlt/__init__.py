"""PJVLT: a vision-language tracker that loads from the Hugging Face Hub like any other model.

Importing this package registers its classes with transformers' Auto classes and the pipeline task
`vision-language-tracking`.
"""

from pathlib import Path

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_pjvlt import PJVLTConfig
from .frame_pjvlt import PJVLTFrameModel, PJVLTSentence
from .image_processing_pjvlt import PJVLTImageProcessor
from .modeling_pjvlt import PJVLTModel, PJVLTOutput, PJVLTTextFeatures
from .pipeline_pjvlt import TASK, TrackingPipeline
from .processing_pjvlt import PJVLTProcessor
from .results_pjvlt import TrackingResults
from .tracking_pjvlt import TrackedTarget, TrackingSession

__version__ = "0.1.0"

DEFAULT_CHECKPOINT = str(Path(__file__).parent / "pretrained" / "pjvlt-tiny")  # the checkpoint that ships with us

AutoConfig.register("pjvlt", PJVLTConfig, exist_ok=True)
AutoModel.register(PJVLTConfig, PJVLTModel, exist_ok=True)
# One class for both backends: crops are resampled by our own filter, in torch, whatever is installed.
AutoImageProcessor.register(
    PJVLTConfig,
    image_processor_classes={"torchvision": PJVLTImageProcessor, "pil": PJVLTImageProcessor},
    exist_ok=True,
)
AutoProcessor.register(PJVLTConfig, PJVLTProcessor, exist_ok=True)
if TASK not in PIPELINE_REGISTRY.supported_tasks:
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=TrackingPipeline,
        pt_model=AutoModel,
        default={"model": (DEFAULT_CHECKPOINT, None)},
        type="multimodal",
    )
    # What `save_pretrained` writes into a config: the task without our default, which is a path of this machine.
    TrackingPipeline._registered_impl = {TASK: {"impl": TrackingPipeline, "pt": (AutoModel,)}}

__all__ = [
    "DEFAULT_CHECKPOINT",
    "PJVLTConfig",
    "PJVLTFrameModel",
    "PJVLTImageProcessor",
    "PJVLTModel",
    "PJVLTOutput",
    "PJVLTProcessor",
    "PJVLTSentence",
    "PJVLTTextFeatures",
    "TrackedTarget",
    "TrackingPipeline",
    "TrackingResults",
    "TrackingSession",
]
