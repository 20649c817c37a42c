"""A local server of one weight file, and what a client keeps of it."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.networks import download as module
from jaxrobust.networks.download import download

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CHECKSUM = f"sha256:{SHA256[:8]}"


class Server(ThreadingHTTPServer):
    """Serves one content under every name; tests change how."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag: str | None = '"one"'
        self.ranges = True
        self.status: list[int] = []  # answers before the first good one
        self.breaks: list[int] = []  # bytes after which answers break off
        self.requests: list[str | None] = []
        self.on_request: Callable[[], object] = lambda: None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files"


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(self.headers["Range"])
        server.on_request()
        if server.status:
            self.send_error(server.status.pop(0))
            return
        content, start = server.content, 0
        condition = self.headers["If-Range"]
        if self.headers["Range"] and server.ranges and condition in (None, server.etag):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        end = start + server.breaks.pop(0) if server.breaks else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("JAXROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXROBUST_WEIGHTS_URL", raising=False)
    monkeypatch.setattr(module, "_PAUSES", (0, 0, 0))
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def url(server: Server) -> str:
    return f"{server.base}/weights.pth"


def kept(server: Server, tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "weights" / f"127.0.0.1_{server.server_address[1]}"
    return sorted(path.name for path in folder.iterdir())


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(SpecificationError) as caught:
        download(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
