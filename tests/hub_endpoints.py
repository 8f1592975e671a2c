"""The endpoints of the tests' loopback Hub: what the client libraries ask for, answered from `hub_store.py`."""

import json
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

from hub_store import REPO_TYPES, Blob, Commit, HubError, Repo, is_ignored, read_front_matter

API = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+(?:/[^/]+)?)"
GIT = r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo_id>[^/]+(?:/[^/]+)?)"
REVISION = "/(?P<revision>[^/]+)"
ROUTES: list[tuple[str, re.Pattern, Callable]] = []


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")


@dataclass
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data, status: int = 200, headers: dict[str, str] | None = None) -> "Response":
        return cls(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})

    @classmethod
    def from_error(cls, error: HubError) -> "Response":
        return cls.from_json({"error": error.message}, error.status, error.headers)


def endpoint(method: str, pattern: str):
    """Let a method answer a path; the groups of the pattern are its arguments. Earlier ones are tried first."""

    def register(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


class HubEndpoints:
    """Mixed into the server, which has `url`, `user`, `token`, `repos`, `large_files`, `read_only` and `page_size`."""

    def respond(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        for wanted, pattern, function in ROUTES:
            if wanted == method and (match := pattern.fullmatch(request.path)):
                arguments = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                return function(self, request, **arguments)
        raise HubError(501, f"not implemented: {request.method} {request.path}")

    # Who may do what

    def _signed_in(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if given and given != self.token:
            raise HubError(401, "Invalid credentials in Authorization header")
        return bool(given)

    def _require_user(self, request: Request) -> None:
        if not self._signed_in(request):
            raise HubError(401, "Invalid username or password.")

    def _find(self, request: Request, kind: str, repo_id: str, write: bool = False) -> Repo:
        """The repository, if the caller may see it; a private one looks to strangers as if it did not exist."""
        signed_in = self._signed_in(request)
        repo = self.repos.get((kind.removesuffix("s"), repo_id))
        if repo is None or (repo.private and not signed_in):
            raise HubError(404 if signed_in else 401, "Repository not found", "RepoNotFound")
        if write:
            self._require_user(request)
            if repo_id in self.read_only or repo_id.split("/")[0] != self.user:
                raise HubError(403, f"Forbidden: you may not write to {repo_id}")
        return repo

    def _page(self, repo: Repo) -> str:
        prefix = "" if repo.repo_type == "model" else f"{repo.repo_type}s/"
        return f"{self.url}/{prefix}{repo.repo_id}"

    # User and service

    @endpoint("GET", "/api/whoami-v2")
    def whoami(self, request: Request) -> Response:
        self._require_user(request)
        auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": "write"}}
        return Response.from_json({"type": "user", "id": "1", "name": self.user, "orgs": [], "auth": auth})

    @endpoint("GET", "/api/agent-harnesses")
    def agent_harnesses(self, request: Request) -> Response:
        return Response.from_json({"standardEnvVars": [], "harnesses": {}})

    @endpoint("GET", "/api/telemetry/.*")
    def telemetry(self, request: Request) -> Response:
        return Response()

    @endpoint("GET", r"http://datasets-server\.[^/]+/(?:info|parquet)")
    def dataset_viewer(self, request: Request) -> Response:
        raise HubError(404, "The dataset viewer is not available for this dataset.")

    @endpoint("POST", "/api/validate-yaml")
    def validate_yaml(self, request: Request) -> Response:
        fields, errors = read_front_matter(request.json()["content"])
        empty = [] if fields or errors else [{"message": "empty or missing yaml metadata in repo card"}]
        answer = {"warnings": empty, "errors": [{"message": error} for error in errors]}
        return Response.from_json(answer, 400 if errors else 200)

    # Repositories

    def _named(self, request: Request) -> tuple[str, str]:
        self._require_user(request)
        body = request.json()
        repo_type, namespace = body.get("type") or "model", body.get("organization") or self.user
        if repo_type not in REPO_TYPES or not re.fullmatch(r"[\w.-]{1,96}", body["name"]):
            raise HubError(400, f"Invalid repository type or name: {repo_type} {body['name']}")
        if namespace != self.user:
            raise HubError(
                403, f'You don\'t have the rights to create a {repo_type} under the namespace "{namespace}"'
            )
        return repo_type, f"{namespace}/{body['name']}"

    @endpoint("POST", "/api/repos/create")
    def create_repo(self, request: Request) -> Response:
        repo_type, repo_id = self._named(request)
        exists = (repo_type, repo_id) in self.repos
        if not exists:
            body = request.json()
            private = body.get("visibility") == "private" or bool(body.get("private"))
            self.repos[repo_type, repo_id] = Repo(repo_id, repo_type, private)
        answer = {"url": self._page(self.repos[repo_type, repo_id]), "name": repo_id}
        if exists:
            answer["error"] = f"You already created this {repo_type} repo: {repo_id}"
        return Response.from_json(answer, 409 if exists else 200)

    @endpoint("DELETE", "/api/repos/delete")
    def delete_repo(self, request: Request) -> Response:
        repo_type, repo_id = self._named(request)
        self._find(request, f"{repo_type}s", repo_id, write=True)
        del self.repos[repo_type, repo_id]
        return Response()

    @endpoint("PUT", API + "/settings")
    def settings(self, request: Request, kind: str, repo_id: str) -> Response:
        repo = self._find(request, kind, repo_id, write=True)
        body = request.json()
        repo.private = (
            body.get("visibility", "private" if body.get("private", repo.private) else "public") == "private"
        )
        return Response.from_json({"private": repo.private})

    @endpoint("GET", API + "/refs")
    def refs(self, request: Request, kind: str, repo_id: str) -> Response:
        repo = self._find(request, kind, repo_id)
        listed = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        for name, commit in repo.branches.items():
            group, ref = ("pullRequests", name) if name.startswith("refs/") else ("branches", f"refs/heads/{name}")
            listed[group].append({"name": name, "ref": ref, "targetCommit": commit.oid})
        for name, commit in repo.tags.items():
            listed["tags"].append({"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit.oid})
        return Response.from_json(listed)

    @endpoint("POST", API + "/(?P<what>branch|tag)/(?P<name>[^/]+)")
    def create_ref(self, request: Request, kind: str, repo_id: str, what: str, name: str) -> Response:
        repo, body = self._find(request, kind, repo_id, write=True), request.json()
        if what == "branch":
            names, start = repo.branches, body.get("startingPoint") or "main"
        else:
            names, start, name = repo.tags, name, body["tag"]
        if name in names:
            raise HubError(409, f"Reference already exists: {name}")
        names[name] = repo.resolve(start)
        return Response()

    @endpoint("DELETE", API + "/(?P<what>branch|tag)/(?P<name>[^/]+)")
    def delete_ref(self, request: Request, kind: str, repo_id: str, what: str, name: str) -> Response:
        repo = self._find(request, kind, repo_id, write=True)
        names = repo.branches if what == "branch" else repo.tags
        if (what, name) == ("branch", "main"):
            raise HubError(403, "The main branch cannot be deleted")
        if name not in names:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        del names[name]
        return Response()

    # Files

    def _describe_file(self, path: str, blob: Blob) -> dict:
        large = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
        return {
            "type": "file",
            "path": path,
            "size": blob.size,
            "oid": blob.oid,
            **({"lfs": large} if blob.large else {}),
        }

    def _describe(self, commit: Commit, path: str, expand: bool) -> dict:
        blob = commit.files.get(path)
        if blob is not None:
            entry = self._describe_file(path, blob)
        else:
            entry = {"type": "directory", "path": path, "size": 0, "oid": commit.tree_oid(path)}
        if expand:
            entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
        return entry

    @endpoint("GET", API + "/tree" + REVISION + "(?:/(?P<path>.+))?")
    def tree(self, request: Request, kind: str, repo_id: str, revision: str, path: str = "") -> Response:
        commit = self._find(request, kind, repo_id).resolve(revision)
        paths = commit.listing(path.strip("/"), request.flag("recursive"))
        first = int(request.query.get("cursor", ["0"])[0])
        last = first + self.page_size
        headers = {"X-Repo-Commit": commit.oid}
        if last < len(paths):
            flags = "&".join(f"{name}={request.flag(name)}" for name in ("recursive", "expand"))
            headers["Link"] = f'<{self.url}{request.path}?{flags}&cursor={last}>; rel="next"'
        entries = [self._describe(commit, name, request.flag("expand")) for name in paths[first:last]]
        return Response.from_json(entries, headers=headers)

    @endpoint("POST", API + "/paths-info" + REVISION)
    def paths_info(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        commit = self._find(request, kind, repo_id).resolve(revision)
        form = parse_qs(request.body.decode())
        known = {*commit.files, *commit.folders()}
        expand = form.get("expand", [""])[0].lower() == "true"
        paths = [path.rstrip("/") for path in form.get("paths", [])]
        return Response.from_json([self._describe(commit, path, expand) for path in paths if path in known])

    @endpoint("GET", GIT + "/resolve" + REVISION + "/(?P<path>.+)")
    def resolve(self, request: Request, repo_id: str, revision: str, path: str, kind: str = "models") -> Response:
        commit = self._find(request, kind, repo_id).resolve(revision)
        blob = commit.file(path)
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream" if blob.large else "text/plain; charset=utf-8"
        if blob.large:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(blob.size)}
        return _slice(blob.data, request.headers.get("range"), headers)

    # Commits

    @endpoint("GET", API + "/commits" + REVISION)
    def commits(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        commit = self._find(request, kind, repo_id).resolve(revision)
        return Response.from_json(
            [
                {"id": c.oid, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": self.user}]}
                for c in commit.history()
            ]
        )

    @endpoint("POST", API + "/preupload" + REVISION)
    def preupload(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        repo, body = self._find(request, kind, repo_id, write=True), request.json()
        commit = repo.resolve(revision)
        stored = commit.files[".gitignore"].data.decode() if ".gitignore" in commit.files else ""
        answers = []
        for file in body["files"]:
            path, sample = file["path"], b64decode(file.get("sample", ""))
            answer = {"path": path, "uploadMode": repo.upload_mode(commit, path, file["size"], sample)}
            answer["shouldIgnore"] = is_ignored(path, body.get("gitIgnore", stored))
            if path in commit.files:
                answer["oid"] = commit.files[path].etag
            answers.append(answer)
        return Response.from_json({"files": answers, "commitOid": commit.oid})

    @endpoint("POST", GIT + r"\.git/info/lfs/objects/batch")
    def lfs_batch(self, request: Request, repo_id: str, kind: str = "models") -> Response:
        self._find(request, kind, repo_id, write=True)
        verify = f"{self.url}{request.path.removesuffix('batch')}verify"
        objects = []
        for item in request.json()["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.large_files:
                upload = {"href": f"{self.url}/large-files/{item['oid']}"}
                entry["actions"] = {"upload": upload, "verify": {"href": verify}}
            objects.append(entry)
        return Response.from_json({"transfer": "basic", "objects": objects})

    @endpoint("PUT", "/large-files/(?P<oid>[0-9a-f]{64})")
    def upload_large_file(self, request: Request, oid: str) -> Response:
        # Like the signed addresses of the real storage: no token, but the content has to be what was announced.
        if Blob(request.body).sha256 != oid:
            raise HubError(400, f"the content is not {oid}")
        self.large_files[oid] = request.body
        return Response()

    @endpoint("POST", GIT + r"\.git/info/lfs/objects/verify")
    def lfs_verify(self, request: Request, repo_id: str, kind: str = "models") -> Response:
        self._find(request, kind, repo_id, write=True)
        body = request.json()
        if len(self.large_files.get(body["oid"], b"")) != body["size"]:
            raise HubError(404, f"{body['oid']} was not uploaded whole")
        return Response()

    @endpoint("POST", API + "/commit" + REVISION)
    def commit(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        repo = self._find(request, kind, repo_id, write=True)
        lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
        if revision not in repo.branches:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        onto, number = repo.branches[revision], None
        if request.flag("create_pr"):
            number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
            revision = f"refs/pr/{number}"
        commit = repo.apply(revision, lines, self.large_files, onto)
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{self._page(repo)}/commit/{commit.oid}"}
        if number is not None:
            answer["pullRequestUrl"] = f"{self._page(repo)}/discussions/{number}"
        return Response.from_json(answer)

    # What is known about a repository; last, because its pattern also fits the names of the endpoints above

    @endpoint("GET", API + "(?:/revision" + REVISION + ")?")
    def info(self, request: Request, kind: str, repo_id: str, revision: str = "main") -> Response:
        repo = self._find(request, kind, repo_id)
        commit = repo.resolve(revision)
        card = commit.files["README.md"].data.decode() if "README.md" in commit.files else ""
        data = {name: value for name, value in read_front_matter(card)[0].items() if value is not None}
        tags = data.get("tags", [])
        licence = [f"license:{data['license']}"] if "license" in data else []
        known = {
            "id": repo_id,
            "author": repo_id.split("/")[0],
            "sha": commit.oid,
            "createdAt": repo.created,
            "lastModified": commit.date,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [*([tags] if isinstance(tags, str) else tags), *licence],
            "cardData": data,
            "siblings": [self._sibling(path, blob, request.flag("blobs")) for path, blob in commit.files.items()],
            "usedStorage": sum(blob.size for blob in commit.files.values()),
            **{name: data[name] for name in ("pipeline_tag", "library_name") if kind == "models" and name in data},
        }
        wanted = request.query.get("expand")
        return Response.from_json({k: v for k, v in known.items() if not wanted or k in wanted or k == "id"})

    def _sibling(self, path: str, blob: Blob, with_blobs: bool) -> dict:
        if not with_blobs:
            return {"rfilename": path}
        large = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
        return {"rfilename": path, "size": blob.size, "blobId": blob.oid, **({"lfs": large} if blob.large else {})}


def _slice(data: bytes, wanted: str | None, headers: dict[str, str]) -> Response:
    """All of the data or the single range that was asked for."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if match is None or match[0] == "bytes=-":
        return Response(200, data, headers)
    if match[1]:
        first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
    else:
        first, last = max(len(data) - int(match[2]), 0), len(data) - 1
    if first > last:
        raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{len(data)}"})
    return Response(206, data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})
