"""The HTTP writer against a local stub server with all kinds of errors."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from test_prompt import arguments

from openclip_eclip.config import UserError
from openclip_eclip.generate import Query, open_writer
from openclip_eclip.generate.endpoint import KEY_VARIABLE, EndpointWriter

KEY = "sk-very-secret-0123"
CHAT = [{"role": "user", "content": "1. clear"}]


def answer(text: Any = "Clear.", finish: Any = "stop", **more: Any) -> dict[str, Any]:
    return {
        "model": "served-7b",
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        **more,
    }


class Stub(ThreadingHTTPServer):
    """A server that answers each POST with the next entry of `script`; the last entry is repeated.

    An entry is (status, body, headers), "cut", "drop" or "hang".
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Any] = [(200, answer(), {})]
        self.requests: list[tuple[str, dict, dict]] = []
        self.release, self.lock = threading.Event(), threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
            step = (
                self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
            )
        if step == "hang":
            self.server.release.wait(20)
            return
        if step == "drop":
            return
        status, content, headers = (
            (200, answer(), {"Content-Length": "5000"}) if step == "cut" else step
        )
        if callable(content):
            content = content(body)
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:40] if step == "cut" else content)

    do_GET = do_POST


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        thread.start()
        yield server
        server.release.set()
        server.shutdown()


@pytest.fixture
def waits() -> list[float]:
    return []


def writer(stub: Stub, waits: list[float], **changes: Any) -> EndpointWriter:
    return EndpointWriter(
        **{
            "url": stub.url,
            "model": "m",
            "max_new_tokens": 20,
            "seed": 3,
            "timeout": 5,
            "sleep": waits.append,
            **changes,
        }
    )


def ask(client: EndpointWriter, count: int = 1) -> list[str]:
    return [
        generation.text
        for generation in client.write(
            [Query(f"image {number}", CHAT, []) for number in range(count)]
        )
    ]


def test_the_request_and_its_answer(
    stub: Stub, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    stub.script = [(200, answer("Findings: Clear.<|im_end|>", "length"), {})]
    client = open_writer(
        arguments(
            "--writer", "http", "--llm", "m", "--llm-url", stub.url + "/", "--max-new-tokens", 20
        ),
        [],
        seed=3,
    )
    generation = client.write([Query("image", CHAT, [])])[0]
    assert (generation.raw, generation.text, generation.finish) == (
        "Findings: Clear.<|im_end|>",
        "Clear.",
        "length",
    )
    ((path, headers, body),) = stub.requests
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert headers["Content-Type"] == "application/json"
    assert body == {
        "model": "m",
        "messages": CHAT,
        "temperature": 0,
        "seed": 3,
        "max_tokens": 20,
        "stream": False,
    }
    assert client.facts == {
        "writer": "http",
        "model": "m",
        "url": stub.url,
        "served": ["served-7b"],
        "sampling": {"temperature": 0, "seed": 3, "max_new_tokens": 20},
    }


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ((500, b"oops", {}), "HTTP 500"),
        ((503, b"", {}), "HTTP 503"),
        ((408, b"", {}), "HTTP 408"),
        ((200, b'{"choices": [', {}), "no JSON"),
        ((200, b"\xff\xfe", {}), "no JSON"),
        ((200, {"choices": []}, {}), "without choices"),
        ((200, [1], {}), "without choices"),
        ((200, {"error": "busy"}, {}), "without choices"),
        ((200, {"choices": [{"message": {}}]}, {}), "without choices"),
        ((200, answer(["parts"]), {}), "is list, not text"),
        ("cut", "no JSON|more expected"),
        ("drop", "closed connection|reset"),
        ((200, b"x" * (8 << 20) + b"xx", {}), "more than 8388608 bytes"),
    ],
)
def test_temporary_errors_are_tried_again_and_named(
    stub: Stub, waits: list[float], caplog: pytest.LogCaptureFixture, fault: Any, named: str
) -> None:
    stub.script = [fault, fault, (200, answer(), {})]
    with caplog.at_level(logging.WARNING):
        assert ask(writer(stub, waits)) == ["Clear."]
    assert len(stub.requests) == 3 and waits == [1, 2]
    assert len(caplog.messages) == 2
    assert all(
        re.search(named, line) and stub.url in line and "image 0" in line
        for line in caplog.messages
    )


def test_silent_server_times_out_and_is_tried_again(stub: Stub, waits: list[float]) -> None:
    stub.script = ["hang", (200, answer(), {})]
    start = time.monotonic()
    assert ask(writer(stub, waits, timeout=0.2)) == ["Clear."] and waits == [1]
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("100000", 600, 600),
        ("soon", 1, 1),
        (None, 1, 1),
        (30, 25, 30),
        (-30, 0, 0),
    ],
)
def test_retry_after_is_honoured(
    stub: Stub, waits: list[float], header: Any, low: float, high: float
) -> None:
    if isinstance(header, int):
        header = format_datetime(
            datetime.now(timezone.utc) + timedelta(seconds=header), usegmt=True
        )
    stub.script = [
        (429, b"", {} if header is None else {"Retry-After": header}),
        (200, answer(), {}),
    ]
    assert ask(writer(stub, waits)) == ["Clear."]
    assert len(waits) == 1 and low <= waits[0] <= high


