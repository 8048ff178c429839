"""The page on which images are labelled: a server on this machine alone, which asks nothing of the network.

Every address needs the token that the command printed, so that no other page in the browser, and no other user of the
machine, can read or write; names of other hosts are refused.
"""

from __future__ import annotations

import getpass
import hmac
import io
import secrets
import socket
import threading
import time
import webbrowser
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..contracts.domain import Domain
from ..contracts.items import DomainData
from ..data.label_files import read_source, read_todo
from ..errors import ConfigError, DataError, VladaptError
from ..registry import load_domain
from ..runtime.process import need_package
from ..runtime.web_page import FILES, WebPage
from .answer_file import AnswerFile

HOST = "127.0.0.1"
NO_TOKEN = "Open the address that vladapt label printed: it ends with a token."
TWO_PAGES = "This file is being labelled in another page: close that one, then reload this one."
GONE_AFTER_S = 6.0
"""After which a page that is not heard of is taken for closed."""
LOSSLESS_PIXELS, LARGEST_SIDE = 1_000_000, 4096
KEPT_STILLS = 8
MOST_BODY = 1 << 16


class Labelling:
    """A list of images, their pictures, and the file of answers.

    Args:
        answers: the file.
        data: the images, among others.
        domain: whose they are.
        clock: seconds, for what pages are open.
    """

    def __init__(
        self, answers: AnswerFile, data: DomainData, domain: Domain, clock: Callable[[], float] = time.monotonic
    ):
        self.answers, self.domain, self.load, self.clock = answers, domain, data.load, clock
        by_id = {item.id: item for item in data.items}
        if gone := next((row.id for row in answers.todo if row.id not in by_id), None):
            raise DataError(f"image '{gone}' is no longer in the data; run vladapt select again")
        self.items = [by_id[row.id] for row in answers.todo]
        self._page, self._heard, self._lock = "", 0.0, threading.Lock()
        self._stills: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()

    def state(self) -> dict[str, Any]:
        """What a page needs to begin."""
        said = self.answers.answers()
        images = [{"labels": list(row.labels), "answer": row.answer} if row else NOTHING_SAID for row in said]
        return {"classes": list(self.answers.source.classes), "several": self.answers.several, "images": images}

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

    def guess(self, image: int) -> dict[str, Any]:
        """What the model, and the data, say of an image."""
        row = self.answers.todo[image]
        return {"guess": row.guess, "confidence": row.confidence, "given": row.given}

    def stills(self, image: int) -> dict[str, np.ndarray]:
        """The pictures of an image by name; the latest images' are kept.

        Raises:
            DataError: it cannot be decoded.
        """
        with self._lock:
            if image in self._stills:
                self._stills.move_to_end(image)
                return self._stills[image]
        made = self.domain.picture(self.items[image], self.load)
        with self._lock:
            self._stills[image] = made
            while len(self._stills) > KEPT_STILLS:
                self._stills.popitem(last=False)
        return made


NOTHING_SAID = {"labels": [], "answer": ""}


def open_labelling(
    todo: str | Path, out: str | Path, *, several: bool = False, labeller: str | None = None, root: str | None = None
) -> Labelling:
    """A table that `vladapt select` wrote, with its images and the file of answers, which is claimed.

    Raises:
        DataError, ConfigError: as `AnswerFile` and `read_source`; several labels for a set that has one per image.
    """
    rows, source = read_todo(todo)
    if several and source.labelled:
        raise ConfigError(f"--several: {todo} lists suspects of a set with one label per image; omit it")
    domain = load_domain(source.domain)
    reading = {} if root is None else {"root": root}
    data = read_source(Path(todo), source, domain, domain.check_task(source.task), reading)
    answers = AnswerFile(Path(out), rows, source, Path(todo), labeller or _user(), several)
    try:
        return Labelling(answers, data, domain)
    except BaseException:
        answers.close()
        raise


