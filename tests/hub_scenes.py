"""Uses of the loopback Hub by the unpatched client libraries, one function each; `test_hub_server.py` runs them.

The libraries read their environment when they are imported, so a group of scenes runs in a process of its own, which
is turned to a server first.
"""

import json
import traceback
from pathlib import Path

from hub_server import HubServer, start_for_suite

REPO = "tester/repo"
NOISE = bytes(range(256)) * 40


def names(group: str) -> list[str]:
    return [name for name in globals() if name.startswith(f"{group}_")]


def play(group: str) -> None:
    """Run the scenes of a group and print the traceback of each, null if it went well."""
    server, outcomes = start_for_suite(), {}
    for name in names(group):
        server.reset()
        try:
            globals()[name](server)
            assert server.refused == [], server.refused
            outcomes[name] = None
        except Exception:  # of any kind: the test that asked for this scene shows the traceback and fails
            outcomes[name] = traceback.format_exc()
    print(json.dumps(outcomes))


def raised(kind: type[Exception], function, *args, **kwargs) -> Exception:
    """The exception that a call raises; another one, or none, is an error."""
    try:
        function(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError(f"{function} did not raise {kind.__name__}")


# huggingface_hub


def hub_user_and_repositories(server: HubServer) -> None:
    """Create, describe, make private, delete."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    api = HfApi()
    assert api.whoami()["name"] == server.user
    for repo_type in ("model", "dataset"):
        url = api.create_repo("repo", repo_type=repo_type, private=repo_type == "dataset")
        assert (url.repo_id, url.repo_type) == (REPO, repo_type)
        assert api.create_repo(REPO, repo_type=repo_type, exist_ok=True).repo_id == REPO
        raised(HfHubHTTPError, api.create_repo, REPO, repo_type=repo_type)
    assert not api.model_info(REPO).private and api.dataset_info(REPO).private
    raised(RepositoryNotFoundError, api.dataset_info, REPO, token=False)
    api.update_repo_settings(REPO, repo_type="dataset", private=False)
    assert api.dataset_info(REPO, token=False).sha == api.repo_info(REPO, repo_type="dataset").sha
    assert raised(HfHubHTTPError, api.create_repo, "stranger/repo").response.status_code == 403
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO) and api.repo_exists(REPO, repo_type="dataset")


def hub_upload_list_download(server: HubServer) -> None:
    """Files come back as they went in; metadata, trees, and pages of trees agree with each other."""
    from huggingface_hub import CommitOperationAdd, HfApi, RepoFile, hf_hub_download

    api, files = HfApi(), {"a.txt": b"alpha", "deep/er/b.json": b"{}", "deep/model.safetensors": NOISE, "empty": b""}
    api.create_repo(REPO)
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    commit = api.create_commit(REPO, operations, commit_message="Add files")
    assert commit.oid == api.model_info(REPO, revision="main").sha
    assert server.files(REPO) == {**files, ".gitattributes": server.files(REPO)[".gitattributes"]}
    for path, data in files.items():
        assert Path(hf_hub_download(REPO, path)).read_bytes() == data
    assert sorted(api.list_repo_files(REPO)) == sorted(server.files(REPO))
    assert [entry.path for entry in api.list_repo_tree(REPO, "deep")] == ["deep/er", "deep/model.safetensors"]
    server.page_size = 2
    tree = list(api.list_repo_tree(REPO, recursive=True, expand=True))
    assert len(tree) == 7 and all(entry.last_commit.title == "Add files" for entry in tree)
    siblings = {file.rfilename: file for file in api.model_info(REPO, files_metadata=True).siblings}
    for entry in tree:
        if isinstance(entry, RepoFile):
            assert (entry.blob_id, entry.lfs) == (siblings[entry.path].blob_id, siblings[entry.path].lfs)
    found = api.get_paths_info(REPO, ["deep", "a.txt", "missing"])
    assert [entry.path for entry in found] == ["deep", "a.txt"]
    assert api.model_info(REPO, expand=["sha"]).siblings is None


def hub_large_files(server: HubServer) -> None:
    """A large file travels by itself, once, and is known by its SHA-256; an unchanged one makes no commit."""
    import hashlib

    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url

    api = HfApi()
    api.create_repo(REPO)
    api.upload_file(path_or_fileobj=NOISE, path_in_repo="model.bin", repo_id=REPO)
    sha256 = hashlib.sha256(NOISE).hexdigest()
    assert [r for r in server.requests if r.startswith("PUT")] == [f"PUT /large-files/{sha256}"]
    metadata = get_hf_file_metadata(hf_hub_url(REPO, "model.bin"))
    assert (metadata.etag, metadata.size, metadata.commit_hash) == (sha256, len(NOISE), api.model_info(REPO).sha)
    assert Path(hf_hub_download(REPO, "model.bin")).read_bytes() == NOISE
    assert api.get_paths_info(REPO, "model.bin")[0].lfs.sha256 == sha256
    api.upload_file(path_or_fileobj=NOISE, path_in_repo="copy.bin", repo_id=REPO)
    assert sum(r.startswith("PUT") for r in server.requests) == 1
    head = api.model_info(REPO).sha
    assert api.upload_file(path_or_fileobj=NOISE, path_in_repo="model.bin", repo_id=REPO).oid == head


def hub_cache(server: HubServer) -> None:
    """An unchanged file costs one HEAD, a file that is not there is remembered, a changed one is fetched again."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.file_download import _CACHED_NO_EXIST

    server.add_repo(REPO, {"a.txt": b"old"})
    first = hf_hub_download(REPO, "a.txt")
    server.requests.clear()
    assert hf_hub_download(REPO, "a.txt") == first
    assert server.requests == [f"HEAD /{REPO}/resolve/main/a.txt"]
    raised(EntryNotFoundError, hf_hub_download, REPO, "b.txt")
    assert try_to_load_from_cache(REPO, "b.txt") is _CACHED_NO_EXIST
    server.add_repo(REPO, {"a.txt": b"new"})
    assert Path(hf_hub_download(REPO, "a.txt")).read_bytes() == b"new"


def hub_commit_operations(server: HubServer) -> None:
    """Deletions, copies, the check of the parent, and the history that they leave."""
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    api = HfApi()
    server.add_repo(REPO, {"a.txt": b"a", "b.bin": NOISE, "old/x": b"x", "old/y/z": b"z"})
    before = api.model_info(REPO).sha
    operations = [
        CommitOperationDelete("a.txt"),
        CommitOperationDelete("old/"),
        CommitOperationCopy("b.bin", "c.bin"),
        CommitOperationAdd("d.txt", b"d"),
    ]
    api.create_commit(REPO, operations, commit_message="Tidy", commit_description="Why", parent_commit=before)
    files = server.files(REPO)
    assert files.keys() - {".gitattributes"} == {"b.bin", "c.bin", "d.txt"} and files["c.bin"] == NOISE
    raised(EntryNotFoundError, api.delete_file, "a.txt", REPO)
    late = [CommitOperationAdd("e.txt", b"e")]
    error = raised(HfHubHTTPError, api.create_commit, REPO, late, commit_message="Late", parent_commit=before)
    assert error.response.status_code == 412
    history = api.list_repo_commits(REPO)
    assert [commit.title for commit in history] == ["Tidy", "add files", "initial commit"]
    assert history[0].message == "Why"
    assert server.files(REPO, revision=before)["a.txt"] == b"a"


def hub_revisions(server: HubServer) -> None:
    """Branches, tags, hashes and pull requests each name their own state."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    server.add_repo(REPO, {"a.txt": b"one"})
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="feature/x", revision="v1")
    api.create_branch(REPO, branch="feature/x", exist_ok=True)
    raised(HfHubHTTPError, api.create_branch, REPO, branch="feature/x")
    raised(HfHubHTTPError, api.create_tag, REPO, tag="v1")
    api.upload_file(path_or_fileobj=b"two", path_in_repo="a.txt", repo_id=REPO)
    api.upload_file(path_or_fileobj=b"three", path_in_repo="a.txt", repo_id=REPO, revision="feature/x")
    proposal = api.upload_file(path_or_fileobj=b"four", path_in_repo="a.txt", repo_id=REPO, create_pr=True)
    head = api.model_info(REPO).sha
    revisions = ["v1", None, head, head[:8], "feature/x", proposal.pr_revision]
    contents = [Path(hf_hub_download(REPO, "a.txt", revision=revision)).read_text() for revision in revisions]
    assert contents == ["one", "two", "two", "two", "three", "four"]
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert [ref.name for ref in refs.branches + refs.tags] == ["main", "feature/x", "v1"]
    assert [ref.ref for ref in refs.pull_requests] == ["refs/pr/1"]
    api.delete_branch(REPO, branch="feature/x")
    api.delete_tag(REPO, tag="v1")
    assert not api.revision_exists(REPO, "v1") and not api.revision_exists(REPO, "feature/x")


def hub_typed_errors(server: HubServer) -> None:
    """What is missing or forbidden raises the libraries' own exceptions."""
    from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi()
    server.add_repo(REPO, {"a.txt": b"a"})
    raised(RepositoryNotFoundError, api.model_info, "tester/none")
    raised(RepositoryNotFoundError, hf_hub_download, "tester/none", "a.txt", token=False)
    raised(RepositoryNotFoundError, snapshot_download, "tester/none")
    raised(RepositoryNotFoundError, api.upload_file, path_or_fileobj=b"", path_in_repo="a", repo_id="tester/none")
    raised(RepositoryNotFoundError, api.dataset_info, REPO)
    raised(RevisionNotFoundError, api.model_info, REPO, revision="none")
    raised(RevisionNotFoundError, hf_hub_download, REPO, "a.txt", revision="none")
    raised(EntryNotFoundError, hf_hub_download, REPO, "none")
    raised(EntryNotFoundError, lambda: list(api.list_repo_tree(REPO, "none")))
    raised(FileNotFoundError, HfFileSystem().open, f"{REPO}/none")
    for token, status in (("hf_wrong", 401), (False, 401)):
        error = raised(HfHubHTTPError, api.create_repo, "other", token=token)
        assert error.response.status_code == status
    assert raised(HfHubHTTPError, api.whoami, token="hf_wrong").response.status_code == 401
    server.read_only.add(REPO)
    error = raised(HfHubHTTPError, api.upload_file, path_or_fileobj=b"b", path_in_repo="b", repo_id=REPO)
    assert error.response.status_code == 403 and "b" not in server.files(REPO)


def hub_folders(server: HubServer) -> None:
    """Folders go up without what is ignored, and come down whole."""
    from huggingface_hub import HfApi, snapshot_download

    api, folder = HfApi(), server.home / "folder"
    for path, data in {"keep.txt": b"k", "log/a.log": b"l", "x.tmp": b"t", "weights.bin": NOISE}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / ".gitignore").write_text("# comment\n*.tmp\nlog/\n")
    api.create_repo(REPO)
    api.upload_folder(repo_id=REPO, folder_path=folder, path_in_repo="sub")
    assert "sub/x.tmp" in server.files(REPO), "a .gitignore below the root is not the repository's"
    api.upload_folder(repo_id=REPO, folder_path=folder, delete_patterns="*")
    assert server.files(REPO).keys() == {".gitattributes", ".gitignore", "keep.txt", "weights.bin"}
    if hasattr(api, "upload_large_folder"):
        api.upload_large_folder(REPO, folder, repo_type="model")
    down = Path(snapshot_download(REPO, local_dir=server.home / "down"))
    assert (down / "weights.bin").read_bytes() == NOISE and not (down / "x.tmp").exists()
    only = Path(snapshot_download(REPO, allow_patterns="*.txt"))
    assert [path.name for path in only.iterdir()] == ["keep.txt"]


