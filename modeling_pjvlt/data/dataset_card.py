"""The card of a tracking dataset."""

from collections.abc import Mapping

from datasets import Features
from huggingface_hub import DatasetCard, DatasetCardData


def dataset_card(
    title: str,
    splits: Mapping[str, Mapping],
    features: Features,
    license: str = "unknown",
    homepage: str = "",
    citation: str = "",
    repo_id: str = "user/name",
) -> DatasetCard:
    """The card of a tracking dataset: columns, splits, counts, licence, citation, and how to load it.

    Args:
        title: name of the dataset, as the card's title.
        splits: by name, a mapping with `sequences`, `frames` and, where known, `absent` and `without_text`.
        features: of the rows.
        license: as the Hub names it.
        homepage: of the authors, whose terms apply.
        citation: BibTeX.
        repo_id: in the code that loads the dataset.
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
    "image": "the image, encoded as its authors did; missing where it equals that of the row before",
    "box": "x, y, w, h in pixels of the image; missing where it is not known",
    "visible": "whether the target can be seen",
    "text": "the sentence; empty where there is none",
    "category": "class of the target; empty where it is not known",
    "cover": "visible share of the target, in eighths; missing where it is not known",
    "video": "the video, encoded",
    "boxes": "x, y, w, h in pixels for every frame",
}
