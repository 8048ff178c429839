"""Other processes for checks, started once and kept: one alone, and two in a gloo group.

A process reads the path of a job from its standard input, and writes its answer beside it. A job names a function,
which the process imports and calls.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

DONE, FAILED = "done", "failed"
PATIENCE = 60.0

Job = Callable[[Mapping[str, Any], int, int], dict[str, Any]]
"""(content, rank, number of processes) -> the answer of this process: tensors and plain data."""


def _python(command: Sequence[str], env: Mapping[str, str]):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command], env=dict(env), **pipes)


_start: list[Callable] = [_python]


def start_with(start: Callable[[Sequence[str], Mapping[str, str]], Any]) -> None:
    """Start processes in another way, before the first one is.

    Args:
        start: (what follows `python`, environment) -> a process as `subprocess.Popen` gives it, with text pipes.
    """
    _start[:] = [start]


class Workers:
    """Processes that do the same jobs side by side; of several, each is a rank of one gloo group.

    Args:
        count: how many.
    """

    def __init__(self, count: int):
        self._folder = tempfile.TemporaryDirectory(prefix="vladapt-")
        self._jobs = 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        meeting = str(Path(self._folder.name) / "ranks")
        places = [["-m", __name__, str(rank), str(count), meeting] for rank in range(count)]
        self.processes = [_start[0](place, environment) for place in places]

    def run(self, function: Job, content: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The answer of each process.

        Args:
            function: of a module, which each process imports.
            content: tensors and plain data.

        Raises:
            RuntimeError: one failed; the message is what it says.
        """
        self._jobs += 1
        path = Path(self._folder.name) / f"{self._jobs}.pt"
        named = f"{function.__module__}:{function.__qualname__}"
        torch.save({"function": named, "content": dict(content), "path": sys.path}, path)
        for process in self.processes:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
        for process in self.processes:
            word, _, rest = process.stdout.readline().strip().partition(" ")
            if word != DONE:
                raise RuntimeError(json.loads(rest) if word == FAILED else "the process ended")
        return [torch.load(f"{path}.{rank}", weights_only=True) for rank in range(len(self.processes))]

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.stdin.close()
            try:
                process.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        self._folder.cleanup()


_running: dict[int, Workers] = {}


def workers(count: int) -> Workers:
    """The processes of this session, started when they are first asked for."""
    if count not in _running:
        _running[count] = Workers(count)
    return _running[count]


@atexit.register
def _stop() -> None:
    """End the processes of this session."""
    while _running:
        _running.popitem()[1].close()


def class_place(cls: type) -> dict[str, str] | None:
    """Where another process finds a class; None of one that it cannot find: made in a function, or typed in."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if "<locals>" in cls.__qualname__ or file is None:
        return None
    return {"module": cls.__module__, "class": cls.__qualname__, "file": str(file)}


def class_at(place: Mapping[str, str]) -> type:
    """The class of `class_place`, by the name of its module or, where that has no meaning here, by its file."""
    try:
        module = importlib.import_module(place["module"]) if place["module"] != "__main__" else None
    except ModuleNotFoundError:
        module = None
    part_of: Any = module or _module_of(place)
    for part in place["class"].split("."):
        part_of = getattr(part_of, part)
    return part_of


def _serve(rank: int, count: int, meeting: str) -> None:
    """Do jobs until the standard input ends.

    Args:
        meeting: file by which the ranks find each other.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    if count > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    for line in sys.stdin:
        path = line.strip()
        try:
            torch.save(_done(torch.load(path, weights_only=True), rank, count), f"{path}.{rank}")
            word = DONE
        except Exception as error:
            traceback.print_exc()
            word = f"{FAILED} {json.dumps(f'{type(error).__name__}: {error}')}"
        answers.write(f"{word}\n")
        answers.flush()
    os._exit(0)  # the other ranks may have left the group already


def _module_of(place: Mapping[str, str]):
    name = f"{place['module'].strip('_').replace('.', '_')}_elsewhere"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, place["file"])
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def _done(job: Mapping[str, Any], rank: int, count: int) -> dict[str, Any]:
    sys.path[:] = job["path"]
    importlib.invalidate_caches()
    module, _, name = job["function"].partition(":")
    return getattr(importlib.import_module(module), name)(job["content"], rank, count)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
