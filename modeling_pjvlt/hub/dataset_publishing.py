"""Upload of tracking datasets to the Hub: converted folders, or your own data."""

from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from ..data.benchmarks import BENCHMARK_FILE
from ..data.dataset_card import dataset_card
from ..files_pjvlt import write_text
from .repositories import create_repository, explain_failures

UPLOADED = ["data/*.parquet", "README.md", BENCHMARK_FILE, "conversion_report.json"]


def push_folder(folder: str | Path, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Upload a converted folder to a dataset repository, created if needed; returns its address.

    Files that are already there are not sent again, so an interrupted upload can be repeated. private: see
    [`create_repository`]. Raises `FileNotFoundError` for a folder without a dataset, and `PublishingError` if the Hub
    cannot be reached or refuses.
    """
    folder = Path(folder)
    if not any(folder.glob("data/*.parquet")):
        raise FileNotFoundError(f"{folder}: no data/*.parquet to push")
    api = HfApi(token=token)
    with explain_failures(api.endpoint, repo_id):
        address = create_repository(api, repo_id, "dataset", private)
        card = (folder / "README.md").read_text(encoding="utf-8").replace("user/name", address.repo_id)
        write_text(folder / "README.md", card)
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

    The rows are uploaded as they were read: columns have their mapped names, and images their original bytes. private:
    see [`create_repository`]. Raises `PublishingError` if the Hub cannot be reached or refuses.
    """
    sequences = [dataset[i] for i in range(len(dataset))]
    counts = {
        "sequences": len(sequences),
        "frames": sum(map(len, sequences)),
        "absent": sum(int((~s.visible).sum()) for s in sequences),
    }
    api = HfApi(token=token)
    with explain_failures(api.endpoint, repo_id):
        address = create_repository(api, repo_id, "dataset", private)
        dataset.rows.push_to_hub(address.repo_id, split=split, token=token)
        pushed = DatasetCard.load(address.repo_id, token=token)  # `push_to_hub` wrote features, sizes and files there
        card = dataset_card(
            title or repo_id, {split: counts}, dataset.rows.features, license, "", citation, address.repo_id
        )
        data = {**card.data.to_dict(), **pushed.data.to_dict(), "license": license}
        card.content = f"---\n{DatasetCardData(**data).to_yaml()}\n---\n{card.text}"
        card.push_to_hub(address.repo_id, repo_type="dataset", token=token)
    return str(address)