def hub_cards(server: HubServer) -> None:
    """Cards are validated, pushed and read back; their flat fields describe the repository."""
    import warnings

    from huggingface_hub import DatasetCard, HfApi, ModelCard

    api = HfApi()
    api.create_repo(REPO)
    api.create_repo(REPO, repo_type="dataset")
    card = ModelCard("---\nlicense: mit\npipeline_tag: object-detection\ntags:\n- tracking\n- vision\n---\n# Card\n")
    card.push_to_hub(REPO)
    DatasetCard("---\nlanguage: [en]\n---\nText\n").push_to_hub(REPO)
    assert ModelCard.load(REPO).data.license == "mit"
    assert DatasetCard.load(REPO).data.language == ["en"]
    info = api.model_info(REPO)
    assert info.pipeline_tag == "object-detection" and info.tags == ["tracking", "vision", "license:mit"]
    wrong = b"---\nlicense mit\n---\n"
    raised(ValueError, api.upload_file, path_or_fileobj=wrong, path_in_repo="README.md", repo_id=REPO)
    nested = b"---\ndataset_info:\n  features:\n  - name: x\n    dtype: int64\n---\n"
    for card, warned in ((nested, 0), (b"# Bare", 1)):
        with warnings.catch_warnings(record=True) as caught:
            api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=REPO)
        assert sum("empty or missing yaml" in str(warning.message) for warning in caught) == warned


