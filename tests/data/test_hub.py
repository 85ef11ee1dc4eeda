"""The hub's own client against a real server on loopback, in processes of their own: HF_ENDPOINT is read at import."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CHILD = """
import os, pickle, sys, time
from pathlib import Path
from smallvit.data.config import DataConfig
from smallvit.data.split import digest
from smallvit.data.store import load_from_spec
from smallvit.errors import SmallvitError
if "NO_WAIT" in os.environ:
    time.sleep = lambda seconds: None  # between huggingface_hub's tries
spec = pickle.loads(Path(sys.argv[1]).read_bytes())
try:
    data = load_from_spec(spec, DataConfig(dataset="cifar10", cache=Path(sys.argv[2])), image_size=32)
except SmallvitError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
print(digest(data.test), *data.notes)
"""


class Hub(ThreadingHTTPServer):
    """Serves the files of one repository at one revision, as the hub does, and can misbehave."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.fault = ""
        self.got: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        before, _, name = self.path.partition("/resolve/")
        revision, _, name = name.partition("/")
        data = self.server.files.get(f"{before}@{revision}/{name}")
        if data is None or self.server.fault == "404":
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if body:
            self.server.got.append(name)
        self.send_response(200)
        self.send_header("X-Repo-Commit", revision)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if self.server.fault == "cut" else data)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(small, tmp_path: Path) -> Iterator[Hub]:
    layout = small.spec.parquet
    small.parquet(tmp_path / "published", shards=1)
    files = {
        f"/datasets/{layout.repository}@{layout.revision}/{name}": (
            tmp_path / "published" / Path(name).name
        ).read_bytes()
        for name in (*layout.train, *layout.test)
    }
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def child(small, tmp_path: Path):
    import pickle

    (tmp_path / "spec").write_bytes(pickle.dumps(small.spec))
    (tmp_path / "child.py").write_text(CHILD, encoding="utf-8")

    def run(endpoint: str, **environment: str) -> tuple[int, str, str, float]:
        base = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        env = {**base, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), **environment}
        began = time.monotonic()
        arguments = [str(tmp_path / "child.py"), str(tmp_path / "spec"), str(tmp_path / "cache")]
        done = subprocess.run(
            [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stdout, done.stderr, time.monotonic() - began

    return run


def endpoint(hub: Hub) -> str:
    return f"http://127.0.0.1:{hub.server_address[1]}"


def one_line(error: str) -> str:
    assert "Traceback" not in error
    (line,) = error.splitlines()
    return line


def test_files_come_from_the_pinned_revision_once_then_from_the_cache_and_without_it_from_the_hubs_own(
    small, hub: Hub, child, tmp_path: Path
) -> None:
    status, out, error, _ = child(endpoint(hub))
    assert (status, error) == (0, "")
    assert sorted(hub.got) == sorted([*small.spec.parquet.train, *small.spec.parquet.test])
    hub.fault = "404"
    assert child(endpoint(hub))[:2] == (0, out)
    assert child("http://127.0.0.1:9", HF_HUB_OFFLINE="1")[:2] == (0, out)
    (tmp_path / "cache").rename(tmp_path / "away")
    assert child(endpoint(hub), HF_HUB_OFFLINE="1")[:2] == (0, out)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:9", "Connection refused"),
        ("http://no-such-host.invalid", "no-such-host.invalid"),
        ("offline", "HF_HUB_OFFLINE is set"),
        ("404", "404"),
    ],
)
def test_no_hub_is_one_line_with_three_ways_within_seconds(
    hub: Hub, child, tmp_path: Path, address: str, reason: str
) -> None:
    hub.fault = "404"
    where = address if address.startswith("http:") else endpoint(hub)
    status, out, error, seconds = child(where, **({"HF_HUB_OFFLINE": "1"} if address == "offline" else {}))
    line = one_line(error)
    assert (status, out) == (1, "")
    assert reason in line
    for way in (
        "--data.root",
        "cifar-10-batches-bin",
        "cifar-10-python.tar.gz",
        str(tmp_path / "cache"),
        "HF_ENDPOINT",
    ):
        assert way in line
    assert seconds < 30  # most of them to import, where others work beside it


def test_a_variable_that_the_hubs_library_refuses_is_one_line(hub: Hub, child) -> None:
    status, _, error, _ = child(endpoint(hub), HF_HUB_ETAG_TIMEOUT="10s")
    assert status == 1
    assert "not to be had from the hub huggingface_hub (invalid literal for int() with base 10: '10s')" in one_line(
        error
    )


def test_a_body_cut_short_is_an_error_and_the_next_start_mends_it(hub: Hub, child, tmp_path: Path) -> None:
    hub.fault = "cut"
    status, _, error, _ = child(endpoint(hub), NO_WAIT="1")
    assert status == 1
    assert "three ways" in one_line(error)
    assert not list((tmp_path / "hf").rglob("*.parquet")), "no half file passes as whole"
    hub.fault = ""
    assert child(endpoint(hub))[0] == 0


def test_a_hub_that_answers_with_something_else_is_named(hub: Hub, child) -> None:
    hub.files = dict.fromkeys(hub.files, b"<html>sign in to this network</html>")
    status, _, error, _ = child(endpoint(hub))
    assert status == 1
    assert "train-00000-of-00001.parquet: not a whole parquet file" in one_line(error)
