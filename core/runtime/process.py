"""What this process may use and how it ends: threads, packages, the cache's folder, the search for garbage, signals.

SIGTERM and SIGHUP end a command as Ctrl-C does: schedulers send the one, a closing terminal the other.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CapabilityError

T = TypeVar("T")
SELDOM = 50_000
"""Objects made between two searches; usual are some hundreds."""
FEW = 2**28
"""Multiplications of a matrix product up to which threads wait for one another longer than they compute."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
AGAIN_S = 0.02
"""Between the times that a stop is raised again which a destructor swallowed, until it is heard."""
WAIT_S = 0.5
"""A signal to all processes of a job may end one that loads samples before it is heard here."""


_KEPT: ContextVar[dict[str, str] | None] = ContextVar("kept", default=None)
"""Of the command that runs, if one does."""


def cache_folder(name: str = "") -> Path:
    """$VLADAPT_CACHE, or ~/.cache/vladapt, or a folder in it."""
    return Path(os.environ.get("VLADAPT_CACHE") or Path.home() / ".cache" / "vladapt") / name


class Stops:
    """Which signals arrived in a command; the first raises KeyboardInterrupt in it, others leave its clean-up alone.

    Attributes:
        kept: what the command leaves of use if it is stopped -> where, as `keeps` noted it.
    """

    def __init__(self):
        self.arrived, self.kept = False, dict[str, str]()
        self._process = os.getpid()
        self._over, self._raising = threading.Event(), list[threading.Thread]()

    def __call__(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
        elif not self.arrived and not _in_hook(frame):
            self.arrived = True
            # This process ends: that those which load samples for it ended before, torch need not tell any more.
            if hasattr(signal, "SIGCHLD"):
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sys.unraisablehook = partial(self._again, number)
            raise KeyboardInterrupt

    def _again(self, number: int, unraisable: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in a destructor, such as that of a loader which waits for its workers."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self.arrived = False
            self._raising.append(threading.Thread(target=self._until_heard, args=(number,), daemon=True))
            self._raising[-1].start()

    def _until_heard(self, number: int) -> None:
        main = threading.main_thread().ident
        while main is not None and not self._over.wait(AGAIN_S) and not self.arrived:
            signal.pthread_kill(main, number)

    def end(self) -> None:
        """The command is over: no stop is raised again."""
        self._over.set()
        for thread in self._raising:
            thread.join()

    def explain(self, error: BaseException) -> bool:
        """Whether an error is what a stop makes of processes that work together: one of them ended before."""
        text = str(error)
        of_processes = "DataLoader worker" in text or "Connection closed by peer" in text or "gloo" in text.lower()
        if of_processes and not self.arrived:
            end = time.monotonic() + WAIT_S
            try:
                while not self.arrived and time.monotonic() < end:
                    time.sleep(0.02)
            except KeyboardInterrupt:
                return True
        return self.arrived


@contextmanager
def stops_like_ctrl_c() -> Iterator[Stops]:
    """A context in which SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread.

    What a caller ignores stays ignored (`nohup`), and handlers of its own stay, too. Processes that are forked in it
    ignore SIGHUP, since this one ends them, and end on SIGTERM without a word.
    """
    stops = Stops()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in before.items() if handler is signal.SIG_DFL}
        for number in before:
            signal.signal(number, stops)
    try:
        with holding(_KEPT, stops.kept):
            yield stops
    finally:
        stops.end()
        for number, handler in before.items():
            signal.signal(number, handler)


def keeps(what: str, place: object) -> None:
    """Note what the command leaves behind if it is stopped from now on, and goes on from: "features", in a folder."""
    if (kept := _KEPT.get()) is not None:
        kept[what] = str(place)


def _in_hook(frame: Any) -> bool:
    """Whether what is raised in a frame is dropped, too: in the hook for what destructors drop."""
    while frame is not None and frame.f_code is not Stops._again.__code__:
        frame = frame.f_back
    return frame is not None


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """While many small objects are made that all stay, such as the items of a data set: each search passes over all of
    them, and finds nothing. As a decorator, during the function.
    """
    usual = gc.get_threshold()
    gc.set_threshold(max(SELDOM, usual[0]) if usual[0] else 0, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


@contextmanager
def threads_for(multiplications: float) -> Iterator[None]:
    """One thread for PyTorch and BLAS where matrix products are small; else as many as before.

    On a machine that has other work to do, threads that wait for one another make a fit of a second take a minute.

    Args:
        multiplications: of the largest product; infinity for threads in any case.
    """
    if multiplications > FEW:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries(len(sys.modules)).limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _libraries(modules: int):
    """Those that have threads, looked for anew where more modules are imported: that takes longer than a small fit."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def holding(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Inside, in this thread, a variable has this value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def installed_version(name: str) -> str | None:
    """The version of a distribution, None where it is not installed; looked up once per process."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def need_package(who: str, module: str, extra: str, package: str = "") -> None:
    """Raise the CapabilityError of a module that is not installed.

    Args:
        who: what needs it: "adapter 'x'".
        extra: of this project, which brings it.
        package: that has the module, where it is called otherwise.
    """
    if find_spec(module) is None:
        raise CapabilityError(
            f"{who} needs the package '{package or module}'; install it with: pip install 'vladapt[{extra}]'"
        )


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES has to be for a process that is to see only one of the GPUs that this one sees, for
    each."""
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(number) for number in range(count)]
