"""Processes for tests, forked from one that has the libraries already: a start costs a tenth of a second, not six.

`run` and `start` are `subprocess.run` and `subprocess.Popen` of a Python: `run(["-m", "vladapt", "list", "adapters"])`.
`run_ranks` starts several that work together, as torchrun does. What must be a Python that nobody has touched (what an
import loads or prints, an installed package) is started with `subprocess` instead; with VLADAPT_REAL_PROCESSES=1 all
are.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PATIENCE = 900.0
"""Seconds until a process counts as hung, on however busy a machine."""
PIPE = subprocess.PIPE
SHARED: Path | None = None
"""Folder in which workers of the suite find their one server."""
PLOTS: Path | None = None
"""Folder of plots that processes share, of `shared_plots.py`."""
OPEN_VOCAB = ("vladapt.domains.open_vocab.modules",)
"""Modules that a test of the domain has its processes start with."""


def run(command: Sequence[object], *, check: bool = False, **options) -> subprocess.CompletedProcess:
    """Run a Python to its end, with what it wrote as text.

    Args:
        command: what follows `python`: "-m", "-c" or a script, and arguments.
        check: raise if it fails.
        options: of `start`.
    """
    process = start(command, **options)
    out, err = process.communicate()
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    assert not check or done.returncode == 0, err
    return done


def run_ranks(
    command: Sequence[object], ranks: int = 2, env: Mapping[str, str] | None = None, **options
) -> list[subprocess.CompletedProcess]:
    """Run as many processes as one group, to their ends."""
    with Group(command, ranks, env, **options) as group:
        return group.finished()


class Group:
    """Processes that find each other as those of torchrun do, in a store that is here: no port has to be guessed."""

    def __init__(self, command: Sequence[object], ranks: int = 2, env: Mapping[str, str] | None = None, **options):
        from torch.distributed import TCPStore

        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        place = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
        }
        self.processes = []
        for rank in range(ranks):
            own = {**(os.environ if env is None else env), **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            self.processes.append(start(command, env=own, **options))

    def finished(self) -> list[subprocess.CompletedProcess]:
        told = [process.communicate() for process in self.processes]
        return [subprocess.CompletedProcess(p.args, p.returncode, *texts) for p, texts in zip(self.processes, told)]

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes:
            process.kill()
        del self.store


def start(
    command: Sequence[object],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: int | None = None,
    modules: Sequence[str] = (),
) -> Process:
    """Start a Python.

    Args:
        command: what follows `python`.
        env: its environment, by default this process's.
        cwd: its folder.
        stdin: PIPE for `Process.stdin` and `Process.stdout` to talk through; else it reads nothing and what it writes
            is there when it has ended.
        modules: imported before the fork, for processes that need more than most.
    """
    env = dict(os.environ if env is None else env)
    words, cwd = list(map(str, command)), str(cwd or os.getcwd())
    if os.environ.get("VLADAPT_REAL_PROCESSES"):
        pipes = {"stdin": stdin, "stdout": PIPE, "stderr": PIPE, "text": True}
        return subprocess.Popen([sys.executable, *words], env=env, cwd=cwd, **pipes)
    return Process({"command": words, "env": env, "cwd": cwd, "modules": list(modules)}, talks=stdin == PIPE)


class Process:
    """What `subprocess.Popen` is, as far as tests use it."""

    def __init__(self, request: dict, talks: bool = False):
        self.args, self.returncode, self.stdin, self.stdout = request["command"], None, None, None
        self._written = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 closed when they are read
        self._told, report = os.pipe()
        streams = [os.open(os.devnull, os.O_RDONLY), *(file.fileno() for file in self._written)]
        given = [report, streams[0]]
        if talks:
            os.close(streams[0])
            streams[0], mine = os.pipe()
            theirs, streams[1] = os.pipe()
            given = [report, *streams[:2]]
            self.stdin, self.stdout = os.fdopen(mine, "w"), os.fdopen(theirs)
        _server().ask(request, [report, *streams])
        for fd in given:
            os.close(fd)
        line = self._next_line()
        if not line:
            raise RuntimeError("the fork server ended; what it wrote to stderr says why")
        self.pid = int(line)

    def poll(self) -> int | None:
        return self._ended(0.0)

    def wait(self, timeout: float = PATIENCE) -> int:
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """What it wrote to stdout and to stderr, when it has ended."""
        self.wait(timeout)
        texts = []
        for file in self._written:
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], timeout)[0]:
            self.returncode = int(self._next_line())
            os.close(self._told)
        return self.returncode

    def _next_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self._told, 1)):
            line += byte
        return line


class _Server:
    """The one server of all workers of the suite, started by the first that asks it."""

    def __init__(self):
        folder = Path(SHARED or tempfile.mkdtemp())
        place = os.open(folder, os.O_DIRECTORY)
        address = f"/proc/self/fd/{place}/server"  # a path of any length
        self.control = socket.socket(socket.AF_UNIX)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the server takes it to end
            if not (folder / "server").exists():
                self._start(folder, address)
            self.control.connect(address)
        os.close(place)

    def _start(self, folder: Path, address: str) -> None:
        script = Path(__file__).with_name("fork_server.py")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            subprocess.Popen(
                [sys.executable, str(script), str(listener.fileno()), str(folder), *filter(None, [PLOTS])],
                cwd=script.parents[2],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
            )

    def ask(self, request: dict, fds: list[int]) -> None:
        payload = json.dumps(request).encode()
        socket.send_fds(self.control, [len(payload).to_bytes(4, "big")], fds)
        self.control.sendall(payload)

    def leave(self) -> None:
        """It ends what it runs for this process, and itself when no other asks it."""
        self.control.shutdown(socket.SHUT_WR)
        self.control.settimeout(PATIENCE)
        assert not self.control.recv(1)
        self.control.close()


_RUNNING: list[_Server] = []


def _server() -> _Server:
    if not _RUNNING:
        _RUNNING.append(_Server())
    return _RUNNING[0]


def stop() -> None:
    """End what still runs."""
    while _RUNNING:
        _RUNNING.pop().leave()
