"""What `vladapt serve` still answers while clients without its token flood it.

    python benchmarks/serving_floods.py MODEL [--clients 100] [--mb 64] [--floods NAME ...]

MODEL is a run or an export. In each flood so many clients, in a process of their own, connect at once; each sends
bytes until it has sent them all or the server closes, and those that send half a request then wait for that. Meanwhile
/health is asked 50 times a second, each time by a new connection. Prints the table of docs/measurements/serving.md: the
slowest answer of /health, how long the flood lasted, and the server's largest resident memory so far.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from socket import create_connection
from urllib.parse import urlsplit

from serving import served

GET, POST = (f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() for line in ("GET /health", "POST /predict"))
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
FLOODS = {
    "nothing": (b"", b""),
    "one header": (GET + b"X: ", b"a"),
    "many headers": (GET, b"X: a\r\n"),
    "an address": (b"GET /", b"a"),
    "chunks of one byte": (CHUNKED, b"1\r\na\r\n"),
    "one trailer": (CHUNKED + b"0\r\nX: ", b"a"),
    "a body without a token": (POST + b"Content-Length: 9999999999\r\n\r\n", b"a"),
    "requests whose answers are not read": (b"", GET + b"\r\n"),
    "half a request": (GET, b""),
}
"""Name -> how it begins, and what is repeated."""
PATIENCE_S = 60.0
PAUSE_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--mb", type=int, default=64, help="of a client")
    parser.add_argument("--floods", nargs="+", choices=FLOODS, default=FLOODS, metavar="NAME", help="by default all")
    parser.add_argument("--as-clients", nargs=2, metavar=("FLOOD", "ADDRESS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_clients:
        return flood(*given.as_clients, given.clients, given.mb)
    os.environ["VLADAPT_TOKEN"] = "of-the-benchmark"
    print(
        f"| {given.clients} clients send | slowest `/health`, ms | seconds | memory, MB |\n| --- | ---: | ---: | ---: |"
    )
    with served(given) as (address, server):
        for name in given.floods:
            command = [sys.executable, __file__, given.model, "--clients", given.clients, "--mb", given.mb]
            began = time.perf_counter()
            clients = subprocess.Popen([*map(str, command), "--as-clients", name, address])
            slowest = 0.0
            while clients.poll() is None:
                slowest = max(slowest, asked(address))
                time.sleep(PAUSE_S)
            seconds, peak = time.perf_counter() - began, peak_mb(server.pid)
            print(f"| {name} | {1000 * slowest:,.0f} | {seconds:.0f} | {peak:,.0f} |", flush=True)


def asked(address: str) -> float:
    """Seconds of an answer of /health."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"{address}health", timeout=900):
        return time.perf_counter() - began


def peak_mb(process: int) -> float:
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())[1]) / 1000


def flood(name: str, address: str, clients: int, mb: int) -> None:
    place = urlsplit(address)

    def one() -> None:
        with suppress(OSError), create_connection((place.hostname, place.port), PATIENCE_S) as client:
            for part in parts(*FLOODS[name], mb):
                client.sendall(part)
            if name == "half a request":
                client.recv(1)

    threads = [threading.Thread(target=one) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def parts(begin: bytes, repeated: bytes, mb: int) -> Iterator[bytes]:
    yield begin
    if repeated:
        yield from [repeated * ((1 << 20) // len(repeated))] * mb


if __name__ == "__main__":
    main()
