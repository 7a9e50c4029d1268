"""Pages for probes and scrapers: a few answers over HTTP, each a function, on threads of its own.

The standard library's server does: it is asked for three fixed paths now and then, and answers
nobody whom it was not bound for. See docs/decisions/0007-health.md.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import ipaddress
import json
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from ..errors import SettingsError

log = logging.getLogger("kworker.health")

PATIENCE = 5.0  # seconds that a client may take to say what it wants, or to take the answer
AT_ONCE = 16  # clients that are answered at once; further ones are turned away
STOP = 0.2  # seconds between two looks at whether to end

UNIX = "unix:"


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: its HTTP status, its content type and its bytes."""

    status: int
    kind: str
    body: bytes


Pages = Mapping[str, Callable[[], Page]]


def document(status: int, **fields: Any) -> Page:
    """A page that is one JSON object."""
    return Page(status, "application/json", json.dumps(fields).encode() + b"\n")


def text(status: int, words: str) -> Page:
    """A page that is a line of text."""
    return Page(status, "text/plain; charset=utf-8", words.encode() + b"\n")


@contextlib.contextmanager
def served(address: str, pages: Pages, token: str | None = None) -> Iterator[None]:
    """Answer with these pages, by their paths, at HOST:PORT or unix:PATH while the block lasts.

    With a token, requests must bring it (`Authorization: Bearer …`); a socket in the file
    system is guarded by its permissions. Raises SettingsError for an address that cannot be
    bound, and for one beyond this machine without a token.
    """
    server = _bound(address, pages, token)
    if not address.startswith(UNIX):
        host, port = server.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        log.info("http://%s:%d serves %s", shown, port, ", ".join(pages))
    thread = threading.Thread(
        target=server.serve_forever, args=(STOP,), name="kworker-health", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        if address.startswith(UNIX):
            with contextlib.suppress(OSError):
                Path(address.removeprefix(UNIX)).unlink()


def ask(address: str, path: str, patience: float) -> Page | None:
    """The page that a process on this machine serves at unix:PATH; None where none listens.
    Raises OSError for one that listens and does not answer in so many seconds."""
    connection = _ToSocket(address.removeprefix(UNIX), patience)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return Page(answer.status, answer.getheader("Content-Type", ""), answer.read())
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except http.client.HTTPException as error:
        raise OSError(f"no answer of HTTP: {error!r}") from error
    finally:
        connection.close()


class _ToSocket(http.client.HTTPConnection):
    def __init__(self, path: str, patience: float) -> None:
        super().__init__("localhost", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _bound(address: str, pages: Pages, token: str | None) -> _Server:
    if address.startswith(UNIX):
        path = address.removeprefix(UNIX)
        try:
            _clear(Path(path))
            return _Server(socket.AF_UNIX, path, pages, None)
        except OSError as error:
            raise SettingsError(f"health: {path} cannot be listened at: {_why(error)}") from error
    host, _, port = address.rpartition(":")
    problem: OSError | None = None
    for family, place in _places(host.strip("[]"), int(port)):
        if token is None and not ipaddress.ip_address(place[0]).is_loopback:
            raise SettingsError(
                f"health: {address} can be reached from other machines; set a token that requests "
                "must bring (KWORKER_HEALTH_TOKEN), or take 127.0.0.1"
            )
        try:
            return _Server(family, place, pages, token)
        except OSError as error:
            problem = problem or error
    assert problem is not None
    raise SettingsError(
        f"health: {address} cannot be listened at: {_why(problem)}; take another port"
    ) from problem


def _places(host: str, port: int) -> list[tuple[int, Any]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"health: no address of {host!r} is known: {error}") from error
    return [(family, place) for family, _, _, _, place in found]


def _clear(path: Path) -> None:
    """Remove a socket that a process left which is gone."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, family: int, place: Any, pages: Pages, token: str | None) -> None:
        self.address_family = family
        self.pages = pages
        self.token = token
        self._room = threading.Semaphore(AT_ONCE)
        super().__init__(place, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE

    def do_GET(self) -> None:
        self._answer(self._page())

    def do_HEAD(self) -> None:
        self._answer(self._page())

    def _page(self) -> Page:
        pages, token = self.server.pages, self.server.token
        if token is not None:
            brought = self.headers.get("Authorization", "").encode("utf-8", "replace")
            if not hmac.compare_digest(brought, f"Bearer {token}".encode()):
                return text(401, "bring the token: Authorization: Bearer …")
        page = pages.get(self.path.partition("?")[0])
        if page is None:
            return text(404, f"there are {', '.join(pages)}")
        try:
            return page()
        except Exception:
            log.exception("%s could not be made", self.path)
            return text(500, "this page could not be made; the worker's log says why")

    def _answer(self, page: Page) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.kind)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        if page.status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def version_string(self) -> str:
        return "kworker"

    def log_message(self, format: str, *words: Any) -> None:
        log.debug(format, *words)
