"""Tracking datasets on the Hub: the card, and how a converted folder or one's own data gets there."""

import os
from collections.abc import Mapping
from pathlib import Path

from datasets import Features
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

UPLOADED = ["data/*.parquet", "README.md", "conversion_report.json"]


def dataset_card(
    title: str,
    splits: Mapping[str, Mapping],
    features: Features,
    license: str = "unknown",
    homepage: str = "",
    citation: str = "",
    repo_id: str = "user/name",
) -> DatasetCard:
    """The card of a tracking dataset: features, splits, counts, licence, citation, and how to load it.

    Args:
        splits: by name, a mapping with `sequences`, `frames` and, where known, `absent` and `without_text`.
        features: of the rows.
        license: as the Hub names it.
    """
    metadata = DatasetCardData(
        pretty_name=title,
        license=license,
        task_categories=["object-detection"],
        tags=["visual-object-tracking", "vision-language-tracking", "pjvlt"],
    )  # no `configs`: files are found by their names, and `datasets` keeps the cache of a folder with configs for ever
    counts = ["| split | sequences | frames | absent frames | without a sentence |", "|---|---:|---:|---:|---:|"]
    counts += [
        f"| {split} | {c['sequences']:,} | {c['frames']:,} | {c.get('absent', 0):,} | {c.get('without_text', 0):,} |"
        for split, c in splits.items()
    ]
    columns = [f"| `{name}` | {_MEANINGS.get(name, '')} |" for name in features]
    terms = f" Terms and annotations are those of its authors: {homepage}" if homepage else ""
    parts = [
        f"---\n{metadata.to_yaml()}\n---\n\n# {title}\n\nSingle-object tracking with sentences: one row per frame, "
        f"sorted by sequence and frame.{terms}",
        "\n".join(counts),
        "| column | what it holds |\n|---|---|\n" + "\n".join(columns),
        "## Loading\n\n```python\nfrom modeling_pjvlt.data import load_tracking_dataset\n\n"
        f'for sequence in load_tracking_dataset("{repo_id}", split="{next(iter(splits))}"):\n'
        "    print(sequence.name, sequence.text, sequence.boxes.shape, sequence.frame(0).shape)\n```\n\n"
        f'`datasets.load_dataset("{repo_id}")` gives the rows; `streaming=True` works with both.',
    ]
    if citation:
        parts.append(f"## Citation\n\n```bibtex\n{citation}\n```")
    return DatasetCard("\n\n".join(parts) + "\n")


_MEANINGS = {
    "sequence": "name of the video, or of the target where a video has several",
    "frame": "number of the frame in its source",
    "image": "the picture, encoded as its authors did; missing where it is that of the row before",
    "box": "x, y, w, h in pixels of the picture; missing where it is not public",
    "visible": "whether the target can be seen",
    "text": "the sentence; empty where there is none",
    "category": "class of the target; empty where it is not known",
    "cover": "visible share of the target, in eighths; missing where it is not public",
    "video": "the video, encoded",
    "boxes": "x, y, w, h in pixels for every frame",
}


def write_beside(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # of names of files
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def push_folder(folder: str | Path, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Upload a converted folder to a dataset repository, made if need be; returns its address.

    Files that are already there are not sent again, so that an upload that broke off can be repeated.
    """
    folder = Path(folder)
    if not any(folder.glob("data/*.parquet")):
        raise FileNotFoundError(f"{folder}: no data/*.parquet to push")
    api = HfApi(token=token)
    address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    card = (folder / "README.md").read_text(encoding="utf-8").replace("user/name", address.repo_id)
    write_beside(folder / "README.md", card)
    api.upload_folder(
        folder_path=folder,
        repo_id=address.repo_id,
        repo_type="dataset",
        allow_patterns=UPLOADED,
        commit_message="Upload tracking dataset",
    )
    return str(address)


def push_dataset(
    dataset,
    repo_id: str,
    split: str = "train",
    title: str | None = None,
    license: str = "unknown",
    citation: str = "",
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Upload a [`TrackingDataset`] and a card; returns the repository's address. Other splits there stay.

    The rows go as they were read: columns keep their mapped names, pictures their bytes.
    """
    sequences = [dataset[i] for i in range(len(dataset))]
    counts = {
        "sequences": len(sequences),
        "frames": sum(map(len, sequences)),
        "absent": sum(int((~s.visible).sum()) for s in sequences),
    }
    dataset.rows.push_to_hub(repo_id, split=split, private=private, token=token)
    api = HfApi(token=token)
    address = api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
    made = DatasetCard.load(address.repo_id, token=token)  # by `push_to_hub`: features, sizes and files of all splits
    told = dataset_card(
        title or repo_id, {split: counts}, dataset.rows.features, license, "", citation, address.repo_id
    )
    data = {**told.data.to_dict(), **made.data.to_dict(), "license": license}
    told.content = f"---\n{DatasetCardData(**data).to_yaml()}\n---\n{told.text}"
    told.push_to_hub(address.repo_id, repo_type="dataset", token=token)
    return str(address)
