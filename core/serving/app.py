"""What a server answers: predictions, whether it is well, what it counts, and a page to drop pictures on.

Every failure is `{"error": "one line"}`: 400 a wrong request, 401 no token, 403 another site's page, 408 too slow, 413
too large, 415 no form, 422 no image that can be read, 500 a fault of the model, 503 too much at once, with Retry-After.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..contracts.serving import NoneReadable, Refused, Wishes
from ..errors import ConfigError, LimitError, VladaptError, as_message, did_you_mean, shortened
from ..runtime.web_page import DRAWING, FILES, WebPage
from .desk import Busy, Desk
from .uploads import NoForm, TooSlow

NO_TOKEN = (
    "a token is needed: the header 'Authorization: Bearer TOKEN', or ?token=TOKEN at the end of the page's address"
)
OTHER_SITE = "requests from pages of other sites are refused"
OTHER_HOST = "this server answers only to the names of its own machine"
BUSY = "too many images are waiting; try again"
RETRY_S = 1
OWN_SITE = ("same-origin", "none")
FAILED = "the model failed on this request ({}); the server's log says where"


@dataclass(frozen=True)
class Access:
    """Who is answered.

    Args:
        token: that every request but those for /health needs; "" for none.
        loopback: whether only this machine reaches the server: names of other hosts are then refused.
    """

    token: str = ""
    loopback: bool = True


def build_app(desk: Desk, access: Access) -> Any:
    """The ASGI app."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    page = WebPage(Path(__file__).with_name("page"), access.token, images="'self' blob:")
    secured = page.headers

    def error(line: str, status: int, **headers: str) -> Response:
        return JSONResponse({"error": as_message(line)}, status, {**secured, **headers})

    def guarded(endpoint: Callable[[Request], Awaitable[Response]]):
        async def answered(request: Request) -> Response:
            if access.loopback and not _names_this_machine(request.headers.get("host", "")):
                return error(OTHER_HOST, 400)
            if access.token and not _knows(request, access.token):
                return error(NO_TOKEN, 401, **{"WWW-Authenticate": "Bearer"})
            response = await endpoint(request)
            response.headers.update(secured)
            return response

        return answered

    async def predict(request: Request) -> Response:
        started = time.perf_counter()
        response = await answer(request)
        desk.metrics.requests.labels(str(response.status_code)).inc()
        desk.metrics.seconds.observe(time.perf_counter() - started)
        return response

    async def answer(request: Request) -> Response:
        if request.headers.get("sec-fetch-site", "none") not in OWN_SITE:
            return error(OTHER_SITE, 403)
        try:
            content = await desk.predict(request, wishes_of(request.query_params, desk.model.facts.options))
            return Response(json.dumps(content, allow_nan=False), media_type="application/json")
        except Busy:
            return error(BUSY, 503, **{"Retry-After": str(RETRY_S)})
        except TooSlow:
            return error(f"the request did not arrive within {desk.limits.seconds:g} seconds", 408)
        except NoForm:
            return error("send pictures as multipart/form-data", 415)
        except NoneReadable as failure:
            return error(str(failure), _status_of(failure.skipped))
        except ConfigError as failure:
            return error(str(failure), 400)
        except VladaptError as failure:
            return error(str(failure), 413 if isinstance(failure, LimitError) else 422)
        except ClientDisconnect:
            return error("the client is gone", 400)
        except Exception as failure:
            desk.tell(failure)
            return error(FAILED.format(type(failure).__name__), 500)

    async def part(request: Request) -> Response:
        text, kind = page.file(request.url.path)
        return Response(text, media_type=kind)

    async def model(request: Request) -> Response:
        return JSONResponse({"run": desk.model.name, **vars(desk.model.facts)})

    async def metrics(request: Request) -> Response:
        text, kind = await run_in_threadpool(desk.metrics.text)
        return Response(text, headers={"Content-Type": kind})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers=secured)

    async def refused(request: Request, failure: HTTPException) -> Response:
        return error(f"{request.method} here: {failure.detail}", failure.status_code)

    @asynccontextmanager
    async def lifespan(app: Starlette):
        desk.open()
        yield
        await run_in_threadpool(desk.close)

    gets = {**dict.fromkeys((*FILES, *DRAWING), part), "/model": model, "/metrics": metrics}
    routes = [Route(path, guarded(endpoint), methods=["GET"]) for path, endpoint in gets.items()]
    routes += [Route("/predict", guarded(predict), methods=["POST"]), Route("/health", health, methods=["GET"])]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: refused})


def _names(text: str) -> tuple[str, ...]:
    """Of "cat, dog"; never those of a file."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _shown(text: str) -> list[Any]:
    """Of '[{"box": [0, 0, 9, 9]}]'."""
    try:
        shown = json.loads(text)
    except RecursionError:
        shown = None
    if not isinstance(shown, list):
        raise ValueError
    return shown


WISHES: dict[str, Callable[[str], Any]] = {
    "top": int,
    "threshold": float,
    "coverage": float,
    "set_method": str,
    "max_error": float,
}
WISHES |= {"coverage_per": str, "per_patient": str, "nearest": int, "score": float, "classes": _names}
WISHES |= {"prompts": _shown}
"""Option of /predict -> what its text stands for."""


def wishes_of(query: Any, options: Sequence[str]) -> Wishes:
    """Wishes of an address, as in /predict?coverage=0.9&top=5.

    Args:
        options: names of those that the model takes, for messages.

    Raises:
        ConfigError: an unknown one, one twice, or a value that is no number.
    """
    given: dict[str, Any] = {}
    for name, text in query.multi_items():
        if name == "token":
            continue
        if name not in WISHES:
            raise ConfigError(f"'{shortened(name)}' is not an option of /predict; {did_you_mean(name, options)}")
        if name in given:
            raise ConfigError(f"{name}: occurs twice in the address; give it once")
        try:
            given[name] = WISHES[name](text)
        except ValueError:
            given[name] = math.nan
        if isinstance(given[name], float) and not math.isfinite(given[name]):
            wanted = 'a list as JSON, [{"box": [x0, y0, x1, y1]}]' if name == "prompts" else "a number"
            raise ConfigError(f"{name}={shortened(text)}: give {wanted}")
    return Wishes(**given)


def _knows(request: Any, token: str) -> bool:
    """Whether a request has the token: as a header of programs, or in the address of a page."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    given = given.strip() if kind.lower() == "bearer" else request.query_params.get("token", "")
    return hmac.compare_digest(given.encode(), token.encode())


def _names_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _status_of(skipped: Sequence[Refused]) -> int:
    """Of a request of which nothing could be answered."""
    if any(each.our_fault for each in skipped):
        return 500
    return 413 if all(each.too_large for each in skipped) else 422
