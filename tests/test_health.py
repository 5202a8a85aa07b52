"""Waiting for servers: until all answer, until one of them is gone, until the time is over."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline import health


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], str]]:
    """Servers that answer 503 to their first requests for /health, as one that loads its model does."""
    monkeypatch.setattr(health, "PAUSE", 0.01)
    servers = []

    def start(refusals: int) -> str:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                ready = self.path == "/health" and len(asked) > refusals
                self.send_response(200 if ready else 503)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_it_waits_until_all_answer(serve: Callable[[int], str]) -> None:
    assert health.main(["--urls", serve(0), f"{serve(3)}/"]) == 0


def test_a_server_that_does_not_answer_in_time(serve: Callable[[int], str], capsys: pytest.CaptureFixture[str]) -> None:
    silent = serve(10**9)
    assert health.main(["--urls", serve(0), silent, "--timeout", "0.1"]) == 1
    assert capsys.readouterr().err == f"r1: no answer from {silent}/health within 0.1 s\n"


def test_a_server_that_dies_while_loading_ends_the_wait(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    try:  # a port that nobody listens on; the child is not waited for, so it stays as a zombie
        assert health.main(["--urls", "http://127.0.0.1:9", "--pids", str(child.pid), "--timeout", "60"]) == 1
    finally:
        child.wait()
    assert f"ended before it answered (process {child.pid})" in capsys.readouterr().err
    assert health.main(["--urls", "http://127.0.0.1:9", "--pids", str(child.pid)]) == 1
    assert time.monotonic() - began < 30
