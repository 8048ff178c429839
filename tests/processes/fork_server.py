"""A Python that has imported the libraries and forks a child for each request: `forked.py` starts it and talks to it.

A child is what `python -m MODULE`, `python -c CODE` or `python SCRIPT` would be, but that it need not import torch and
the rest again, which costs seconds of a processor. It has its own id, environment, folder and streams, can be killed,
and shares no memory with the server: nothing that a test does is seen by the next child.

Requests come as `length` (4 bytes), then JSON, and four descriptors: where to report, and the child's three streams.
Reports are two lines: the child's id, and, when it has ended, its exit code as `subprocess` counts it.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import threading
import types
import weakref
from pathlib import Path

from shared_plots import share_plots

LIBRARIES = ("torch", "torchvision", "numpy", "scipy.stats", "torchmetrics", "mmengine.runner", "open_clip", "peft")
LIBRARIES += ("torch._dynamo", "torch.distributed.fsdp", "sklearn.linear_model", "matplotlib.backends.backend_agg")
LIBRARIES += ("pydantic.main", "pydantic.json_schema", "albumentations")
OURS = ("vladapt.cli", "vladapt.core.training.train", "vladapt.core.features.store", "vladapt.core.engine.fit")
OURS += ("vladapt.core.backbones.open_clip", "vladapt.core.tasks.classification.task", "vladapt.core.forgetting.probe")
OURS += ("vladapt.core.runs.run_sections", "vladapt.core.losses.clip", "vladapt.adapters.head.linear_probe")
OURS += ("vladapt.adapters.cache.tip_adapter", "vladapt.adapters.weights.lit")
OURS += ("vladapt.domains.natural", "vladapt.domains.medical")


def main(listener: socket.socket, folder: str, plots: str | None = None) -> None:
    gc.set_threshold(20_000, 20, 20)  # of the children, too
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported; `vladapt` sets it before that
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # the same of albumentations
    # Where pandas is installed (cleanlab brings it) scikit-learn imports it, and that pyarrow, which starts a thread.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    for name in (*LIBRARIES, *OURS):
        _imported(name)
    _prepare(plots)
    for each in [*weakref.finalize._registry]:
        each.atexit = False  # a child need not unregister all operators of torch, which costs it most of its end
    gc.collect()
    gc.freeze()  # else each child's first collection would copy all pages
    request = _Server(listener, Path(folder)).serve()
    if request is not None:
        _become(request)


def _prepare(plots: str | None) -> None:
    """What each process makes once, and always the same: the options of commands, templates, drawings, a tokenizer, and
    the versions of compilers that mmengine asks a shell for."""
    importlib.import_module("PIL.Image").init()
    ours = sys.modules
    ours["vladapt.cli"].build_app([])
    reports = ours["vladapt.core.runs.run_sections"]
    if plots is not None:
        share_plots(reports, plots)
    environment = reports.page_template(reports.PAGE).environment
    for name in environment.list_templates(extensions=["j2"]):
        environment.get_template(name)
    probe = ours["vladapt.core.forgetting.probe"].GenericProbe.drawn()
    for item in probe.data.items:
        probe.data.load(item)
    if runner := ours.get("mmengine.runner.runner"):
        runner.collect_env = functools.cache(runner.collect_env)
        with ours["vladapt.core.training.runner"].unheard_shell():
            runner.collect_env()
    if "open_clip" in ours:
        ours["vladapt.core.backbones.open_clip"]._simple_tokenizer(77, 8192, "{}")


def _imported(name: str) -> None:
    """Libraries of an extra that is not installed are left out: tests that need them are skipped."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("vladapt"):
            raise


class _Server:
    def __init__(self, listener: socket.socket, folder: Path):
        self.listener, self.folder = listener, folder
        self.reports: dict[int, tuple[int, socket.socket]] = {}
        self.ended, self.wakeup = os.pipe()
        os.set_blocking(self.wakeup, False)
        signal.set_wakeup_fd(self.wakeup)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the suite, whose end is heard below

    def serve(self) -> dict | None:
        """Returns a request in each child, None in the server when all who asked have ended."""
        self.controls = [self.listener.accept()[0]]
        while self.controls:
            ready, _, _ = select.select([self.ended, self.listener, *self.controls], [], [])
            if self.ended in ready:
                os.read(self.ended, 4096)
                self._report_ends()
            if self.listener in ready:
                self.controls.append(self.listener.accept()[0])
            for control in [each for each in self.controls if each in ready]:
                length, fds, _, _ = socket.recv_fds(control, 4, 4)
                if not length:
                    self._stop(control)
                    continue
                request = json.loads(_exactly(control, int.from_bytes(length, "big")))
                if self._fork(request, fds, control):
                    return request
        return None

    def _fork(self, request: dict, fds: list[int], control: socket.socket) -> bool:
        """True in the child."""
        for name in request["modules"]:
            if name not in sys.modules:
                _imported(name)
                gc.freeze()
        assert len(os.listdir("/proc/self/task")) == 1, "a library started a thread, which no fork would carry over"
        report, *streams = fds
        pid = os.fork()
        if pid == 0:
            self._leave()
            for stream, wanted in enumerate(streams):
                os.dup2(wanted, stream)
            for fd in fds:
                os.close(fd)
            return True
        for stream in streams:
            os.close(stream)
        os.write(report, f"{pid}\n".encode())
        self.reports[pid] = report, control
        return False

    def _leave(self) -> None:
        """What of the server a child does not keep."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):  # the suite may have been started by `nohup`
            signal.signal(number, signal.SIG_DFL)
        for each in (self.listener, *self.controls):
            each.close()
        for fd in (self.ended, self.wakeup, *(report for report, _ in self.reports.values())):
            os.close(fd)

    def _report_ends(self) -> None:
        while self.reports:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            report, _ = self.reports.pop(pid)
            os.write(report, f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os.close(report)

    def _stop(self, control: socket.socket) -> None:
        """One who asked has ended: so does what runs for it. The last takes away the address."""
        for pid in [pid for pid, (_, of) in self.reports.items() if of is control]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(self.reports.pop(pid)[0])
        self.controls.remove(control)
        if not self.controls:
            with (self.folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if select.select([self.listener], [], [], 0)[0]:  # another came meanwhile
                    self.controls.append(self.listener.accept()[0])
                else:
                    (self.folder / "server").unlink()
        control.close()


def _exactly(control: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        parts.append(control.recv(count))
        count -= len(parts[-1])
    return b"".join(parts)


def _become(request: dict) -> None:
    """Run what was asked for, as the interpreter would, and end."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    random.seed()
    sys.modules["numpy"].random.seed()
    code = 1
    try:
        _run(request["command"])
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _run(command: list[str]) -> None:
    first, *rest = command
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry not in sys.path]
    if first == "-c":
        code, *arguments = rest
        sys.argv, sys.path[:0] = ["-c", *arguments], ["", *path]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif first == "-m":
        module, *arguments = rest
        sys.argv, sys.path[:0] = [module, *arguments], [os.getcwd(), *path]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:0] = [first, *rest], [os.path.dirname(os.path.abspath(first)), *path]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    del sys.path[0]  # this folder
    main(socket.socket(fileno=int(sys.argv[1])), *sys.argv[2:])
