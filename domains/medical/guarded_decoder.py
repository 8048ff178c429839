"""Compressed DICOM pixels, decoded in a process of their own: a native decoder that meets a damaged file may abort, or
write past its memory, and would take this process with it.

A process is started at first use and kept; a second one only if two threads decode at once. It reads one line of JSON
per frame, and answers with one, the pixels after it. What it says besides, which may quote a header, is thrown away. It
ends when this process does, since its input ends then.

The file is its own program too: `python guarded_decoder.py` decodes, and imports nothing of this package.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

PATIENCE_S = 30.0
SECONDS_PER_PIXEL = 1e-6
"""A frame may take `PATIENCE_S`, and this for each of its pixels."""
BYTES_PER_PIXEL, SPARE_BYTES = 48, 300 << 20
"""What a decoder may take on top of what it has at its start."""
MOST_BYTES_PER_PIXEL = 16
"""Of the pixels it answers with: four channels of 32 bits."""
CHUNK = 1 << 20


class NotDecoded(Exception):
    """A frame that the decoder cannot decode; the message says why in a word, and nothing of the header.

    Args:
        is_of_now: it is the machine that was too slow, or the process that was ended, and not the frame's damage.
    """

    def __init__(self, why: str, is_of_now: bool = False):
        super().__init__(why)
        self.is_of_now = is_of_now


def decode_guarded(path: Path, frame: int, pixels: int) -> np.ndarray:
    """The stored values of a frame: (H, W) or (H, W, 3), colour as RGB.

    Args:
        path: the file.
        frame: which, from 0.
        pixels: how many its header claims, for the limits of time and memory.

    Raises:
        NotDecoded: it cannot be decoded, crashed the decoder, or took too long or too much memory.
    """
    decoder = _idle.pop() if _idle else _Decoder()
    try:
        values = decoder.decode(path, frame, pixels)
    except NotDecoded:
        if decoder.is_usable:
            _idle.append(decoder)
        raise
    except BaseException:  # stopped while an answer was on its way
        decoder.end()
        raise
    _idle.append(decoder)
    return values


_idle: list[_Decoder] = []


def _forget() -> None:
    """After a fork: the decoders belong to the parent, which may be asking them just now."""
    _idle.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_forget)


class _Decoder:
    """One process, started again where it ended while nothing was asked of it."""

    def __init__(self):
        self.is_usable = True
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process, which ends the other by going
        )

    def end(self) -> None:
        self.is_usable = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def decode(self, path: Path, frame: int, pixels: int) -> np.ndarray:
        request = {"path": os.fsencode(path.absolute()).hex(), "frame": frame, "pixels": pixels}
        deadline = time.monotonic() + PATIENCE_S + SECONDS_PER_PIXEL * pixels
        if self._process.poll() is not None:
            self.end()
            self._start()
            self.is_usable = True
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self.end()
            raise NotDecoded("the decoder ended", is_of_now=True) from None
        answer = json.loads(self._line(deadline))
        if "error" in answer:
            raise NotDecoded(answer["error"])
        shape, dtype = answer["shape"], np.dtype(answer["dtype"])
        if math.prod(shape) * dtype.itemsize > MOST_BYTES_PER_PIXEL * pixels:
            self.end()
            raise NotDecoded("more pixels than its header claims")
        values = np.empty(shape, dtype)
        self._fill(memoryview(values.reshape(-1).view(np.uint8)), deadline)
        return values

    def _line(self, deadline: float) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._some(1, deadline)
        return bytes(line)

    def _fill(self, buffer: memoryview, deadline: float) -> None:
        filled = 0
        while filled < len(buffer):
            some = self._some(min(CHUNK, len(buffer) - filled), deadline)
            buffer[filled : filled + len(some)] = some
            filled += len(some)

    def _some(self, most: int, deadline: float) -> bytes:
        """Bytes of the answer, as soon as there are any."""
        descriptor = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                self.end()
                raise NotDecoded("the decoder took too long", is_of_now=True)
        some = os.read(descriptor, most)
        if not some:
            self.end()
            raise NotDecoded("the decoder crashed")
        return some


# the process ---------------------------------------------------------------------------------------------------------


def _serve() -> None:
    """Answer one request after the other until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what decoders print must not come between
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            values = _decoded(os.fsdecode(bytes.fromhex(request["path"])), request["frame"], request["pixels"])
        except (Exception, RecursionError, MemoryError) as error:
            answer, values = {"error": type(error).__name__}, None
        else:
            answer = {"shape": values.shape, "dtype": values.dtype.str}
        answers.write(json.dumps(answer).encode() + b"\n")
        if values is not None:
            answers.write(memoryview(values.reshape(-1).view(np.uint8)))
        answers.flush()


def _decoded(path: str, frame: int, pixels: int) -> np.ndarray:
    from pydicom.pixels import pixel_array

    _limit_memory(BYTES_PER_PIXEL * pixels + SPARE_BYTES)
    return np.ascontiguousarray(pixel_array(path, index=frame))


_memory_at_start: list[int] = []


def _limit_memory(further: int) -> None:
    try:
        import resource
    except ModuleNotFoundError:
        return  # Windows
    if not _memory_at_start:
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            _memory_at_start.append(pages * resource.getpagesize())
    if _memory_at_start:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (_memory_at_start[0] + further, hard))


if __name__ == "__main__":
    sys.path[:] = [place for place in sys.path if place and Path(place) != Path(__file__).parent]
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        _serve()
