"""How fast `vladapt serve` is compared with the bare model, whether its memory grows, and what a killed worker costs.

    python benchmarks/serving.py MODEL IMAGES [--requests 20000] [--rounds 5] [--workers 2]

MODEL is a run or an export, IMAGES a folder of pictures. The bare model reads the same files from the disk, decodes
them in as many threads as there are cores while it scores batches of the best size, and makes no rows. An export is
also compared with a bare starlette app, which does with a picture what predict.py does, one at a time, by a graph
opened as the server opens it, and has no limits, queue or counters. The load comes from a separate process: 32
connections, each sending one picture per request, and the next one when that is answered. All take turns, so that
other work disturbs each; of what they cost, CPU seconds are disturbed least. Prints the table of
docs/measurements/serving.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

CONNECTIONS = 32
BOUNDARY = b"vladapt-benchmark"
SUFFIXES = (".jpg", ".jpeg", ".png")
ROUND_S = 12.0
"""How long the bare model and the server have a turn, about."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--requests", type=int, default=20_000, help="requests of the memory test")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="workers of the test that kills one")
    parser.add_argument("--as-client", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--as-bare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--as-app", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_app:
        return bare_app(given.model)
    if given.as_client:
        return client(given.as_client, given.images)
    if given.as_bare:
        return bare(given.model, given.images)
    if (given.model / "predict.py").is_file():
        compare_apps(given)
    with part(given, "--as-bare") as of_bare, served(given) as (address, server), loading(given, address) as of_client:
        compare(of_bare, of_client, server, given.rounds)
        memory(of_client, address, given.requests)
    with served(given, given.workers) as (address, server), loading(given, address) as of_client:
        kill(of_client, address, server)


def compare_apps(given) -> None:
    """CPU seconds per request of the server and of a bare app on the same graph, in turns."""
    script = [sys.executable, __file__, given.model, given.images, "--as-app"]
    with (
        answering(script) as (plain, app),
        served(given) as (address, server),
        loading(given, plain) as of_plain,
        loading(given, address) as of_client,
    ):
        count = max(64, int(ROUND_S * 64 / max(ask(each, 64)["seconds"] for each in (of_plain, of_client))))
        costs = [
            (cpu_per_request(of_plain, app, count), cpu_per_request(of_client, server, count))
            for _ in range(given.rounds)
        ]
    bare, other = (1000 * median(column) for column in zip(*costs))
    print(f"| bare starlette app on the same graph, CPU ms per request | {bare:.1f} |")
    print(f"| served, CPU ms per request | {other:.1f} |")
    ratio = median(served / bare for bare, served in costs)
    print(f"| served / bare app, CPU per request (median of {given.rounds} turns) | {ratio:.2f} |", flush=True)


def cpu_per_request(client: subprocess.Popen, server: subprocess.Popen, count: int) -> float:
    before = cpu_seconds(server.pid)
    answer = ask(client, count)
    assert answer["statuses"] == {"200": count}, answer["statuses"]
    return (cpu_seconds(server.pid) - before) / count


def compare(of_bare, of_client, server: subprocess.Popen, rounds: int) -> None:
    """Throughput and CPU seconds per image of both, in turns."""
    size = ask(of_bare, 64)["batch"]
    rate = 256 / ask(of_bare, 256)["seconds"]
    ask(of_client, 256)
    count = max(64, int(rate * ROUND_S))
    ratios, costs, alone, together = [], [], [], []
    for _ in range(rounds):
        one = ask(of_bare, count)
        before = cpu_seconds(server.pid)
        other = ask(of_client, count)
        cpu = cpu_seconds(server.pid) - before
        assert other["statuses"] == {"200": count}, other["statuses"]
        alone.append(count / one["seconds"])
        together.append(other)
        ratios.append(one["seconds"] / other["seconds"])
        costs.append(one["cpu"] / cpu)
        print(f"  round: bare {alone[-1]:.1f} images/s, served {count / other['seconds']:.1f}", file=sys.stderr)
    print(f"| bare model, batches of {size}, images/s | {median(alone):.1f} |")
    answered = median(count / each["seconds"] for each in together)
    print(f"| served, {CONNECTIONS} connections, requests/s | {answered:.1f} |")
    print(f"| served / bare, throughput (median of {rounds} turns) | {median(ratios):.2f} |")
    print(f"| bare / served, CPU seconds per image | {median(costs):.2f} |")
    for name in ("p50", "p95"):
        print(f"| {name} of a request, ms | {1000 * median(each[name] for each in together):.0f} |", flush=True)


def memory(of_client, address: str, requests: int) -> None:
    """Resident memory before and after many requests."""
    known = [counted(address, "process_resident_memory_bytes")]
    for _ in range(4):
        answer = ask(of_client, requests // 4)
        assert answer["statuses"] == {"200": requests // 4}, answer["statuses"]
        known.append(counted(address, "process_resident_memory_bytes"))
        print(f"  {known[-1] / 1e6:.0f} MB", file=sys.stderr)
    shown = ", ".join(f"{each / 1e6:.0f}" for each in known)
    print(f"| resident memory before and after each quarter of {requests:,} requests, MB | {shown} |", flush=True)


def kill(of_client, address: str, server: subprocess.Popen) -> None:
    """A worker is killed while it answers."""
    ask(of_client, 64)
    before = workers_of(server.pid)
    of_client.stdin.write(b"600\n")
    of_client.stdin.flush()
    time.sleep(2)
    os.kill(before[0], signal.SIGKILL)
    answer = json.loads(of_client.stdout.readline())
    lost = sum(count for status, count in answer["statuses"].items() if status != "200")
    end = time.monotonic() + 120
    while len(workers_of(server.pid)) < len(before) or workers_of(server.pid) == before:
        assert time.monotonic() < end, "no new worker came"
        time.sleep(0.5)
    print(f"| requests lost of 600 when one of {len(before)} workers is killed with -9 | {lost} |", flush=True)


# processes ------------------------------------------------------------------------------------------------------------


def served(given, workers: int = 1):
    """The address of our server, and its process."""
    command = [sys.executable, "-m", "vladapt", "serve", given.model, "--port", "0", "--workers", workers, "--json"]
    return answering(command)


@contextmanager
def answering(command: list):
    """The address of a server, which it prints as JSON, and its process."""
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE)
    try:
        address = json.loads(server.stdout.readline())["address"]
        with urllib.request.urlopen(f"{address}health", timeout=900):
            pass
        yield address, server
    finally:
        server.terminate()
        server.wait(60)


@contextmanager
def part(given, *arguments: str):
    """This program as another process, which gets a number per line and answers with a line of JSON."""
    command = [sys.executable, __file__, given.model, given.images, *arguments]
    process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.stdin.close()
        process.kill()
        process.wait()


def loading(given, address: str):
    return part(given, "--as-client", address)


def ask(process: subprocess.Popen, count: int) -> dict:
    process.stdin.write(f"{count}\n".encode())
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def counted(address: str, name: str) -> float:
    """A value of /metrics."""
    with urllib.request.urlopen(f"{address}metrics", timeout=60) as response:
        return float(re.search(rf"^{name} (.+)$", response.read().decode(), re.M)[1])


def cpu_seconds(process: int) -> float:
    """Of all threads of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def workers_of(process: int) -> list[int]:
    """Processes that answer, of a server with several."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


# the bare model -------------------------------------------------------------------------------------------------------


def bare(model: Path, images: Path) -> None:
    """Answer files in batches: a number of images per line of stdin."""
    from vladapt.core.contracts.serving import Serving
    from vladapt.core.engine.serve import load_export, load_served
    from vladapt.core.export.folder import is_export
    from vladapt.core.serving.batching import best_batch

    ready = (load_export if is_export(model) else load_served)(model, Serving())
    size, cores = best_batch(ready), len(os.sched_getaffinity(0))
    paths = files_of(images)
    for line in sys.stdin:
        count = int(line)
        started, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(cores) as threads:

            def prepared(path: Path):
                (sample,), _ = ready.samples([path])
                ready.prepare(sample)
                return sample

            names = [paths[n % len(paths)] for n in range(count)]
            waiting = [threads.submit(prepared, name) for name in names[: 3 * size]]
            for start in range(0, count, size):
                batch = [future.result() for future in waiting[:size]]
                further = names[start + len(waiting) : start + len(waiting) + size]
                waiting = [*waiting[size:], *(threads.submit(prepared, name) for name in further)]
                ready.answer(batch)
        spent = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu, "batch": size}
        print(json.dumps(spent), flush=True)


# the bare app ---------------------------------------------------------------------------------------------------------


def bare_app(model: Path) -> None:
    """Answer with an export as its predict.py does, until SIGTERM."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from vladapt.core.export import standalone
    from vladapt.core.export.folder import PIXELS, Session

    facts = json.loads((model / "export.json").read_text(encoding="utf-8"))
    session = Session(model / facts["graphs"][PIXELS])

    def row_of(name: str, content: bytes) -> dict:
        outputs = session(pixels=standalone.pixels(standalone.decoded(BytesIO(content)), facts["preprocessing"]))
        return standalone.row_of(name, outputs["logits"][0], outputs.get("distance", [None])[0], facts)

    async def predict(request) -> JSONResponse:
        async with request.form() as form:
            file = form["file"]
            return JSONResponse(await run_in_threadpool(row_of, file.filename, await file.read()))

    async def health(request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    listening = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"address": f"http://127.0.0.1:{listening.getsockname()[1]}/"}), flush=True)
    app = Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/health", health)])
    uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False)).run(sockets=[listening])


def files_of(images: Path) -> list[Path]:
    return sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)[:512]


# the load -------------------------------------------------------------------------------------------------------------


def client(address: str, images: Path) -> None:
    """Send requests over `CONNECTIONS` connections: a number of requests per line of stdin."""
    place = urlsplit(address)
    bodies = [request_of(path, place.netloc) for path in files_of(images)]
    for line in sys.stdin:
        print(json.dumps(asyncio.run(load(place.hostname, place.port, bodies, int(line)))), flush=True)


def request_of(path: Path, host: str) -> bytes:
    head = f'Content-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'.encode()
    body = b"--" + BOUNDARY + b"\r\n" + head + path.read_bytes() + b"\r\n--" + BOUNDARY + b"--\r\n"
    lines = ["POST /predict HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines.append(f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def load(host: str, port: int, bodies: list[bytes], count: int) -> dict:
    left, seconds, statuses = iter(range(count)), [], Counter()

    async def connection() -> None:
        reader = writer = None
        for number in left:
            began = time.perf_counter()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(host, port)
                writer.write(bodies[number % len(bodies)])
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(re.search(r"content-length: (\d+)", head)[1]))
                statuses[head.split()[1]] += 1
                seconds.append(time.perf_counter() - began)
            except (OSError, asyncio.IncompleteReadError):
                statuses["lost"] += 1
                reader = writer = None
        if writer is not None:
            writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    cuts = quantiles(seconds, n=100)
    return {"seconds": time.perf_counter() - started, "statuses": statuses, "p50": cuts[49], "p95": cuts[94]}


if __name__ == "__main__":
    main()