def test_error_after_all_tries_names_url_query_and_last_error(
    stub: Stub, waits: list[float]
) -> None:
    stub.script = [(500, b"", {})] * 3 + [(502, b"", {})]
    with pytest.raises(UserError) as error:
        ask(writer(stub, waits, tries=9))
    assert all(part in str(error.value) for part in (stub.url, "image 0", "9 tries", "HTTP 502"))
    # no wait after the last
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60] and len(stub.requests) == 9


def test_closed_port_is_named_after_all_tries(waits: list[float]) -> None:
    server = Stub()
    server.server_close()
    with pytest.raises(UserError, match="2 tries; the last error: .*refused"):
        ask(writer(server, waits, tries=2))


@pytest.mark.parametrize(
    ("status", "hint"),
    [(400, "too long a prompt"), (401, KEY_VARIABLE), (404, "too long a prompt")],
)
def test_client_error_is_not_tried_again(
    stub: Stub, waits: list[float], status: int, hint: str
) -> None:
    stub.script = [(status, b"too long a prompt", {})]
    with pytest.raises(UserError, match=f"HTTP {status}.*image 0.*{hint}"):
        ask(writer(stub, waits))
    assert len(stub.requests) == 1 and waits == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(stub: Stub, waits: list[float], status: int) -> None:
    with Stub() as elsewhere:
        threading.Thread(
            target=elsewhere.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        stub.script = [(status, b"", {"Location": f"{elsewhere.url}/chat/completions"})]
        with pytest.raises(UserError, match=f"redirects to {elsewhere.url}"):
            ask(writer(stub, waits))
        elsewhere.shutdown()
        assert elsewhere.requests == [] and len(stub.requests) == 1


def test_null_content_is_an_empty_generation_and_other_ends_keep_their_name(
    stub: Stub, waits: list[float]
) -> None:
    stub.script = [
        (200, answer(None, "content_filter"), {}),
        (200, {"choices": [{"message": {"content": "x"}}]}, {}),
    ]
    generations = writer(stub, waits).write([Query("a", CHAT, []), Query("b", CHAT, [])])
    assert generations[0].empty and [generation.finish for generation in generations] == [
        "content_filter",
        "unknown",
    ]


def test_the_key_goes_to_the_server_and_nowhere_else(
    stub: Stub,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY + "\n")
    client = writer(stub, waits, tries=2)
    stub.script = [(500, b"", {}), (200, answer(), {}), (401, f"bad key {KEY}".encode(), {})]
    with caplog.at_level(logging.DEBUG):
        assert ask(client) == ["Clear."]
        with pytest.raises(UserError, match=r"bad key \*\*\*") as refused:
            ask(client)
        stub.script = [(200, f"no JSON {KEY}".encode(), {})]
        with pytest.raises(UserError, match=r"\*\*\*") as given_up:
            ask(client)
    assert stub.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in caplog.text + json.dumps(client.facts) + str(refused.value) + str(
        given_up.value
    )
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\nX-Other: 1")
    with pytest.raises(UserError, match=KEY_VARIABLE) as bad:
        writer(stub, waits)
    assert KEY not in str(bad.value)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://localhost/v1",
        "localhost:8000/v1",
        "http://",
        "http:///v1",
        "http://[::1/v1",
        "http://localhost:port/v1",
        "http://localhost/v1?key=hidden",
        "http://localhost/v1#hidden",
        "",
        "http://me:hidden@localhost/v1",
        "http://hidden@localhost/v1",
    ],
)
def test_urls_of_another_form_are_errors(stub: Stub, waits: list[float], url: str) -> None:
    with pytest.raises(UserError, match="--llm-url") as error:
        writer(stub, waits, url=url)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://localhost:1/v1", False),
        ("http://127.9.9.9/v1", False),
        ("http://[::1]:1/v1", False),
        ("https://llm.example.org/v1", True),
        ("http://10.0.0.7/v1", True),
        ("http://localhost.example.org/v1", True),
        ("http://0.0.0.0/v1", True),
    ],
)
def test_url_of_another_machine_gives_a_warning(
    stub: Stub,
    waits: list[float],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    warned: bool,
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with caplog.at_level(logging.WARNING):
        writer(stub, waits, url=url)
    assert ("must not leave the site" in caplog.text) == warned
    assert ("unencrypted" in caplog.text) == (warned and url.startswith("http:"))


def test_loopback_never_goes_through_a_proxy(
    stub: Stub, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stub() as proxy:
        threading.Thread(
            target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert ask(writer(stub, waits)) == ["Clear."]
        proxy.shutdown()
        assert proxy.requests == [] and len(stub.requests) == 1


def test_requests_at_a_time_keep_their_order(stub: Stub, waits: list[float]) -> None:
    together = threading.Barrier(3)

    def say(body: dict) -> dict:
        together.wait(5)  # only three requests at a time get here
        return answer(body["messages"][0]["content"])

    stub.script = [(200, say, {})]
    queries = [
        Query(str(number), [{"role": "user", "content": f"text {number}"}], [])
        for number in range(6)
    ]
    assert [generation.text for generation in writer(stub, waits, batch_size=3).write(queries)] == [
        f"text {number}" for number in range(6)
    ]
