"""The loopback Hub: against the unpatched client libraries (the scenes of `hub_scenes.py`), and over plain HTTP."""

import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import hub_scenes
import pytest
from hub_scenes import NOISE, REPO
from hub_server import HubServer, run_python

HERE = Path(__file__).resolve().parent


def play(group: str) -> dict[str, str | None]:
    """The outcome of every scene of a group, from a fresh interpreter that turns itself to a server."""
    code = f"import hub_scenes; hub_scenes.play({group!r})"
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hub_outcomes():
    return play("hub")


@pytest.fixture(scope="module")
def library_outcomes():
    return play("library")


@pytest.mark.parametrize("scene", hub_scenes.names("hub"))
def test_hub(scene, hub_outcomes):
    assert hub_outcomes[scene] is None, hub_outcomes[scene]


@pytest.mark.slow
@pytest.mark.parametrize("scene", hub_scenes.names("library"))
def test_libraries(scene, library_outcomes):
    assert library_outcomes[scene] is None, library_outcomes[scene]


def ask(server: HubServer, method: str, path: str, body: bytes | None = None, **headers: str):
    """Status, headers and body of one request."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


def test_unknown_endpoint_is_named_and_recorded(server):
    status, headers, body = ask(server, "PATCH", "/api/nothing?x=1")
    assert status == 501
    assert json.loads(body) == {"error": "not implemented: PATCH /api/nothing"}
    assert headers["X-Error-Message"] == "not implemented: PATCH /api/nothing"
    assert server.refused == server.requests == ["PATCH /api/nothing"]


def test_an_error_of_the_server_itself_is_recorded_too(server):
    server.add_repo(REPO)
    status, _, body = ask(server, "POST", f"/api/models/{REPO}/preupload/main", b"{", Authorization=server.token)
    assert status == 501
    assert "JSONDecodeError" in json.loads(body)["error"]
    (refused,) = server.refused
    assert refused.startswith(f"POST /api/models/{REPO}/preupload/main: JSONDecodeError")


@pytest.mark.parametrize(
    ("wanted", "status", "first", "last"),
    [("0-9", 206, 0, 9), ("20-", 206, 20, 25), ("-3", 206, 23, 25), ("20-99", 206, 20, 25), ("26-30", 416, 0, -1)],
)
def test_ranges(server, wanted, status, first, last):
    letters = b"abcdefghijklmnopqrstuvwxyz"
    server.add_repo(REPO, {"a.txt": letters})
    got, headers, body = ask(server, "GET", f"/{REPO}/resolve/main/a.txt", Range=f"bytes={wanted}")
    assert got == status
    assert headers["Content-Range"] == (f"bytes {first}-{last}/26" if status == 206 else "bytes */26")
    assert status == 416 or body == letters[first : last + 1]


def test_head_has_the_headers_and_no_body(server):
    server.add_repo(REPO, {"a.txt": b"alpha", "b.bin": NOISE})
    _, small, body = ask(server, "HEAD", f"/{REPO}/resolve/main/a.txt")
    assert body == b"" and small["Content-Length"] == "5" and small["ETag"].startswith('"')
    assert small["X-Linked-Etag"] is None and len(small["X-Repo-Commit"]) == 40
    _, large, _ = ask(server, "HEAD", f"/{REPO}/resolve/main/b.bin")
    assert large["X-Linked-Size"] == str(len(NOISE)) and large["X-Linked-Etag"] == large["ETag"]


def test_commit_copies_a_file_by_its_path(server):
    server.add_repo(REPO, {"a.txt": b"alpha"})
    lines = [("header", {"summary": "Copy"}), ("copyFile", {"path": "b.txt", "srcPath": "a.txt"})]
    body = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines).encode()
    status, _, _ = ask(server, "POST", f"/api/models/{REPO}/commit/main", body, Authorization=f"Bearer {server.token}")
    assert status == 200
    assert server.files(REPO)["b.txt"] == b"alpha"


def test_faults_are_counted_and_matched(server):
    server.fail_next(2, status=429, match="whoami")
    statuses = [ask(server, "HEAD", path)[0] for path in ("/api/telemetry/x", *["/api/whoami-v2"] * 3)]
    assert statuses == [200, 429, 429, 401]
    server.fail_next(status=None)
    with pytest.raises(http.client.RemoteDisconnected):
        ask(server, "GET", "/api/whoami-v2")


def test_latency(server):
    server.latency = 0.05
    start = time.perf_counter()
    ask(server, "GET", "/api/agent-harnesses")
    assert time.perf_counter() - start >= 0.05


def test_reset_forgets_everything(server):
    server.add_repo(REPO)
    server.fail_next(status=500)
    server.read_only.add(REPO)
    server.reset()
    assert ask(server, "GET", f"/api/models/{REPO}", Authorization=f"Bearer {server.token}")[0] == 404
    assert server.requests == [f"GET /api/models/{REPO}"] and not server.refused and not server.read_only


def test_start_is_cheap_and_stop_is_final():
    start = time.perf_counter()
    server = HubServer().start()
    assert time.perf_counter() - start < 0.1
    home = server.home
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    connection.request("GET", "/api/agent-harnesses")
    connection.getresponse().read()
    server.stop()
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.request("GET", "/api/agent-harnesses")
        connection.getresponse()
    connection.close()
    assert not home.exists()


def test_environment_replaces_what_the_libraries_read(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", "elsewhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("UNRELATED", "kept")
    with HubServer(home=tmp_path) as server:
        environment = server.environment()
        assert environment["HF_ENDPOINT"] == server.url and environment["HTTPS_PROXY"] == server.url
        assert environment["HF_HUB_OFFLINE"] == "0" and environment["UNRELATED"] == "kept"
        assert "HF_HUB_CACHE" not in environment and environment["HF_HOME"] == str(tmp_path)
    assert tmp_path.exists()


def test_run_python(server):
    code = "import sys; from huggingface_hub import whoami; print(whoami()['name'], sys.argv[1:])"
    result = run_python(server, code, "one", "two")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "tester ['one', 'two']\n"
    outside = run_python(server, "import socket; socket.socket().connect(('192.0.2.1', 80))")
    assert outside.returncode == 1 and "192.0.2.1 is not loopback" in outside.stderr


def test_start_for_suite_comes_too_late_after_the_libraries(server):
    result = run_python(server, "import huggingface_hub, hub_server; hub_server.start_for_suite()")
    assert "huggingface_hub had read the environment before" in result.stderr
