"""Downloads from servers that drip, redirect, or say what would steer a terminal."""

import io
import os
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from weights_server import CHECKSUM, CONTENT, Handler, Server, kept, refusal, url

from jaxrobust.networks import download as module
from jaxrobust.networks.download import download


def drip(handler: Any, head: bytes, piece: bytes, end: threading.Event) -> None:
    """Sends pieces, one after the other, until the test is over."""
    handler.wfile.write(head)
    while not end.wait(0.01):
        try:
            handler.wfile.write(piece)
        except OSError:
            return


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nX-Header: ", b"x"),
        (b"", b"H"),
    ],
    ids=["file", "endless file", "chunk", "header", "status"],
)
def test_a_server_that_drips_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, head: bytes, piece: bytes
) -> None:
    monkeypatch.setattr(module, "_SPAN", 0.2)
    monkeypatch.setattr(module, "_TICK", 0.05)
    end = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: drip(self, head, piece, end))
    message = refusal(url(server), CHECKSUM)
    end.set()
    assert "fewer than 1,000 bytes arrive in a second" in message


def test_a_server_that_breaks_off_after_every_byte_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SPAN", 0.2)
    server.breaks = [1] * 10_000
    server.on_request = lambda: time.sleep(0.005)  # a fast machine gets 2,000 bytes in a second
    assert "the connection ended after" in refusal(url(server), CHECKSUM)
    assert len(server.requests) < 1000


def test_a_server_given_up_on_leaves_a_piece_to_go_on_from(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_SPAN", 0.3)
    monkeypatch.setattr(module, "_TICK", 0.05)
    end = threading.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + CONTENT[:100]
    with monkeypatch.context() as patch:
        patch.setattr(Handler, "do_GET", lambda self: drip(self, head, b"", end))
        refusal(url(server), CHECKSUM)
    end.set()
    assert kept(server, tmp_path) == ["weights.pth.part"]
    assert download(url(server), CHECKSUM).read_bytes() == CONTENT
    assert server.requests == ["bytes=100-"]


def redirecting(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    def do_GET(handler: Any) -> None:
        if handler.path.startswith("/moved"):
            return answer(handler)
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    answer = Handler.do_GET
    monkeypatch.setattr(Handler, "do_GET", do_GET)


@pytest.mark.parametrize(
    "target", ["ftp://127.0.0.1:9/weights.pth", "file:///etc/passwd", "data:text/plain,weights"]
)
def test_another_scheme_is_not_followed(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str
) -> None:
    redirecting(monkeypatch, target)
    assert target in refusal(url(server), CHECKSUM)
    assert kept(server, tmp_path) == []


def test_from_https_nothing_leads_to_http() -> None:
    handler = module._SameScheme()
    leaves = [
        ("https://a/x", "http://b/x"),
        ("https://a/x", "ftp://b/x"),
        ("http://a/x", "ftp://b"),
    ]
    stays = [
        ("https://a/x", "https://b/x"),
        ("http://a/x", "http://b/x"),
        ("http://a", "https://b"),
    ]
    for start, target in leaves + stays:
        request = urllib.request.Request(start)
        arguments: Any = (request, io.BytesIO(), 302, "Found", {}, target)
        if (start, target) in stays:
            followed = handler.redirect_request(*arguments)
            assert followed is not None and followed.full_url == target
            continue
        with pytest.raises(module._OtherScheme, match="which is not http"):
            handler.redirect_request(*arguments)


def test_redirects_of_one_scheme_are_followed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    redirecting(monkeypatch, "/moved/weights.pth")
    assert download(url(server), CHECKSUM).read_bytes() == CONTENT


def test_what_a_server_says_never_steers_a_terminal(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def do_GET(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 404 \x1b[2J\x1b]0;owned\x07\r\n\r\n")

    monkeypatch.setattr(Handler, "do_GET", do_GET)
    message = refusal(url(server), CHECKSUM)
    assert "the server answers 404" in message and message.isprintable()


@pytest.mark.parametrize("name", ["weights.pth", "weights.pth.part"])
def test_a_pipe_in_the_cache_is_not_waited_for(server: Server, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "cache" / "weights" / f"127.0.0.1_{server.server_address[1]}"
    folder.mkdir(parents=True)
    os.mkfifo(folder / name)
    if name == "weights.pth":
        assert download(url(server), CHECKSUM).read_bytes() == CONTENT
    else:
        assert "is not a file" in refusal(url(server), CHECKSUM)


@pytest.mark.parametrize("end", ["", "..", "%2e%2e", "a%2F..", "."])
def test_an_address_without_a_files_name_is_refused(server: Server, end: str) -> None:
    assert "ends with a file's name" in refusal(f"{server.base}/{end}")


def test_no_name_leads_out_of_the_cache(server: Server, tmp_path: Path) -> None:
    file = download(f"{server.base}/..%2F..%2Fweights.pth", CHECKSUM)
    assert file.parent.parent == tmp_path / "cache" / "weights"
