"""A small Hugging Face Hub on loopback, so that tests run the real client libraries without reaching anything else.

    with HubServer() as server:
        result = run_python(server, "from huggingface_hub import HfApi; print(HfApi().whoami()['name'])")

Tests in the same process call `start_for_suite()` before any of the libraries is imported. Endpoints live in
`hub_endpoints.py`, repositories in `hub_store.py`; what no endpoint answers gets a 501 and is kept in
`server.refused`.
"""

import atexit
import contextlib
import ipaddress
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from hub_endpoints import HubEndpoints, Request, Response
from hub_store import Blob, HubError, Repo

CLIENT_LIBRARIES = ("huggingface_hub", "datasets", "transformers")
CLIENT_PREFIXES = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@dataclass
class Failure:
    """A fault still to be injected; without a status the connection is dropped."""

    left: int
    status: int | None
    match: str


class HubServer(HubEndpoints):
    """The server.

    `home` is the folder that `environment()` gives the libraries as HF_HOME; by default a temporary one.

    Attributes for tests: `requests` and `refused` (lists of "METHOD path"), `latency` (seconds before each answer),
    `page_size` (entries of a listing per page), `read_only` (ids of repositories that answer writes with 403).
    """

    def __init__(self, user: str = "tester", token: str = "hf_loopback_token", home: str | Path | None = None):
        self.user, self.token = user, token
        self._given_home, self._home = home, None
        self._listener = None
        self._lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Forget all repositories, records and faults; the server goes on."""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.refused: list[str] = []
        self.read_only: set[str] = set()
        self.latency = 0.0
        self.page_size = 1000
        self._failures: list[Failure] = []

    # Life

    def start(self) -> "HubServer":
        if self._listener is None:
            self._listener = _Listener(self)
            # The interval is how long `stop` may have to wait.
            threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True, name="hub").start()
        return self

    def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._home is not None and self._given_home is None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    def __enter__(self) -> "HubServer":
        return self.start()

    def __exit__(self, *error) -> None:
        self.stop()

    @property
    def url(self) -> str:
        if self._listener is None:
            raise RuntimeError("the server was not started")
        return f"http://127.0.0.1:{self._listener.server_address[1]}"

    @property
    def home(self) -> Path:
        if self._home is None:
            self._home = Path(self._given_home or tempfile.mkdtemp(prefix="hub-home-"))
        return self._home

    # What tests put in and look at

    def add_repo(self, repo_id: str, files: dict[str, bytes] | None = None, repo_type="model", private=False) -> Repo:
        """A repository that is there without any client having made it."""
        with self._lock:
            repo = self.repos[repo_type, repo_id] = Repo(repo_id, repo_type, private)
            head = repo.branches["main"]
            blobs = {
                path: Blob(data, repo.upload_mode(head, path, len(data), data[:512]) == "lfs")
                for path, data in (files or {}).items()
            }
            self.large_files |= {blob.sha256: blob.data for blob in blobs.values() if blob.large}
            if blobs:
                repo.add_commit("main", {**head.files, **blobs}, "add files")
            return repo

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        return self.repos[repo_type, repo_id]

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.repo(repo_id, repo_type).resolve(revision).files.items()}

    def fail_next(self, n: int = 1, status: int | None = 500, match: str = "") -> None:
        """The next `n` requests whose "METHOD path" contains `match` fail; `status=None` drops the connection."""
        self._failures.append(Failure(n, status, match))

    # The libraries' environment

    def variables(self, home: str | Path | None = None) -> dict[str, str]:
        """What the libraries have to find in the environment, without the rest of it."""
        # Being everybody's proxy keeps even the look-up of a foreign name from leaving; datasets, for one, asks for
        # http://datasets-server.127.0.0.1 once HF_ENDPOINT is this server.
        proxies = {name: self.url for proxy in PROXIES for name in (proxy, proxy.upper())}
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home or self.home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            # Otherwise datasets counts every load with a request to a storage provider, ...
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            # ... and transformers asks a Space to convert weights that are not safetensors.
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            **proxies,
            "no_proxy": "127.0.0.1,localhost",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def environment(self, home: str | Path | None = None) -> dict[str, str]:
        """A whole environment for a subprocess: this one's, with the libraries' variables replaced."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(CLIENT_PREFIXES)}
        return {**kept, **self.variables(home)}

    # Answers

    def answer(self, request: Request) -> Response | None:
        """The answer to a request, None where the connection is to be dropped."""
        name = f"{request.method} {request.path}"
        self.requests.append(name)
        if self.latency:
            time.sleep(self.latency)
        with self._lock:
            failure = next((f for f in self._failures if f.left > 0 and f.match in name), None)
            if failure is not None:
                failure.left -= 1
                error = HubError(failure.status, "injected failure") if failure.status else None
                return error and Response.from_error(error)
            try:
                return self.respond(request)
            except HubError as error:
                if error.status == 501:
                    self.refused.append(name)
                return Response.from_error(error)
            except Exception as error:
                # 501 as well: the libraries would try a 500 again for half a minute.
                self.refused.append(f"{name}: {type(error).__name__}: {error}")
                return Response.from_error(HubError(501, self.refused[-1]))