def serve(
    todo: str | Path,
    out: str | Path,
    *,
    several: bool = False,
    labeller: str | None = None,
    port: int = 0,
    root: str | None = None,
    browser: bool = False,
    opened: Callable[[str, int, int], None] = lambda address, images, done: None,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        todo, out, several, labeller, root: as of `open_labelling`.
        port: 0 for any that is free.
        browser: whether to open the page in the user's browser.
        opened: called with the address, and how many images there are and are done.

    Raises:
        As `open_labelling`. CapabilityError: the server is not installed. ConfigError: the port is taken.
    """
    require_server()
    import uvicorn

    labelling = open_labelling(todo, out, several=several, labeller=labeller, root=root)
    try:
        token = secrets.token_urlsafe(16)
        listening = _listening(port)
        address = f"http://{HOST}:{listening.getsockname()[1]}/?token={token}"
        config = uvicorn.Config(build_app(labelling, token), log_level="error", lifespan="off", server_header=False)
        done = sum(row is not None for row in labelling.answers.answers())
        opened(address, len(labelling.items), done)
        if browser:
            webbrowser.open(address)
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        labelling.answers.close()


def require_server() -> None:
    """Raise the CapabilityError of a machine without starlette or uvicorn."""
    for package in ("starlette", "uvicorn"):
        need_package("`vladapt label`", package, "labels")


def build_app(labelling: Labelling, token: str):
    """The ASGI app."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    page = WebPage(Path(__file__).with_name("page"), token)
    secured = page.headers

    def guarded(endpoint: Callable[[Request, dict[str, Any]], Response]):
        async def answered(request: Request) -> Response:
            from starlette.concurrency import run_in_threadpool

            given = request.headers.get("x-token") or request.query_params.get("token") or ""
            if not hmac.compare_digest(given.encode(), token.encode()):
                return PlainTextResponse(NO_TOKEN, 403, secured)
            try:
                body = await _body(request) if request.method == "POST" else {}
                response = await run_in_threadpool(endpoint, request, body)
            except VladaptError as error:
                response = JSONResponse({"error": str(error)}, 409 if str(error) == TWO_PAGES else 400)
            response.headers.update(secured)
            return response

        return answered

    def part(request: Request, body: dict[str, Any]) -> Response:
        text, kind = page.file(request.url.path)
        return Response(text, media_type=kind)

    def heard(answered: Callable[[dict[str, Any]], dict[str, Any]]):
        """What an open page asks for, which is heard of by it."""

        def endpoint(request: Request, body: dict[str, Any]) -> Response:
            labelling.hear(body["page"])
            return JSONResponse(answered(body))

        return endpoint

    def leave(request: Request, body: dict[str, Any]) -> Response:
        labelling.leave(body["page"])
        return JSONResponse({})

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        image, labels, said = (body.get(name) for name in ("image", "labels", "answer"))
        texts = isinstance(labels, list) and all(isinstance(name, str) for name in labels)
        if type(image) is not int or not texts or not isinstance(said, str):
            raise ConfigError("an answer has an image, labels and an answer")
        labelling.answers.answer(image, labels, said)
        return {}

    def image_of(request: Request) -> int:
        image = request.path_params["image"]
        if image >= len(labelling.items):
            raise ConfigError(f"image {image}: there are {len(labelling.items)}")
        return image

    def stills(request: Request, body: dict[str, Any]) -> Response:
        return JSONResponse({"names": list(labelling.stills(image_of(request)))})

    def still(request: Request, body: dict[str, Any]) -> Response:
        pictures, number = list(labelling.stills(image_of(request)).values()), request.path_params["number"]
        if number >= len(pictures):
            raise ConfigError(f"view {number}: there are {len(pictures)}")
        return Response(*_encoded(pictures[number]))

    def guess(request: Request, body: dict[str, Any]) -> Response:
        return JSONResponse(labelling.guess(image_of(request)))

    posts = {"/open": heard(lambda body: labelling.state()), "/here": heard(lambda body: {}), "/answer": heard(answer)}
    posts |= {"/undo": heard(lambda body: {"image": labelling.answers.undo()}), "/leave": leave}
    gets = {**dict.fromkeys(FILES, part), "/stills/{image:int}": stills}
    gets |= {"/still/{image:int}/{number:int}": still, "/guess/{image:int}": guess}
    routes = [Route(path, guarded(endpoint), methods=["GET"]) for path, endpoint in gets.items()]
    routes += [Route(path, guarded(endpoint), methods=["POST"]) for path, endpoint in posts.items()]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    return Starlette(routes=routes, middleware=[hosts])


async def _body(request: Any) -> dict[str, Any]:
    """The JSON object of a request, which names its page.

    Raises:
        ConfigError: it is none.
    """
    from ..runtime.reading import json_values

    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > MOST_BODY:
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


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name
        return ""
