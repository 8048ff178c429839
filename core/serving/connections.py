"""What a connection may take before there is a request that can be asked for its token: bytes, seconds and a place.

The parser, httptools, has no limits of its own: one header of 64 MB made it copy for seconds. The other of uvicorn's,
h11, limits headers, but a body of 64 MB in chunks of one byte kept it busy for 60 s, where httptools needs one.
"""

from __future__ import annotations

import json
import time
from asyncio import TimerHandle, Transport
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .uploads import Limits

READ_BYTES = 1 << 12
"""What is parsed before bytes are counted again."""
HEADERS = 100
"""Most of a request, its trailers among them."""
PIPELINED = 8
"""Most requests that a client sends without waiting for answers."""
DRAIN_S = 0.1
"""How long nothing is read between two parts of a body whose request is answered already, as by a 401: a client that
first sends all gets its answer, and one that sends without end keeps nobody else waiting."""
GRACE_S = 5.0
"""How much longer than the app, which says why, a connection waits for a request that does not arrive."""


class Connection(HttpToolsProtocol):
    """A connection that is closed where its client keeps the server waiting.

    Args:
        limits: of these `head_bytes`, `head_seconds`, `seconds` and `connections`.
    """

    def __init__(self, *args: Any, limits: Limits, **named: Any):
        super().__init__(*args, **named)
        self._limits = limits
        self._opened = time.monotonic()
        self._overhead = 0  # bytes of requests not yet answered, beyond twice those of their bodies
        self._arriving: TimerHandle | None = None  # while a request is awaited, or not yet whole
        self._leaving: TimerHandle | None = None  # while the client does not take its answer

    def connection_made(self, transport: Transport) -> None:
        """Take it in; beyond the limit in place of the oldest for which nothing is being done."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)
        self._await_request(self._limits.head_seconds)
        if len(self.connections) > self._limits.connections:
            oldest = min((each for each in self.connections if each.idle), key=lambda each: each._opened)
            self.connections.discard(oldest)
            oldest.transport.abort()

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._arriving, self._leaving)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, as long as what is no body stays small: a header, a trailer, the frames of chunks."""
        if self._arriving is None and self.idle:
            self._await_request(self._limits.head_seconds)
        for start in range(0, len(data), READ_BYTES):
            part = data[start : start + READ_BYTES]
            self._overhead += len(part)
            super().data_received(part)
            if self.transport.is_closing():
                return
            if self._overhead > self._limits.head_bytes:
                return self._refuse(431, f"more than {self._limits.head_bytes:,} bytes of headers; send fewer")
        if self.idle and self.cycle and self.cycle.more_body:
            self.flow.pause_reading()
            self.loop.call_later(DRAIN_S, self.flow.resume_reading)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no HTTP request")

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= HEADERS:
            raise ValueError  # which the parser makes an error of its own, as below
        super().on_header(name, value)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED:
            raise ValueError
        if self._arriving is None:
            self._await_request(self._limits.head_seconds)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._await_request(self._limits.seconds + GRACE_S)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._overhead = max(0, self._overhead - 2 * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stop(self._arriving)
        self._arriving = None
        if self.idle:  # answered before it was whole
            self._await_request(self._limits.head_seconds)

    def on_response_complete(self) -> None:
        self._overhead = 0
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Called while any byte waits for the client."""
        super().pause_writing()
        self._leaving = self.loop.call_later(self._limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop(self._leaving)

    def _await_request(self, seconds: float) -> None:
        self._stop(self._arriving)
        self._arriving = self.loop.call_later(seconds, self._refuse, 408, f"no request within {seconds:g} seconds")

    def _refuse(self, status: int, line: str) -> None:
        """Close, with a reason where no other answer is under way."""
        if not self.idle:
            return self.transport.abort()
        content = json.dumps({"error": line}).encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        self.transport.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
        self.transport.close()

    @staticmethod
    def _stop(*timers: TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()
