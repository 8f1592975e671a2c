"""The store of the loopback Hub: repositories with commits, branches, tags and large files, all in memory."""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property
from pathlib import PurePosixPath

REPO_TYPES = ("model", "dataset", "space")
REGULAR_FILE_LIMIT = 10 * 1024 * 1024
LARGE_SUFFIXES = (
    "7z arrow bin bz2 ckpt ftz gz h5 lz4 mds model msgpack npy npz onnx ot parquet pb pickle pkl pt pth rar "
    "safetensors tar tflite tgz wasm xz zip zst"
)
MEDIA_SUFFIXES = "avi bmp flac gif jpeg jpg mkv mov mp3 mp4 ogg png tiff wav webm webp"


class HubError(Exception):
    """An answer other than 2xx; `code` is what the libraries choose the type of their exception by."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


@dataclass(frozen=True)
class Blob:
    """The content of one file. Git names a large file by its pointer, the Hub by the SHA-256 of what it points to."""

    data: bytes
    large: bool = False

    @property
    def size(self) -> int:
        return len(self.data)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        content = self.pointer if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass(frozen=True)
class Commit:
    """A state of the files, and how it came about."""

    oid: str
    title: str
    message: str
    date: str
    files: dict[str, Blob]
    parent: "Commit | None" = None

    def history(self) -> list["Commit"]:
        """This commit and all before it, the latest first."""
        commits, commit = [], self
        while commit is not None:
            commits.append(commit)
            commit = commit.parent
        return commits

    def file(self, path: str) -> Blob:
        if path not in self.files:
            raise HubError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": self.oid})
        return self.files[path]

    def folders(self) -> set[str]:
        return {str(folder) for path in self.files for folder in PurePosixPath(path).parents} - {"."}

    def tree_oid(self, folder: str) -> str:
        prefix = f"{folder}/" if folder else ""
        lines = [f"{path} {blob.oid}" for path, blob in sorted(self.files.items()) if path.startswith(prefix)]
        return hashlib.sha1("\n".join(lines).encode()).hexdigest()

    def listing(self, folder: str, recursive: bool) -> list[str]:
        """Paths of the files and folders below `folder`, folders before what is in them."""
        prefix = f"{folder}/" if folder else ""
        if folder and folder not in self.folders():
            raise HubError(404, f"{folder} does not exist on this revision", "EntryNotFound")
        below = [path for path in (*self.folders(), *self.files) if path.startswith(prefix)]
        return sorted(path for path in below if recursive or "/" not in path[len(prefix) :])


@dataclass
class Repo:
    """One repository. It begins, as on the Hub, with a commit that says which files are large."""

    repo_id: str
    repo_type: str = "model"
    private: bool = False
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def __post_init__(self):
        suffixes = f"{LARGE_SUFFIXES} {MEDIA_SUFFIXES}" if self.repo_type == "dataset" else LARGE_SUFFIXES
        patterns = [f"*.{suffix}" for suffix in suffixes.split()] + ["*tfevents*"]
        lines = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns)
        self.add_commit("main", {".gitattributes": Blob(lines.encode())}, "initial commit")
        self.created = self.branches["main"].date

    def add_commit(self, branch: str, files: dict[str, Blob], title: str, message: str = "", parent=None) -> Commit:
        parent = parent or self.branches.get(branch)
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        # A fresh hash each time, or a cache that outlives this repository would take another one's files for its own.
        commit = Commit(secrets.token_hex(20), title, message, date, files, parent)
        self.commits[commit.oid] = self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a `refs/...` name or a commit hash, at least seven digits of it."""
        for names in (self.branches, self.tags, self.commits):
            if revision in names:
                return names[revision]
        if match := re.fullmatch("refs/(heads|tags)/(.+)", revision):
            names = self.branches if match[1] == "heads" else self.tags
            if match[2] in names:
                return names[match[2]]
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            for oid, commit in self.commits.items():
                if oid.startswith(revision):
                    return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def upload_mode(self, commit: Commit, path: str, size: int, sample: bytes) -> str:
        """Whether a file goes to Git or to the large file storage: by name, by size, or because it is binary."""
        attributes = commit.files[".gitattributes"].data.decode() if ".gitattributes" in commit.files else ""
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        named = any(fnmatch(path, pattern) or fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in patterns)
        return "lfs" if named or size > REGULAR_FILE_LIMIT or b"\0" in sample else "regular"

    def apply(
        self, branch: str, lines: list[dict], large_files: dict[str, bytes], onto: Commit | None = None
    ) -> Commit:
        """One commit from the lines of a request: a header, then what is added, copied or deleted."""
        header = lines[0]["value"]
        head = onto or self.branches[branch]
        wanted = header.get("parentCommit")
        if wanted and not head.oid.startswith(wanted):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines[1:]:
            self._apply_line(files, line["key"], line["value"], large_files)
        return self.add_commit(branch, files, header["summary"], header.get("description") or "", head)

    def _apply_line(self, files: dict[str, Blob], key: str, value: dict, large_files: dict[str, bytes]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = Blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in large_files:
                raise HubError(400, f"LFS pointer of {path} points to a file that was not uploaded")
            files[path] = Blob(large_files[value["oid"]], large=True)
        elif key == "copyFile":
            files[path] = self.resolve(value.get("srcRevision") or "main").file(value["srcPath"])
        elif key in ("deletedFile", "deletedFolder"):
            doomed = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
            if not doomed or (key == "deletedFile" and path not in files):
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in doomed if key == "deletedFolder" else [path]:
                del files[name]
        else:
            raise HubError(400, f"unknown key in commit: {key}")


def is_ignored(path: str, gitignore: str) -> bool:
    """Whether a `.gitignore` leaves the path out; the last line that matches decides."""
    ignored = False
    for line in gitignore.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        negated, pattern = pattern.startswith("!"), pattern.lstrip("!")
        parts = path.split("/")
        # A pattern also takes in what lies below a folder that it matches; with a final slash it matches only folders.
        candidates = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        candidates = candidates[:-1] if pattern.endswith("/") else candidates
        pattern = pattern.rstrip("/")
        anchored = "/" in pattern
        pattern = pattern.lstrip("/")
        if any(fnmatch(name if anchored else name.rsplit("/", 1)[-1], pattern) for name in candidates):
            ignored = not negated
    return ignored


def read_front_matter(card: str) -> tuple[dict, list[str]]:
    """Metadata of a card, and what is wrong with it. Texts and lists of texts are read, anything deeper is None."""
    match = re.match(r"\s*---\r?\n(?:(.*?)\r?\n)?---\s*(?:\n|$)", card, flags=re.DOTALL)
    if match is None:
        return {}, ["the metadata has no closing '---'"] if card.lstrip().startswith("---\n") else []
    fields, errors, key = {}, [], None
    for number, line in enumerate((match[1] or "").splitlines(), start=2):
        if top := re.match(r"([^\s#:-][^:]*):(?:\s+(.*))?$", line):
            key, value = _unquote(top[1]), (top[2] or "").strip().removeprefix("|").removeprefix(">")
            inline = re.fullmatch(r"\[(.*)\]", value)
            fields[key] = [_unquote(item) for item in inline[1].split(",")] if inline else _unquote(value)
        elif item := re.match(r"\s*- ((?:[^:]|:(?!\s|$))+)$", line):
            if key is not None and fields.get(key) in ("", None):
                fields[key] = []
            if key is not None and isinstance(fields[key], list):
                fields[key].append(_unquote(item[1]))
        elif line.strip() and not line.startswith((" ", "#", "- ")):
            errors.append(f"line {number} of the metadata is not valid YAML: {line}")
    return {name: value or None for name, value in fields.items()}, errors


def _unquote(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
