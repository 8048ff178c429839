"""What a client without a token can make a server do: little. Each test speaks bytes over a socket of this machine."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import contextmanager
from functools import partial

import pytest

pytest.importorskip("uvicorn", reason="extra serve is not installed")
pytest.importorskip("httptools", reason="extra serve is not installed")
import uvicorn
from browser import until

from vladapt.core.serving.connections import Connection
from vladapt.core.serving.uploads import Limits

PATIENCE = 120.0
HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
GET = HEAD + b"\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMALL = Limits(head_bytes=2000)
FAST = Limits(head_seconds=0.2)
QUICK = Limits(head_seconds=2, seconds=0.1)
"""Enough for a request to come on a busy machine."""


@contextmanager
def answering(limits: Limits, app=None):
    """A server with these limits: connect() -> a socket, and the connections that it has."""

    async def plain(scope, receive, send):
        """Answers /health at once, anything else with 401 before its body is read."""
        code = 200 if scope["path"] == "/health" else 401
        await send({"type": "http.response.start", "status": code, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    how = {"http": partial(Connection, limits=limits), "lifespan": "off", "log_level": "critical", "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(app or plain, timeout_graceful_shutdown=1, **how))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started)
            yield partial(socket.create_connection, listening.getsockname(), PATIENCE), server.server_state.connections
        finally:
            server.should_exit = True
            thread.join()


def answer(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    read = b""
    try:
        while part := client.recv(1 << 16):
            read += part
    except ConnectionResetError:
        pass
    return read


def closed(connect, *sent: bytes) -> bytes:
    """What a server sends until it closes by itself, to a client that sends on and never closes."""
    with connect() as client:
        try:
            for part in sent:
                client.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer(client)


def status(client: socket.socket) -> int:
    """Of one answer, which is read to its end."""
    with http.client.HTTPResponse(client) as response:
        response.begin()
        response.read()
        return response.status


def healthy(connect) -> bool:
    with connect() as client:
        client.sendall(GET)
        return status(client) == 200


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(HEAD + b"X: " + b"a" * 2500, id="one header"),
        pytest.param(b"GET /" + b"a" * 2500, id="an address"),
        pytest.param(b"\r\n" * 1300, id="empty lines"),
    ],
)
def test_what_is_no_request_is_taken_up_to_a_number_of_bytes(sent):
    with answering(SMALL) as (connect, _):
        head, _, body = closed(connect, sent).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert json.loads(body) == {"error": "more than 2,000 bytes of headers; send fewer"}
        assert healthy(connect)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"1\r\na\r\n" * 1000, id="chunks of one byte"),
        pytest.param(b"1;" + b"a" * 2500, id="an extension of a chunk"),
        pytest.param(b"0\r\n" + b"X: a\r\n" * 101, id="trailers"),
        pytest.param(b"0\r\nX: " + b"a" * 2500, id="one trailer"),
    ],
)
def test_bodies_hold_little_but_their_bytes(sent):
    async def waiting(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    with answering(SMALL, waiting) as (connect, _):
        assert closed(connect, CHUNKED, sent) == b""  # while it is being answered nothing else is said


@pytest.mark.parametrize("sent", [HEAD + b"X: a\r\n" * 101, b"GET\r\n\r\n"])
def test_what_is_no_request_is_told_in_one_line(sent):
    with answering(Limits()) as (connect, _):
        read = closed(connect, sent)
        assert b"HTTP/1.1 400 Bad Request\r\n" in read and read.endswith(b'{"error": "this is no HTTP request"}')
        assert healthy(connect)


def test_few_requests_are_taken_before_the_first_is_answered():
    async def holding(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    with answering(Limits(), holding) as (connect, _):
        assert closed(connect, GET * 10) == b""
    with answering(Limits()) as (connect, _), connect() as client:
        client.sendall(GET * 9)
        until(lambda: client.recv(1 << 16, socket.MSG_PEEK).count(b"HTTP/1.1 200") == 9)


def test_a_body_is_read_slowly_once_it_is_answered(monkeypatch):
    monkeypatch.setattr("vladapt.core.serving.connections.DRAIN_S", 600)
    with answering(Limits()) as (connect, _), connect() as client:
        client.sendall(POST + b"Content-Length: 500000000\r\n\r\n")
        assert status(client) == 401
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(64 << 20))


def test_large_bodies_and_many_requests_of_one_connection_are_no_headers():
    with answering(SMALL) as (connect, _), connect() as client:
        for _ in range(3):
            client.sendall(POST + b"Content-Length: 300000\r\n\r\n" + b"a" * 300_000)
            assert status(client) == 401
        client.sendall(CHUNKED + b"8\r\naaaaaaaa\r\n" * 5000 + b"0\r\n\r\n")
        assert status(client) == 401
        for _ in range(100):
            client.sendall(GET)
            assert status(client) == 200


@pytest.mark.parametrize("sent", [b"", b"GET /hea", HEAD + b"X: a", HEAD + b"X: a\r\n"])
def test_half_a_request_is_closed(sent):
    with answering(FAST) as (connect, connections):
        assert closed(connect, sent).endswith(b'{"error": "no request within 0.2 seconds"}')
        until(lambda: not connections)


def test_a_request_that_trickles_is_closed():
    with answering(FAST) as (connect, _connections), connect() as client:
        stop = threading.Event()

        def trickle():
            client.sendall(HEAD)
            while not stop.wait(0.02):
                try:
                    client.sendall(b"X: a\r\n")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert b" 408 " in answer(client)
        finally:
            stop.set()
            thread.join()


def test_the_next_request_of_a_connection_has_to_arrive_too():
    with answering(QUICK) as (connect, _), connect() as client:
        client.sendall(GET + b"GET /h")
        read = answer(client)
        assert read.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in read


def test_a_body_that_does_not_come_after_its_answer_is_closed(monkeypatch):
    monkeypatch.setattr("vladapt.core.serving.connections.GRACE_S", 0.1)
    with answering(QUICK) as (connect, connections):
        read = closed(connect, POST + b"Content-Length: 100\r\n\r\nabc")
        assert read.startswith(b"HTTP/1.1 401") and b"HTTP/1.1 408" in read
        with connect() as client:
            client.sendall(POST + b"Content-Length: 3\r\n\r\n")
            assert status(client) == 401
            client.sendall(b"abc")  # whole now, and the next one has to come
            assert b" 408 " in answer(client)
        until(lambda: not connections)


def test_a_client_that_takes_no_answer_is_closed():
    async def large(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": b"a" * (1 << 20), "more_body": True})

    with answering(QUICK, large) as (connect, connections), connect() as client:
        client.sendall(GET)
        until(lambda: connections)
        until(lambda: not connections)


def test_beyond_the_limit_the_oldest_waiting_connection_makes_room():
    with answering(Limits(connections=3)) as (connect, connections):
        silent = [connect() for _ in range(5)]
        until(lambda: len(connections) == 3)
        assert answer(silent[0]) == b"" and answer(silent[1]) == b""
        assert healthy(connect)
        for client in silent:
            client.close()


def test_a_connection_that_is_being_answered_keeps_its_place():
    async def patient(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with answering(Limits(connections=2), patient) as (connect, connections), connect() as busy, connect() as other:
        for client in (busy, other):
            client.sendall(POST + b"Content-Length: 4\r\n\r\nab")
        until(lambda: sum(not each.idle for each in set(connections)) == 2)
        assert closed(connect, GET) == b""
        for client in (busy, other):
            client.sendall(b"cd")
            assert status(client) == 200
