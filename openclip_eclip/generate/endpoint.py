"""Writer with a language model behind an OpenAI-compatible HTTP endpoint.

Such endpoints are vLLM, llama.cpp's server and Ollama. Nothing is sent unless the user gives a URL.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import logging
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from ..config import UserError
from .base import Generation, Query

KEY_VARIABLE = "OPENCLIP_ECLIP_LLM_KEY"
LARGEST = 8 << 20  # bytes of an answer
LONGEST_WAIT = 600.0  # seconds before another attempt

logger = logging.getLogger(__name__)


class _TemporaryError(RuntimeError):
    """An error after which the request is tried again, after `wait` seconds if known."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would send reports and the key to a server the user did not name."""

    def redirect_request(self, *args: Any) -> None:
        return None


class _TimeLimit:
    """Ends the request of this thread after `seconds`, even if bytes still arrive.

    The time-out of a socket does not do this: it starts again with each byte.
    """

    this_thread = threading.local()

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self.socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._stop)
        self._timer.daemon = True

    def watch(self, connected: socket.socket) -> None:
        self.socket = connected

    def _stop(self) -> None:
        self.expired = True
        if self.socket is not None:
            with suppress(OSError):  # the connection may have ended in the meantime
                self.socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> _TimeLimit:
        _TimeLimit.this_thread.limit = self
        self._timer.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._timer.cancel()


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _TimeLimit.this_thread.limit.watch(self.sock)


class _SecureConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _TimeLimit.this_thread.limit.watch(self.sock)


