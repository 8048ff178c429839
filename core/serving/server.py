"""Processes that answer at one address: a socket, one worker or several, and how they end."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..contracts.serving import Served, Serving
from ..errors import ConfigError, VladaptError, as_message
from ..runtime.process import cores, need_package
from .uploads import Limits

TOKEN_VARIABLE = "VLADAPT_TOKEN"
TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
"""What needs no escape in an address."""
PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "multipart": "python-multipart"}
PACKAGES |= {"httptools": "httptools", "prometheus_client": "prometheus-client"}
"""Module -> the package that brings it."""
DRAIN_S = 30
"""How long a server that ends waits for what it has, uploads under way among it."""
STARTING_S = 60
"""How long a worker may be deaf, as while it loads its model, before it is taken for hung."""
BACKLOG = 2048
FAREWELL_S = 1.0
CANNOT_START = 3
"""Exit code of a worker after which the supervisor does not start it again."""


@dataclass(frozen=True)
class ServerSettings:
    """Of a server.

    Args:
        load: gives the model, in each worker; picklable.
        serving: how the model is loaded.
        token: that requests need; "" for none.
        loopback: whether only this machine reaches it.
        workers: processes.
        batch: samples at once; None to measure it.
        limits: of what is taken.
        address: for messages.
    """

    load: Callable[[Serving], Served]
    serving: Serving
    token: str = ""
    loopback: bool = True
    workers: int = 1
    batch: int | None = None
    limits: Limits = field(default_factory=Limits)
    address: str = ""


def check_token(host: str, token: str | None) -> tuple[str, bool]:
    """The token, and whether only this machine reaches the host.

    Raises:
        ConfigError: no such host, one that others reach without a token, or a token that an address cannot hold.
    """
    token, flag = (os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE) if token is None else (token, "--token")
    if token is not None and not TOKEN.fullmatch(token):
        raise ConfigError(f"{flag}: may hold only letters, digits and . _ ~ -, and at least one of them")
    try:
        addresses = {each[4][0].partition("%")[0] for each in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {host}: no such host ({getattr(error, 'strerror', error)}); give an address of this machine"
        ) from None
    loopback = all(ipaddress.ip_address(each).is_loopback for each in addresses)
    if not loopback and token is None:
        raise ConfigError(
            f"--host {host}: other machines can reach it, so give --token, or {TOKEN_VARIABLE} in the environment"
        )
    return token or "", loopback


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; what connects before there is an answer waits.

    Raises:
        ConfigError: the port is taken, or the address is not this machine's.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        if os.name != "nt":  # there it would share the port with another program
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise ConfigError(
            f"--host {host} --port {port}: cannot be used ({error.strerror}); give another --port, 0 for any"
        ) from None
    made.set_inheritable(True)
    return made


def require_server() -> None:
    """Raise the CapabilityError of a machine without the packages of the extra."""
    for module, package in PACKAGES.items():
        need_package("`vladapt serve`", module, "serve", package)


def serve_socket(settings: ServerSettings, made: socket.socket, told: Callable[[str], None]) -> None:
    """Serve at a socket until SIGTERM or Ctrl-C, and finish what was taken in.

    Args:
        told: called with lines for the user.

    Raises:
        VladaptError: the model cannot be loaded.
    """
    from uvicorn import Config, Server

    from .connections import Connection

    with tempfile.TemporaryDirectory(prefix="vladapt-serve-", ignore_cleanup_errors=True) as place:
        worker = Worker(settings, Path(place), os.getpid())
        worker.make_folders()
        how: dict[str, Any] = {"log_level": "critical", "access_log": False, "server_header": False, "backlog": BACKLOG}
        how |= {"timeout_graceful_shutdown": DRAIN_S, "ws": "none", "factory": True}
        how["http"] = partial(Connection, limits=settings.limits)
        try:
            if settings.workers == 1:
                app = worker.app(told)
                Server(Config(lambda: app, **how)).run(sockets=[made])
            else:
                _run_workers(Config(worker, workers=settings.workers, **how), made)
        except KeyboardInterrupt:  # what the server makes of a signal when it has ended
            pass
        finally:
            made.close()


def _run_workers(config: Any, made: socket.socket) -> None:
    from uvicorn.supervisors import Multiprocess

    if hasattr(config, "timeout_worker_healthcheck"):
        config.timeout_worker_healthcheck = STARTING_S
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    workers = Multiprocess(config, [made])
    try:
        workers.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if any(process.exitcode == CANNOT_START for process in workers.processes):
        raise VladaptError("")


@dataclass(frozen=True)
class Worker:
    """What makes the app of a process; called in processes that the server starts.

    Args:
        settings: of the server.
        place: a folder of the server, for its processes.
        parent: the process that started it.
    """

    settings: ServerSettings
    place: Path
    parent: int

    @property
    def uploads(self) -> Path:
        return self.place / "uploads"

    @property
    def counts(self) -> Path:
        return self.place / "metrics"

    def make_folders(self) -> None:
        """Folders that all processes share."""
        self.uploads.mkdir(mode=0o700)
        self.counts.mkdir(mode=0o700)

    def __call__(self) -> Any:
        from .metrics import FOLDER

        os.environ[FOLDER] = str(self.counts)  # before the library is imported
        share = max(1, cores() // self.settings.workers)
        worker = replace(self, settings=replace(self.settings, serving=replace(self.settings.serving, threads=share)))
        try:
            app = worker.app(_print)
        except VladaptError as error:
            with suppress(FileExistsError):  # one of the workers tells it
                (self.place / "failed").touch(exist_ok=False)
                _print(f"vladapt: {as_message(str(error))}")
            time.sleep(FAREWELL_S)  # the supervisor's last question is answered, or it would wait for that
            os._exit(CANNOT_START)
        return _ending_with(app, self.parent)

    def app(self, told: Callable[[str], None]) -> Any:
        """The app with its model loaded and warm."""
        from .app import Access, build_app
        from .batching import best_batch
        from .desk import Desk

        settings = self.settings
        model = settings.load(settings.serving)
        most = settings.batch or best_batch(model)
        threads = settings.serving.threads or cores()
        desk = Desk(model, most, settings.limits, self.uploads, threads, told)
        workers = f" (process {os.getpid()})" if settings.workers > 1 else ""
        told(f"Serving {model.name} at {settings.address}, in batches of up to {most}{workers}")
        return build_app(desk, Access(settings.token, settings.loopback))


def _print(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _ending_with(app: Any, parent: int) -> Any:
    """The app of a process that ends when the one that started it is gone."""

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        watching = asyncio.create_task(_watch(parent))
        try:
            await app(scope, receive, send)
        finally:
            watching.cancel()

    return watched


async def _watch(parent: int) -> None:
    while os.getppid() == parent:
        await asyncio.sleep(1)
    signal.raise_signal(signal.SIGTERM)
