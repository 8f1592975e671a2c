"""Tracking datasets, training pairs, and synthetic clips with their sentences."""

from importlib import import_module

_HOMES = {"TrackingDataset": "dataset", "TrackingSequence": "dataset", "load_tracking_dataset": "loading"}

__all__ = ["TrackingDataset", "TrackingSequence", "load_tracking_dataset"]


def __getattr__(name: str):
    """Import the dataset readers on first use, because they need `datasets`, which the extra `train` installs."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f".{_HOMES[name]}", __name__)
    except ModuleNotFoundError as error:
        raise ImportError(f"Reading tracking datasets needs {error.name}: pip install 'pjvlt[train]'.") from error
    return getattr(module, name)