class _Watched(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class _WatchedSecure(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request, context=ssl.create_default_context())


class EndpointWriter:
    """Sends POST {url}/chat/completions with temperature 0, `batch_size` requests at a time.

    The key comes from the environment; it is sent to this server only and is never stored.

    Time-outs, lost connections, 408, 429, 5xx and unreadable answers are tried again: `tries`
    attempts in all, after 1, 2, 4 ... 60 seconds or as Retry-After says. Proxies of the environment
    are used, except for servers on this machine.
    """

    def __init__(
        self,
        url: str,
        model: str,
        max_new_tokens: int,
        seed: int = 0,
        batch_size: int = 1,
        timeout: float = 120,
        tries: int = 5,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url, host = _checked(url), urlsplit(url).hostname or ""
        self.batch_size, self.timeout, self.tries, self.sleep = batch_size, timeout, tries, sleep
        self._settings = {
            "model": model,
            "temperature": 0,
            "seed": seed,
            "max_tokens": max_new_tokens,
            "stream": False,
        }
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not self._key.isascii() or not self._key.isprintable():
            raise UserError(
                f"{KEY_VARIABLE}: characters that an HTTP header cannot hold; expected a plain key."
            )
        proxies: dict[str, str] | None = {} if _is_loopback(host) else None
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(proxies), _NoRedirect, _Watched, _WatchedSecure
        )
        self.facts: dict[str, Any] = {
            "writer": "http",
            "model": model,
            "url": self.url,
            "served": [],
            "sampling": {"temperature": 0, "seed": seed, "max_new_tokens": max_new_tokens},
        }
        if not _is_loopback(host):
            logger.warning(
                "%s is another machine: the retrieved reports are sent to it. Restricted data"
                " (such as MIMIC-CXR) must not leave the site.%s",
                self.url,
                " The key is sent unencrypted." if self._key and url.startswith("http:") else "",
            )

    def write(self, queries: Sequence[Query]) -> list[Generation]:
        """One generation for each query, in order.

        Raises:
            UserError: the server rejects a request, or gives no answer in all attempts. The message
                names the URL, the query and the last error.
        """
        with ThreadPoolExecutor(self.batch_size) as pool:
            answers = list(pool.map(self._answer, queries))
        self.facts["served"] = sorted(
            {*self.facts["served"], *(served for _, served in answers if served)}
        )
        return [generation for generation, _ in answers]

    def _answer(self, query: Query) -> tuple[Generation, str]:
        for attempt in range(1, self.tries + 1):
            try:
                return self._ask(query)
            except _TemporaryError as error:
                last = self._hide(str(error))
                if error.wait is None:
                    wait = min(60.0, 2.0 ** (attempt - 1))
                else:
                    wait = min(LONGEST_WAIT, error.wait)
            if attempt < self.tries:
                logger.warning(
                    "%s, %s: %s (try %d of %d); next try in %.0f s",
                    self.url,
                    query.key,
                    last,
                    attempt,
                    self.tries,
                    wait,
                )
                self.sleep(wait)
        raise UserError(
            f"{self.url}: no answer for {query.key} in {self.tries} tries; the last error: {last}."
            " Check the server, then run the same command again: it resumes where it stopped."
        )

    def _ask(self, query: Query) -> tuple[Generation, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(
            f"{self.url}/chat/completions",
            json.dumps({**self._settings, "messages": query.chat}).encode(),
            headers,
            method="POST",
        )
        with _TimeLimit(self.timeout) as limit:
            try:
                with self._opener.open(request, timeout=self.timeout) as answer:
                    content = answer.read(LARGEST + 1)
            except urllib.error.HTTPError as error:
                with error:
                    self._raise_for_status(error, query)
            # URLError and time-outs are OSErrors; a chunk without a length is a ValueError
            except (OSError, http.client.HTTPException, ValueError) as error:
                if not limit.expired:
                    reason = getattr(error, "reason", None) or error or type(error).__name__
                    raise _TemporaryError(f"{reason}") from error
            if limit.expired:
                raise _TemporaryError(
                    f"no complete answer within {self.timeout:g} s (--llm-timeout)"
                )
        return _parse(content)

    def _raise_for_status(self, error: urllib.error.HTTPError, query: Query) -> None:
        """Raises a temporary error or a UserError, depending on the HTTP status."""
        if error.code in (408, 429) or error.code >= 500:
            raise _TemporaryError(
                f"HTTP {error.code} {error.reason}", _retry_after(error.headers.get("Retry-After"))
            )
        if 300 <= error.code < 400:
            raise UserError(
                f"{self.url}: redirects to {error.headers.get('Location')}, which is not followed."
                " Give the final URL."
            )
        try:
            body = error.read(500).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            body = ""
        hint = f" The key is read from {KEY_VARIABLE}." if error.code in (401, 403) else ""
        raise UserError(
            self._hide(
                f"{self.url}: HTTP {error.code} {error.reason} for {query.key}:"
                f" {' '.join(body.split())}.{hint}"
            )
        )

    def _hide(self, text: str) -> str:
        """The text without the key: servers may repeat it in their error messages."""
        return text.replace(self._key, "***") if self._key else text


def _checked(url: str) -> str:
    """The URL without a trailing slash; UserError unless it is http(s)://HOST[:PORT][/PATH]."""
    expected = (
        "expected http://HOST:PORT/v1 or https://HOST/v1, to which /chat/completions is added"
    )
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if it is no number
    except ValueError as error:
        raise UserError(f"--llm-url: {error}; {expected}.") from error
    if parts.username is not None or parts.password is not None:
        raise UserError(
            f"--llm-url: a user name or password in the URL; expected none. Put a key into the"
            f" environment variable {KEY_VARIABLE}: it is never stored."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UserError(
            f"--llm-url {parts.scheme}://{parts.hostname}...: {expected}, without ? or #."
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header (a number or a date); None without a readable one."""
    if value is None:
        return None
    try:
        if value.strip().isdigit():
            return max(0.0, float(value))
        wait = parsedate_to_datetime(value) - datetime.now(timezone.utc)
        return max(0.0, wait.total_seconds())
    except (ValueError, TypeError):
        return None


def _parse(content: bytes) -> tuple[Generation, str]:
    """The generation, and the model that the server names ("" if it names none).

    The text may be null, after a filter or a refusal: the generation is then empty.
    """
    if len(content) > LARGEST:
        raise _TemporaryError(f"an answer of more than {LARGEST} bytes")
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _TemporaryError(f"no JSON ({error}): {content[:80]!r}") from error
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        finish = choice.get("finish_reason")
        served = answer.get("model")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _TemporaryError(
            f"JSON without choices[0].message.content: {content[:80]!r}"
        ) from error
    if not isinstance(text, (str, type(None))):
        raise _TemporaryError(f"choices[0].message.content is {type(text).__name__}, not text")
    generation = Generation(text or "", finish if isinstance(finish, str) else "unknown")
    return generation, served if isinstance(served, str) else ""
