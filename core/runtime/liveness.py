"""A process that dies, or fails alone in a training, ends the others that work with it, within a minute, with one line.

The others may wait for it in an exchange that never comes back: nccl waits for its timeout, which has to be long, since
the slowest process may still be decoding. So each process keeps a connection open to rank 0, over which nothing is sent
until someone leaves or fails: the system closes it when a process dies, however, and notices by itself when a machine
is gone. A process that is busy or stopped loses nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..errors import VladaptError

GRACE_S = 15.0
"""How long a process that has lost another has to end by itself, with what it was doing."""
WAIT_S = 3.0
"""An error of an exchange may come a little before the news of who died."""
CONNECT_S = 20.0
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Seconds, seconds and times, after which the system gives up a machine that does not answer."""
BYE, FAILED = b"bye\n", b"failed "
OF_PROCESSES = ("connection closed by peer", "gloo", "connection reset by peer", "nccl", "broken pipe")
"""What errors of an exchange with a dead process say."""


class _Links:
    """The connections between rank 0 and all others, watched by a thread.

    Args:
        rank: of this process.
        connections: rank 0's of all others by their rank; another's of rank 0.
    """

    def __init__(self, rank: int, connections: dict[int, socket.socket]):
        self.rank, self.connections = rank, connections
        self.lost: int | None = None
        self.failure: str | None = None
        self.known, self._left, self._told = threading.Event(), threading.Event(), threading.Lock()
        self._fails_too = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def left(self) -> bool:
        """Whether this process has said that it ends."""
        return self._left.is_set()

    def leave(self) -> None:
        """Say that the end of this process is no death. Where another has died, the time it has to end runs on."""
        if self.lost is not None:
            return
        self._left.set()
        for connection in self.connections.values():
            with suppress(OSError):
                connection.sendall(BYE)

    def begin(self) -> None:
        """A training begins, in which processes may fail alone."""
        self.failure = None
        self._fails_too.clear()

    def fail(self, line: str) -> None:
        """Tell the others, who may wait for this process where none can tell them, that it has failed."""
        self._fails_too.set()
        self._pass_on(FAILED + json.dumps(line).encode() + b"\n", but=self.rank)

    def tell(self) -> None:
        """Print the one line, on the lowest rank that lives, once."""
        if self.rank == (1 if self.lost == 0 else 0) and self._told.acquire(blocking=False):
            died = (
                f"rank {self.lost} has died (killed, out of memory, or its machine is gone), so all processes end; the "
                "same command with --resume continues from the last checkpoint"
            )
            print(f"vladapt: {self.failure or died}", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, connection in self.connections.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    news = _received(key.fileobj)
                    if self._left.is_set():
                        return
                    if news.startswith(FAILED):
                        self.failure = json.loads(news.removeprefix(FAILED))
                        self._pass_on(news, but=key.data)
                        self.known.set()
                        threading.Thread(target=self._end_unless_it_does, args=(self._fails_too,), daemon=True).start()
                        continue
                    selector.unregister(key.fileobj)
                    if not news.startswith(BYE) and self.failure is None:
                        return self._lose(int(news) if news else key.data)

    def _lose(self, rank: int) -> None:
        self.lost = rank
        self._pass_on(f"{rank}\n".encode(), but=rank)
        self.known.set()
        self._end_unless_it_does(self._left)

    def _pass_on(self, news: bytes, but: int) -> None:
        """From rank 0 to all others, from another to rank 0."""
        for other, connection in self.connections.items():
            if other != but and (self.rank == 0 or but == self.rank):
                with suppress(OSError):
                    connection.sendall(news)

    def _end_unless_it_does(self, ends: threading.Event) -> None:
        if ends.wait(GRACE_S) or self._left.is_set():
            return
        self.tell()
        os._exit(1)  # the main thread waits where no signal of Python's reaches it


_LINKS: list[_Links] = []


def watch(rank: int, world_size: int, share: Callable[[object], object]) -> None:
    """Begin to watch; to be called on all processes. Where no connection can be made, nothing is watched.

    Args:
        share: gives all processes what rank 0 gives.
    """
    server = _listening() if rank == 0 else None
    told = None if server is None else [server.getsockname()[1], secrets.token_hex(8)]
    offered = share(told)
    if offered is None:
        return
    if server is None:
        connection = _connected(rank, *offered)
        connections = {} if connection is None else {0: connection}
    else:
        connections = _accepted(server, world_size, offered[1])
    _LINKS[:] = [_Links(rank, connections)] if connections else []


def leave() -> None:
    """This process ends, or works on alone."""
    for links in _LINKS:
        links.leave()


@contextmanager
def failing_alone() -> Iterator[None]:
    """Inside, an error of this process alone is told to the others, who wait for it in steps that it does not do."""
    for links in _LINKS:
        links.begin()
    try:
        yield
    except Exception as error:
        if _LINKS and not getattr(error, "known_to_all_ranks", False) and not is_of_a_death(error):
            line = " ".join(str(error).split())
            ours = isinstance(error, VladaptError)
            _LINKS[0].fail(line if ours else f"rank {_LINKS[0].rank} failed: {type(error).__name__}: {line}")
            error.known_to_all_ranks = True
        raise


def is_of_a_death(error: BaseException | None = None) -> bool:
    """Whether a process has died or failed alone, of which an error may be what this one hears first."""
    if not _LINKS:
        return False
    links, in_exchange = _LINKS[0], any(part in str(error).lower() for part in OF_PROCESSES)
    if not links.left and in_exchange:
        links.known.wait(WAIT_S)
    return links.lost is not None or (in_exchange and links.failure is not None)


def told_of_a_death(error: BaseException) -> bool:
    """Whether an error comes of a process that died; the line is then printed."""
    if not is_of_a_death(error):
        return False
    _LINKS[0].tell()
    return True


def _listening() -> socket.socket | None:
    with suppress(OSError):
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
        return socket.create_server(("", 0), backlog=4096)
    return None


def _connected(rank: int, port: int, token: str) -> socket.socket | None:
    with suppress(OSError):
        connection = socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=CONNECT_S)
        _keep_alive(connection)
        connection.sendall(json.dumps([token, rank]).encode() + b"\n")
        return connection
    return None


def _accepted(server: socket.socket, world_size: int, token: str) -> dict[int, socket.socket]:
    """Connections of the others by rank; one that does not come in time is not watched."""
    connections: dict[int, socket.socket] = {}
    server.settimeout(CONNECT_S)
    with server, suppress(TimeoutError):
        while len(connections) < world_size - 1:
            connection, _ = server.accept()
            connection.settimeout(CONNECT_S)
            with suppress(OSError, ValueError):
                said, rank = json.loads(_line(connection))
                if said == token and isinstance(rank, int):
                    _keep_alive(connection)
                    connections[rank] = connection
    return connections


def _keep_alive(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        with suppress(AttributeError, OSError):  # not every system has them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _received(connection: socket.socket) -> bytes:
    """What came first: a line, or nothing where the other end is gone."""
    try:
        return _line(connection)
    except OSError:
        return b""


def _line(connection: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"\n") and (byte := connection.recv(1)):
        said += byte
    return said if said.endswith(b"\n") else b""
