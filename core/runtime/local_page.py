"""A page on this machine on which a person decides: its server asks nothing of the network.

Every address needs the token that the command printed, so that no other page in the browser, and no other user of the
machine, can read or write; names of other hosts are refused. One page at a time writes.

What is decided of images may go into a file of one JSON object per line: each is on the disk before the next one is
made, and the last of an image counts. A line that a kill cut short is left out.
"""

from __future__ import annotations

import getpass
import hmac
import io
import json
import os
import secrets
import socket
import threading
import time
import webbrowser
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ..errors import ConfigError, DataError, VladaptError, shortened
from .files import claimed
from .process import keeps, need_package
from .reading import json_values, read_bytes
from .web_page import FILES, WebPage

HOST = "127.0.0.1"
NO_TOKEN = "Open the address that vladapt printed: it ends with a token."
TWO_PAGES = "This file is being labelled in another page: close that one, then reload this one."
GONE_AFTER_S = 6.0
"""After which a page that is not heard of is taken for closed."""
IMAGE, WITHDRAWN = "image", "withdrawn"
LOSSLESS_PIXELS, LARGEST_SIDE = 1_000_000, 4096


class LocalPage(ABC):
    """Base of pages.

    Class attributes:
        command: that serves it, for messages.
        folder: with page.html, page.js and page.css.
        most_body: bytes of a request.

    Args:
        clock: seconds, for what pages are open.
    """

    command: ClassVar[str]
    folder: ClassVar[Path]
    most_body: ClassVar[int] = 1 << 16

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self._page, self._heard, self._lock = "", 0.0, threading.Lock()

    @abstractmethod
    def gets(self) -> Mapping[str, Callable[..., Mapping[str, Any] | np.ndarray]]:
        """Path, as starlette writes it -> what gives its answer of the path's parameters: JSON, or a picture."""

    @abstractmethod
    def posts(self) -> Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
        """Path -> what gives its answer of the request's object; "/here" and "/leave" are there besides."""

    def decision_file(self, path: Path) -> DecisionFile:
        """The file of what is decided at this page; errors as of `DecisionFile`."""
        return DecisionFile(path)

    def hear(self, page: str) -> None:
        """A page is open, and it is the only one.

        Raises:
            ConfigError: another one is.
        """
        with self._lock:
            others = self._page not in ("", page) and self.clock() - self._heard < GONE_AFTER_S
            if others or not page:
                raise ConfigError(TWO_PAGES)
            self._page, self._heard = page, self.clock()

    def leave(self, page: str) -> None:
        """A page is closed."""
        with self._lock:
            if page == self._page:
                self._page = ""

    def serve(self, port: int, browser: bool, opened: Callable[[str], None]) -> None:
        """Serve the page until Ctrl-C.

        Args:
            port: 0 for any that is free.
            browser: whether to open the page in the user's browser.
            opened: called with the address.

        Raises:
            ConfigError: the port is taken.
        """
        import uvicorn

        token, listening = secrets.token_urlsafe(16), _listening(port)
        address = f"http://{HOST}:{listening.getsockname()[1]}/?token={token}"
        config = uvicorn.Config(app_of(self, token), log_level="error", lifespan="off", server_header=False)
        opened(address)
        if browser:
            webbrowser.open(address)
        with suppress(KeyboardInterrupt):  # what the server makes of a signal when it has ended
            uvicorn.Server(config).run(sockets=[listening])

    @classmethod
    def require_server(cls) -> None:
        """Raise the CapabilityError of a machine without starlette or uvicorn."""
        for package in ("starlette", "uvicorn"):
            need_package(f"`{cls.command}`", package, "labels")