def hub_file_system(server: HubServer) -> None:
    """Files can be listed, read in parts and written as on a disk."""
    from huggingface_hub import HfFileSystem

    server.add_repo(REPO, {"deep/data.bin": NOISE, "a.txt": b"alpha"}, repo_type="dataset")
    system, root = HfFileSystem(skip_instance_cache=True), f"datasets/{REPO}"
    assert system.glob(f"{root}/**/*.bin") == [f"{root}/deep/data.bin"]
    assert system.info(f"{root}/deep/data.bin")["size"] == len(NOISE)
    assert [Path(path).name for path in system.ls(root, detail=False)] == [".gitattributes", "a.txt", "deep"]
    with system.open(f"{root}/deep/data.bin", block_size=1000) as file:
        file.seek(5000)
        assert file.read(700) == NOISE[5000:5700]
        file.seek(-10, 2)
        assert file.read() == NOISE[-10:]
    assert system.cat_file(f"{root}/a.txt", start=1, end=3) == b"lp"
    with system.open(f"{root}/new.txt", "w") as file:
        file.write("written")
    assert server.files(REPO, "dataset")["new.txt"] == b"written"
    assert system.read_text(f"{root}/new.txt") == "written"


def hub_faults(server: HubServer) -> None:
    """Injected faults meet the libraries' own handling: a retry, an error, or the cache."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    server.add_repo(REPO, {"a.txt": b"a"})
    path = hf_hub_download(REPO, "a.txt")
    server.fail_next(status=503, match="HEAD")
    assert hf_hub_download(REPO, "a.txt") == path, "the cache serves what the Hub cannot"
    server.fail_next(status=500, match="/commit/main")
    error = raised(HfHubHTTPError, api.upload_file, path_or_fileobj=b"b", path_in_repo="b", repo_id=REPO)
    assert error.response.status_code == 500 and "b" not in server.files(REPO)
    server.fail_next(status=None, match="/preupload/")
    api.upload_file(path_or_fileobj=b"b", path_in_repo="b", repo_id=REPO)
    assert sum("/preupload/" in request for request in server.requests) == 3


def hub_refusals(server: HubServer) -> None:
    """Unknown endpoints and foreign hosts are refused, said so, and recorded."""
    import socket
    import urllib.request

    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import get_session, httpx

    error = raised(HfHubHTTPError, HfApi().get_user_overview, "tester")
    assert error.response.status_code == 501 and "not implemented: GET /api/users/tester/overview" in str(error)
    raised(httpx.ProxyError, get_session().get, "https://huggingface.co/x")
    assert get_session().get("http://example.org/x").status_code == 501
    raised(urllib.error.URLError, urllib.request.urlopen, "https://example.org/x")
    raised(socket.gaierror, socket.getaddrinfo, "example.org", 80)
    with socket.socket() as outside:
        raised(ConnectionRefusedError, outside.connect, ("192.0.2.1", 80))
    assert server.refused == [
        "GET /api/users/tester/overview",
        "CONNECT huggingface.co:443",
        "GET http://example.org/x",
        "CONNECT example.org:443",
    ]
    server.refused.clear()


# datasets and transformers


def library_dataset(server: HubServer) -> None:
    """A dataset with images comes back equal: whole, streamed, and at the revision of a tag."""
    from datasets import Dataset, load_dataset
    from huggingface_hub import HfApi

    pushed = Dataset.from_dict({"image": images(4), "text": list("abcd"), "box": [[0.0, 1.0, 2.0, 3.0]] * 4})
    pushed = pushed.cast_column("image", image_feature())
    pushed.push_to_hub(REPO, num_shards=2)
    HfApi().create_tag(REPO, tag="v1", repo_type="dataset")
    assert sum(path.endswith(".parquet") for path in server.files(REPO, "dataset")) == 2
    same_rows(load_dataset(REPO, split="train"), pushed)
    pushed.select([3]).push_to_hub(REPO)
    assert sum(path.endswith(".parquet") for path in server.files(REPO, "dataset")) == 1
    same_rows(load_dataset(REPO, split="train", streaming=True), pushed.select([3]))
    same_rows(load_dataset(REPO, split="train", streaming=True, revision="v1"), pushed)
    assert load_dataset(REPO, split="train").num_rows == 1


def library_dataset_dict(server: HubServer) -> None:
    """Splits and configurations, in a private repository."""
    from datasets import Dataset, DatasetDict, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    splits = DatasetDict(train=Dataset.from_dict({"x": [1, 2]}), test=Dataset.from_dict({"x": [3]}))
    splits.push_to_hub("tester/splits", private=True)
    splits.push_to_hub("tester/splits", config_name="other")
    # Before the first load: later, datasets takes from its cache what the Hub denies it.
    raised(DatasetNotFoundError, load_dataset, "tester/splits", token=False)
    raised(DatasetNotFoundError, load_dataset, "tester/splits", revision="none")
    raised(DatasetNotFoundError, load_dataset, "tester/none")
    assert load_dataset("tester/splits")["test"]["x"][:] == [3]
    assert load_dataset("tester/splits", "other", split="train")["x"][:] == [1, 2]
    assert any("datasets-server" in request for request in server.requests), "the viewer is asked, and answers 404"


def library_model(server: HubServer) -> None:
    """A model of transformers' own goes up and comes down through the Auto classes, sharded too."""
    import torch
    from huggingface_hub import HfApi
    from transformers import AutoConfig, AutoModel, BertConfig, BertModel

    model = BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).eval()
    model.push_to_hub("tester/bert", tags=["tiny"])
    assert {"config.json", "model.safetensors", "README.md"} <= server.files("tester/bert").keys()
    assert HfApi().model_info("tester/bert").tags == ["tiny"]
    model.push_to_hub("tester/bert", revision="sharded", max_shard_size="1KB")
    assert "model.safetensors.index.json" in server.files("tester/bert", revision="sharded")
    for revision in ("main", "sharded"):
        loaded = AutoModel.from_pretrained("tester/bert", revision=revision)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    raised(OSError, AutoConfig.from_pretrained, "tester/none")
    raised(OSError, AutoModel.from_pretrained, "tester/bert", revision="none")


