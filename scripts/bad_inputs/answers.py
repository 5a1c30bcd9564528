"""Bad answers of the HTTP server of a language model."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .bombs import deflated
from .harness import Case
from .world import Maker, model, pixels, png, world

Answer = Callable[[BaseHTTPRequestHandler], None]
GOOD = {"model": "m", "choices": [{"message": {"content": "Clear."}, "finish_reason": "stop"}]}


def say(content: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {
            "Content-Length": str(len(content)),
            **{key.replace("_", "-"): value for key, value in headers.items()},
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Sends a byte every 0.3 s, but never a complete answer."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(400):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.3)


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    """Sends a header every 0.3 s, but never an answer."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(90):
        handler.wfile.write(f"X-{number}: 1\r\n".encode())
        handler.wfile.flush()
        time.sleep(0.3)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(1 << 20))
    except OSError:
        return


def raw(content: bytes) -> Answer:
    return lambda handler: handler.wfile.write(content) and None


def served(answer: Answer, *flags: object) -> Maker:
    """A case with a local server, which lives as long as the case, and a command that asks it."""

    def make(folder: Path) -> Sequence[object]:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words: object) -> None:
                """Prints nothing: the lines would be taken for output of the command."""

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    answer(self)
                except OSError:  # the command has closed the connection
                    self.close_connection = True

            do_GET = do_POST

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (folder / "a.png").write_bytes(png(pixels(0)))
        return [
            "report",
            "a.png",
            *("--index", world() / "reports_index"),
            *("--model", model()),
            *("--device", "cpu"),
            *("--writer", "http"),
            *("--llm", "m"),
            *("--llm-url", f"http://127.0.0.1:{server.server_address[1]}/v1"),
            *("--llm-timeout", 2),
            *("--llm-tries", 2),
            *flags,
        ]

    return make


def cases() -> Iterator[Case]:
    answers: list[tuple[str, Answer, tuple[str, ...]]] = [
        ("HTML", say(b"<!doctype html><title>Login</title>"), ("JSON",)),
        ("nothing", say(b""), ("JSON",)),
        ("other keys", say(b'{"answer": 1}'), ("choices",)),
        ("no choices", say(b'{"choices": []}'), ("choices",)),
        ("a list", say(b"[1]"), ("choices",)),
        ("null", say(b"null"), ("choices",)),
        (
            "content a number",
            say(json.dumps({"choices": [{"message": {"content": 3}}]}).encode()),
            ("content",),
        ),
        ("brackets", say(b"[" * 100000), ("JSON",)),
        ("not UTF-8", say(b'{"choices": "\xff\xfe"}'), ("JSON",)),
        ("cut", say(json.dumps(GOOD).encode()[:30], Content_Length="4000"), ("a.png",)),
        ("500", say(b"oops", 500), ("500",)),
        ("401", say(b"no", 401), ("401",)),
        ("404", say(b"<html>", 404), ("404",)),
        ("429 that asks for a day", say(b"", 429, Retry_After="0"), ("429",)),
        (
            "a redirect to another host",
            say(b"", 302, Location="http://example.com/steal"),
            ("redirect",),
        ),
        ("a redirect of 308", say(b"", 308, Location="http://127.0.0.1:1/"), ("redirect",)),
        ("a redirect to a file", say(b"", 301, Location="file:///etc/passwd"), ("redirect",)),
        ("a byte every 0.3 s", drip, ("a.png",)),
        ("a header every 0.3 s", drip_headers, ("a.png",)),
        ("without end", endless, ("a.png",)),
        (
            "gzip that was not asked for",
            say(gzip.compress(json.dumps(GOOD).encode()), Content_Encoding="gzip"),
            ("JSON|gzip|encod",),
        ),
        (
            "a gzip bomb",
            say(
                gzip.compress(b"")[:10] + deflated(b"", 1 << 30) + bytes(8), Content_Encoding="gzip"
            ),
            ("JSON|gzip|encod|bytes",),
        ),
        ("no HTTP", raw(b"SSH-2.0-OpenSSH\r\n"), ("a.png",)),
        (
            "a header line of 1 MB",
            raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n"),
            ("a.png",),
        ),
        ("300 headers", raw(b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 300 + b"\r\n"), ("a.png",)),
        ("a length of letters", say(b"{}", Content_Length="many"), ("a.png|JSON|choices",)),
        ("a length of -1", say(b"{}", Content_Length="-1"), ("choices|a.png",)),
        (
            "chunks of no number",
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
            ("a.png",),
        ),
        ("a hung up line", lambda handler: handler.connection.close(), ("a.png",)),
    ]
    for name, answer, words in answers:
        yield Case(name, "HTTP answers", served(answer), ("127.0.0.1", *words))
    yield Case(
        "no server",
        "HTTP answers",
        served(say(b""), "--llm-url", "http://127.0.0.1:9/v1"),
        ("127.0.0.1:9", "a.png"),
    )