class DecisionFile:
    """A file of decisions, of which this process is the only one to write.

    Args:
        path: the file; one that is there is gone on with.

    Raises:
        ConfigError: another process writes it. DataError: it cannot be read, or holds something else.
    """

    def __init__(self, path: Path):
        self.path, self._lock = path, threading.Lock()
        self._claim_file = path.with_name(f".{path.name}.at-work")
        try:
            self._claim = claimed(self._claim_file)
        except BlockingIOError:
            raise ConfigError(f"{path}: another page is writing to it; close it") from None
        except OSError as error:
            raise DataError.unwritable(path.parent, error) from error
        try:
            self._of_image = self._read()
        except BaseException:
            self.close()
            raise
        if self._of_image:
            keeps("decisions", path)

    def decisions(self) -> dict[str, dict[str, Any]]:
        """Image -> what was decided last, the latest decision last."""
        with self._lock:
            return dict(self._of_image)

    def add(self, image: str, decision: Mapping[str, Any]) -> None:
        """Decide of an image, in place of what was decided before; DataError where nothing can be written."""
        time = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._lock:
            self._append({IMAGE: image, **decision, "reviewer": user_name(), "time": time})

    def undo(self) -> str | None:
        """Withdraw the latest decision; returns of which image, None where there is none."""
        with self._lock:
            latest = next(reversed(self._of_image), None)
            if latest is not None:
                self._append({IMAGE: latest, WITHDRAWN: True})
            return latest

    def close(self) -> None:
        """Let others write the file."""
        self._claim_file.unlink(missing_ok=True)
        self._claim.close()

    def _append(self, row: dict[str, Any]) -> None:
        try:
            with self.path.open("ab") as file:
                file.write((json.dumps(row) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError.unwritable(self.path.parent, error) from error
        self._take(self._of_image, row)

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self.path.exists():
            return {}
        whole, _, cut = read_bytes(self.path).rpartition(b"\n")
        rows: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
            try:
                row = json_values(line.decode())
            except ValueError:
                row = None
            if not isinstance(row, dict) or not isinstance(row.get(IMAGE), str):
                raise DataError(f"{self.path} line {number}: not a decision ({shortened(line)}); correct or remove it")
            self._take(rows, row)
        if cut:
            with self.path.open("r+b") as file:
                file.truncate(len(whole) + 1 if whole else 0)
        return rows

    @staticmethod
    def _take(rows: dict[str, dict[str, Any]], row: dict[str, Any]) -> None:
        rows.pop(row[IMAGE], None)
        if not row.get(WITHDRAWN):
            rows[row[IMAGE]] = row


def app_of(desk: LocalPage, token: str):
    """The ASGI app of a page."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    page = WebPage(desk.folder, token)
    secured = page.headers

    def guarded(endpoint: Callable[[Request, dict[str, Any]], Response]):
        async def answered(request: Request) -> Response:
            from starlette.concurrency import run_in_threadpool

            given = request.headers.get("x-token") or request.query_params.get("token") or ""
            if not hmac.compare_digest(given.encode(), token.encode()):
                return PlainTextResponse(NO_TOKEN, 403, secured)
            try:
                body = await _body(request, desk.most_body) if request.method == "POST" else {}
                response = await run_in_threadpool(endpoint, request, body)
            except VladaptError as error:
                response = JSONResponse({"error": str(error)}, 409 if str(error) == TWO_PAGES else 400)
            response.headers.update(secured)
            return response

        return answered

    def part(request: Request, body: dict[str, Any]) -> Response:
        text, kind = page.file(request.url.path)
        return Response(text, media_type=kind)

    def got(made: Callable[..., Any]):
        def endpoint(request: Request, body: dict[str, Any]) -> Response:
            answer = made(**request.path_params)
            return Response(*_encoded(answer)) if isinstance(answer, np.ndarray) else JSONResponse(answer)

        return endpoint

    def heard(answered: Callable[[dict[str, Any]], Mapping[str, Any]]):
        """What an open page asks for, which is heard of by it."""

        def endpoint(request: Request, body: dict[str, Any]) -> Response:
            desk.hear(body["page"])
            return JSONResponse(answered(body))

        return endpoint

    def leave(request: Request, body: dict[str, Any]) -> Response:
        desk.leave(body["page"])
        return JSONResponse({})

    gets = {**dict.fromkeys(FILES, part), **{path: got(made) for path, made in desk.gets().items()}}
    posts = {path: heard(answered) for path, answered in {"/here": lambda body: {}, **desk.posts()}.items()}
    posts["/leave"] = leave
    routes = [Route(path, guarded(endpoint), methods=["GET"]) for path, endpoint in gets.items()]
    routes += [Route(path, guarded(endpoint), methods=["POST"]) for path, endpoint in posts.items()]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    return Starlette(routes=routes, middleware=[hosts])


async def _body(request: Any, most: int) -> dict[str, Any]:
    """The JSON object of a request, which names its page.

    Raises:
        ConfigError: it is none.
    """
    from .reading import json_values

    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise ConfigError("the request is too large")
    try:
        body = json_values(content.decode())
    except ValueError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("page"), str):
        raise ConfigError("the request is not an object that names its page")
    return body


def _encoded(still: np.ndarray) -> tuple[bytes, int, dict[str, str], str]:
    """Content, status, headers and type of a response: small pictures lossless, large ones as JPEG."""
    picture, buffer = Image.fromarray(still), io.BytesIO()
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    if picture.width * picture.height <= LOSSLESS_PIXELS:
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue(), 200, {}, "image/png"
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue(), 200, {}, "image/jpeg"


def _listening(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.bind((HOST, port))
        listening.listen()  # a browser that comes before the server is ready waits
    except OSError as error:
        listening.close()
        raise ConfigError(f"--port {port}: cannot be used ({error.strerror}); omit it for one that is free") from error
    return listening


def user_name() -> str:
    """Of the user on this machine."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name
        return ""
