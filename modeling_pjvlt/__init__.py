"""PJVLT: a vision-language tracker that loads from the Hugging Face Hub like any other model.

Importing this package registers its classes with transformers' Auto classes and the pipeline task
`vision-language-tracking`: at once if transformers is already imported, else as soon as it is imported. The package
does not import torch and transformers itself, because that takes seconds and commands such as `pjvlt-track --help` do
not need them. Without torch nothing is registered, but `modeling_pjvlt.onnx.tracker` still works.
"""

import logging
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .after_import import AfterImport

if TYPE_CHECKING:
    from .configuration_pjvlt import PJVLTConfig
    from .image_processing_pjvlt import PJVLTImageProcessor
    from .inference_pjvlt import PJVLTInferenceModel, PJVLTSentence
    from .modeling_pjvlt import PJVLTModel, PJVLTOutput, PJVLTTextFeatures
    from .pipeline_pjvlt import TrackingPipeline
    from .processing_pjvlt import PJVLTProcessor
    from .results_pjvlt import TargetsResults, TrackingResults
    from .tracking_pjvlt import TrackedTarget, TrackingSession

__version__ = "0.1.0"

_PRETRAINED = Path(__file__).parent / "pretrained"  # both ship with the package
DEFAULT_CHECKPOINT = str(_PRETRAINED / "pjvlt-small")  # fits its boxes better
TINY_CHECKPOINT = str(_PRETRAINED / "pjvlt-tiny")  # faster, and a quarter of the size

__all__ = [
    "DEFAULT_CHECKPOINT",
    "TINY_CHECKPOINT",
    "PJVLTConfig",
    "PJVLTImageProcessor",
    "PJVLTInferenceModel",
    "PJVLTModel",
    "PJVLTOutput",
    "PJVLTProcessor",
    "PJVLTSentence",
    "PJVLTTextFeatures",
    "TargetsResults",
    "TrackedTarget",
    "TrackingPipeline",
    "TrackingResults",
    "TrackingSession",
]

_HOMES = {
    "PJVLTConfig": "configuration_pjvlt",
    "PJVLTInferenceModel": "inference_pjvlt",
    "PJVLTImageProcessor": "image_processing_pjvlt",
    "PJVLTModel": "modeling_pjvlt",
    "PJVLTOutput": "modeling_pjvlt",
    "PJVLTProcessor": "processing_pjvlt",
    "PJVLTSentence": "inference_pjvlt",
    "PJVLTTextFeatures": "modeling_pjvlt",
    "TargetsResults": "results_pjvlt",
    "TrackedTarget": "tracking_pjvlt",
    "TrackingPipeline": "pipeline_pjvlt",
    "TrackingResults": "results_pjvlt",
    "TrackingSession": "tracking_pjvlt",
}


def register() -> None:
    """Register our classes with transformers. This happens automatically (see above); a second call does nothing."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from .configuration_pjvlt import PJVLTConfig
    from .image_processing_pjvlt import PJVLTImageProcessor
    from .modeling_pjvlt import PJVLTModel
    from .pipeline_pjvlt import TASK, TrackingPipeline
    from .processing_pjvlt import PJVLTProcessor

    AutoConfig.register("pjvlt", PJVLTConfig, exist_ok=True)
    AutoModel.register(PJVLTConfig, PJVLTModel, exist_ok=True)
    # One class for both backends: our own filter in torch resamples the crops, whatever is installed.
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
        # `save_pretrained` writes this into a config: the task without our default, which is a path of this machine.
        TrackingPipeline._registered_impl = {TASK: {"impl": TrackingPipeline, "pt": (AutoModel,)}}
        logging.getLogger("transformers.pipelines").addFilter(_is_worth_saying)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """False for transformers' warning about our default model: it ships with the package, so it cannot change."""
    return not record.getMessage().startswith(f"No model was supplied, defaulted to {DEFAULT_CHECKPOINT} ")


def __getattr__(name: str):
    """A public class, imported on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_registration = AfterImport("transformers", __name__, register)
if find_spec("torch") is not None:
    if "transformers" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _registration)