def library_remote_code(server: HubServer) -> None:
    """Code that lives in the repository is fetched and run, once that is allowed."""
    from transformers import AutoConfig

    code = (
        "from transformers import PreTrainedConfig\n\nfrom .helper import SIZE\n\n\n"
        "class OddConfig(PreTrainedConfig):\n    model_type = 'odd-from-hub'\n    size: int = SIZE\n"
    )
    entry = {"model_type": "odd-from-hub", "auto_map": {"AutoConfig": "odd.OddConfig"}}
    files = {"config.json": json.dumps(entry).encode(), "odd.py": code.encode(), "helper.py": b"SIZE = 17\n"}
    server.add_repo("tester/odd", files)
    raised(ValueError, AutoConfig.from_pretrained, "tester/odd", trust_remote_code=False)
    config = AutoConfig.from_pretrained("tester/odd", trust_remote_code=True)
    assert type(config).__name__ == "OddConfig" and config.size == 17


def library_own_model(server: HubServer) -> None:
    """This project's model and processor, pushed and loaded as a user would."""
    import torch
    from tiny import VOCABULARY, build_tiny_inputs, build_tiny_model
    from transformers import AutoModel, AutoProcessor, BertTokenizer

    from modeling_pjvlt import PJVLTImageProcessor, PJVLTProcessor

    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    processor = PJVLTProcessor(PJVLTImageProcessor(template_size=16, search_size=32), BertTokenizer(vocab=vocabulary))
    model = build_tiny_model()
    model.push_to_hub("tester/tracker")
    processor.push_to_hub("tester/tracker")
    loaded = AutoModel.from_pretrained("tester/tracker").eval()
    inputs = build_tiny_inputs(model.config)
    with torch.no_grad():
        for expected, actual in zip(model(**inputs).values(), loaded(**inputs).values(), strict=True):
            torch.testing.assert_close(actual, expected)
    again = AutoProcessor.from_pretrained("tester/tracker")
    assert again.tokenizer("red ball").input_ids == processor.tokenizer("red ball").input_ids


def images(count: int) -> list:
    from PIL import Image

    return [Image.new("RGB", (6, 5), (40 * index, 10, 200)) for index in range(count)]


def image_feature():
    from datasets import Image

    return Image()


def same_rows(actual, expected) -> None:
    actual, expected = list(actual), list(expected)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.pop("image").tobytes() == other.pop("image").tobytes()
        assert one == other
