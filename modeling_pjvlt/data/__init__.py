"""Data: tracking datasets, training pairs, procedural clips and the words that go with them."""

__all__ = ["TrackingDataset", "TrackingSequence", "load_tracking_dataset"]


def __getattr__(name: str):
    """Import what reads datasets only when it is asked for: `datasets` comes with the extra `train`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from . import dataset
    except ModuleNotFoundError as error:
        raise ImportError(f"Reading tracking datasets needs {error.name}: pip install 'pjvlt[train]'.") from error
    return getattr(dataset, name)