class _Listener(ThreadingHTTPServer):
    """Listens on a free port of loopback, and can close the connections that clients keep open."""

    def __init__(self, hub: HubServer):
        self.hub = hub
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self):
        # HTTPServer's own version looks up the name of the address, which may ask a name server.
        socketserver.TCPServer.server_bind(self)

    def get_request(self):
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request):
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """A client that goes away is its own affair."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; together with delayed acknowledgements Nagle would cost 40 ms each time.
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        hub = self.server.hub
        target = self.path
        if self.command != "CONNECT" and target.startswith(hub.url + "/"):
            target = target.removeprefix(hub.url)
        parts = urlsplit(target)
        path = parts.path if target.startswith("/") else target.split("?")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        response = hub.answer(Request(self.command, path, parse_qs(parts.query), headers, self._read_body(headers)))
        if response is None:
            self.close_connection = True
            return
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_CONNECT = _answer

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if "chunked" not in headers.get("transfer-encoding", ""):
            return self.rfile.read(int(headers.get("content-length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def log_message(self, *args) -> None:
        """Nothing: `server.requests` is the log."""


def run_python(
    server: HubServer, code: str, *args: str, timeout: float = 120, home: str | Path | None = None
) -> subprocess.CompletedProcess:
    """Run a script in a fresh interpreter whose libraries know only this server.

    The script starts in the libraries' home, can import the modules of this folder, and cannot leave loopback.
    """
    prelude = "import sys, hub_server; hub_server.forbid_outside(); exec(compile(sys.argv.pop(1), '<script>', 'exec'))"
    environment = server.environment(home)
    here = str(Path(__file__).resolve().parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [here, environment.get("PYTHONPATH")]))
    command = [sys.executable, "-c", prelude, code, *map(str, args)]
    folder = Path(environment["HF_HOME"])
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=timeout)


_suite: HubServer | None = None
_forbidden = False


def start_for_suite() -> HubServer:
    """The one server of a test run: on the first call it is started, and this process is turned to it for good."""
    global _suite
    if _suite is None:
        early = [name for name in CLIENT_LIBRARIES if name in sys.modules]
        if early:
            raise RuntimeError(f"{', '.join(early)} had read the environment before start_for_suite() changed it")
        _suite = HubServer().start()
        environment = _suite.environment()
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        forbid_outside()
        atexit.register(_suite.stop)
    return _suite


def forbid_outside() -> None:
    """From now on Python code in this process can neither connect to nor look up anything but loopback, for good."""
    global _forbidden
    if not _forbidden:
        _forbidden = True
        sys.addaudithook(_refuse_outside)


def _refuse_outside(event: str, args: tuple) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        # Sockets of files have no tuple for an address.
        if isinstance(address, tuple) and not _is_loopback(address[0]):
            raise ConnectionRefusedError(f"{address[0]} is not loopback")
    look_up = event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
    if look_up and not _is_loopback(args[0]) and args[0] != socket.gethostname():
        raise socket.gaierror(socket.EAI_NONAME, f"{args[0]} is not loopback")


def _is_loopback(host: str | bytes | None) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
