"""Addresses and tokens, and processes: one ends when it has answered, one that is killed is replaced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("uvicorn", reason="extra serve is not installed")
pytest.importorskip("multipart", reason="extra serve is not installed")
from browser import until
from forked import run, start
from serving_floods import FLOODS

from vladapt.core.errors import ConfigError
from vladapt.core.serving.app import _names_this_machine
from vladapt.core.serving.server import TOKEN_VARIABLE, check_token, listening

BODY = b'--x\r\nContent-Disposition: form-data; name="f"; filename="Ann.png"\r\n\r\n%s\r\n--x--\r\n'
SLOW = """
import time
from vladapt.core.serving import exported
answer = exported.ServedExport.answer
def slowly(self, samples):
    if samples[0].source is not None:
        open("asked", "w").close()
        time.sleep(1)
    answer(self, samples)
exported.ServedExport.answer = slowly
"""


def ask(address: str, content: bytes) -> tuple[int, dict]:
    head = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{address}predict", BODY % content, head)
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def served(export: Path, *arguments: str, before: str = "", cwd: Path):
    """The process of a server that listens, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["serve", str(export), "--port", str(port), *arguments]
    process = start(["-c", f"{before}\nfrom vladapt.cli import main\nmain({command!r})"], cwd=cwd)
    until(lambda: process.poll() is not None or not socket.create_connection(("127.0.0.1", port)).close())
    return process, f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize(
    ("host", "token", "found"),
    [
        ("127.0.0.1", None, ("", True)),
        ("localhost", "abc", ("abc", True)),
        ("::1", None, ("", True)),
        ("0.0.0.0", "abc", ("abc", False)),
    ],
)
def test_a_token_is_needed_where_others_reach_the_host(host, token, found, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert check_token(host, token) == found


@pytest.mark.parametrize(
    ("host", "token", "words"),
    [
        ("0.0.0.0", None, "--host 0.0.0.0: other machines can reach it, so give --token, or VLADAPT_TOKEN"),
        ("127.0.0.1", "", "--token: may hold only letters, digits"),
        ("127.0.0.1", "a b&c", "--token: may hold only letters, digits"),
        ("no such host", None, "--host no such host: no such host"),
    ],
)
def test_addresses_that_are_refused(host, token, words, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(ConfigError) as refused:
        check_token(host, token)
    assert str(refused.value).startswith(words)
    monkeypatch.setenv(TOKEN_VARIABLE, "from-the-environment")
    assert check_token("0.0.0.0", None) == ("from-the-environment", False)


def test_names_of_this_machine():
    names = ("127.0.0.1:8000", "localhost", "[::1]:8000", "evil.example", "127.0.0.1.evil.example", "10.0.0.1", "")
    assert [name for name in names if _names_this_machine(name)] == list(names[:3])


def test_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError) as refused:
        listening("127.0.0.1", taken.getsockname()[1])
    assert "cannot be used (Address already in use); give another --port" in str(refused.value)


def test_sigterm_ends_a_server_that_has_answered_what_it_had(export, picture, tmp_path):
    process, address = served(export, before=SLOW, cwd=tmp_path)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(ask(address, picture("green"))))
    asking.start()
    until((tmp_path / "asked").exists)
    with socket.create_connection(("127.0.0.1", urlsplit(address).port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 17_000)
        assert client.recv(100).startswith(b"HTTP/1.1 431")
    os.kill(process.pid, signal.SIGTERM)
    asking.join(60)
    assert answers[0][0] == 200 and answers[0][1]["predictions"][0]["label"] == "green"
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out == "Stopped.\n" and err.count("\n") == 1 and "Ann" not in err
    assert err.startswith(f"Serving 20260101-120000-natural-gda-1a2b at {address}, in batches of up to ")
    with pytest.raises(urllib.error.URLError):
        ask(address, picture())


def test_a_killed_worker_is_replaced_and_costs_no_other_request(export, picture, tmp_path):
    process, address = served(export, "--workers", "2", "--batch-size", "2", cwd=tmp_path)
    try:
        until(lambda: len(workers(process.pid)) == 2 and counted(address, "vladapt_requests_total") == 0)
        before = workers(process.pid)
        os.kill(before[0], signal.SIGKILL)
        for _ in range(10):  # what the dead one had accepted is lost, and nothing was
            assert ask(address, picture("blue"))[1]["predictions"][0]["label"] == "blue"
        until(lambda: len(workers(process.pid)) == 2 and before[0] not in workers(process.pid))
        until(lambda: ask(address, picture("red"))[0] == 200)
        assert counted(address, "vladapt_requests_total") >= 11, "counts of all processes"
    finally:
        os.kill(process.pid, signal.SIGTERM)
        _, err = process.communicate()
    assert process.returncode == 0 and "Ann" not in err, err


def test_a_model_that_cannot_be_loaded_ends_all_workers_with_a_line(export, tmp_path):
    damaged = Path(shutil.copytree(export, tmp_path / "damaged"))
    (damaged / "model.onnx").write_bytes(b"abc")
    process, _ = served(damaged, "--workers", "2", cwd=tmp_path)
    _, err = process.communicate()
    lines = set(err.splitlines())
    assert process.returncode == 1 and len(lines) == 1 and "damaged graph" in lines.pop(), err


def test_the_benchmark_floods_a_server_that_goes_on_answering(export, tmp_path):
    benchmark = Path(__file__).parents[3] / "benchmarks" / "serving_floods.py"
    floods = FLOODS.keys() - {"half a request"}  # closed after ten seconds, which test_connections.py does not wait for
    command = [benchmark, export, "--clients", "2", "--mb", "1", "--floods", *floods]
    _, _, *rows = run(command, check=True, cwd=tmp_path).stdout.splitlines()
    assert len(rows) == 8 and all(float(row.split("|")[2].replace(",", "")) > 0 for row in rows)


def workers(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def counted(address: str, name: str) -> float:
    with urllib.request.urlopen(f"{address}metrics", timeout=300) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))
