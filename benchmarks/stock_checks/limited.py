"""A function in a process of its own, with limits of memory and of CPU time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None

from vladapt.core.errors import CapabilityError

GIB = 1 << 30
WALL_PER_CPU_S = 30
"""Seconds of the clock that a process may take for each second of CPU time it may use: others use the machine too."""
NO_MEMORY = ("allocate memory", "bad_alloc", "Cannot allocate")


@dataclass(frozen=True)
class Limits:
    """Of one process."""

    memory_gib: float = 10.0
    cpu_s: int = 120


@dataclass(frozen=True)
class Ending:
    """How a process ended: with a value, with an error, or at a limit.

    Args:
        value: of the function.
        error: "Type: text" of what it raised, or the signal that ended it.
        over: the limit that it reached: "10 GiB", "120 s" or "".
        cpu_s: seconds of CPU time.
        memory_gib: the most that was resident, 0 where it was ended.
    """

    value: Any = None
    error: str = ""
    over: str = ""
    cpu_s: float = 0.0
    memory_gib: float = 0.0


def run_limited(function: Callable[..., Any], *args: Any, limits: Limits) -> Ending:
    """Call it in a copy of this process, whose output is thrown away; imports made here cost it nothing.

    Args:
        function: what it returns can be written as JSON, and comes back as that is read.

    Raises:
        CapabilityError: the system has no such limits.
    """
    if resource is None or not hasattr(os, "fork"):
        raise CapabilityError(f"processes with limits of memory and time need Linux or macOS; this is {sys.platform}")
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(there, limits, function, args), daemon=True)
    before = _cpu_of_children()
    process.start()
    there.close()
    try:
        late = not here.poll(limits.cpu_s * WALL_PER_CPU_S)
        told = {} if late else _received(here)
    except BaseException:  # Ctrl-C
        process.kill()
        raise
    if late:
        process.kill()
    process.join()
    ending = {"cpu_s": round(_cpu_of_children() - before, 1), **told}
    if late or process.exitcode == -getattr(signal, "SIGXCPU", 0):
        ending = {**ending, "value": None, "error": "", "over": f"{limits.cpu_s} s"}
    elif not told:
        ending["error"] = f"ended by {_signal(process.exitcode)}"
    return Ending(**ending)


def _received(pipe: Connection) -> dict[str, Any]:
    """What the process says at its end; nothing, if it was ended."""
    try:
        return json.loads(pipe.recv_bytes())
    except EOFError:
        return {}


def _in_process(pipe: Connection, limits: Limits, function: Callable[..., Any], args: tuple) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1), os.dup2(nowhere, 2)
    most = int(limits.memory_gib * GIB)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 5))
    try:
        told = {"value": function(*args)}
    except MemoryError:
        told = {"over": f"{limits.memory_gib:g} GiB"}
    except Exception as error:
        text = " ".join(str(error).split())
        is_memory = any(words in text for words in NO_MEMORY)
        told = {"over": f"{limits.memory_gib:g} GiB"} if is_memory else {"error": f"{type(error).__name__}: {text}"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    pipe.send_bytes(json.dumps({**told, "memory_gib": round(peak / GIB, 1)}).encode())


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _signal(code: int | None) -> str:
    return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
