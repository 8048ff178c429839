"""Ranks under torchrun: who am I, gathering rows, and one rank's error ending all ranks with one line.

Every exchange starts with the same small header, so a rank that failed anywhere meets the others in whatever exchange
they wait in, and none hangs.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .. import errors
from . import liveness

T = TypeVar("T")

SETTLE_S = 0.2

TIMEOUT = timedelta(hours=6)
"""How long a rank waits for the others: the slowest one may still be decoding its images."""


def world_size() -> int:
    """Number of processes that work together; 1 where none were started together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """True on the one rank that names the run, prints and writes."""
    return rank() == 0


def start_from_environment() -> bool:
    """Join the processes that torchrun started (its variables say how), unless joined already or alone.

    Returns:
        True if this call joined; the process leaves by itself when it ends.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return False
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    liveness.watch(rank(), world_size(), lambda told: all_gather_json(told)[0])
    atexit.register(stop)  # a process that ends inside the group may abort, and its exit code would be lost
    return True


def stop() -> None:
    """Leave the group, if in one."""
    liveness.leave()
    if dist.is_available() and dist.is_initialized() and not liveness.is_of_a_death():
        # A rank was seen twice, in some hundreds of runs, to abort at its end ("terminate called without an active
        # exception"): the suspicion is that a thread of the group still let go of tensors of its last step.
        time.sleep(SETTLE_S)
        dist.destroy_process_group()


def run_on_all(step: Callable[[], T]) -> T:
    """Run `step` on this rank; return when every rank is through with its own. Calls may be nested.

    Raises:
        The step's own error. Where another rank failed, that rank's error, of the same type where it is one of ours,
        with the same line.
    """
    if world_size() == 1:
        return step()
    try:
        result = step()
    except Exception as error:
        if not getattr(error, "known_to_all_ranks", False) and not liveness.is_of_a_death(error):
            # Tell the other ranks, in whatever exchange they wait.
            _say({"failure": {"type": type(error).__name__, "line": " ".join(str(error).split()), "rank": rank()}})
            error.known_to_all_ranks = True
        raise
    _exchange()
    return result


def all_gather_rows(rows: Tensor) -> Tensor:
    """(n_rank, D) of each rank -> (sum of n_rank, D) on the CPU, in the order of ranks, the same on all ranks.

    Ranks may have different numbers of rows; one without rows may have any D. The dtype must be the same on all.

    Raises:
        What another rank announces instead (see `run_on_all`).
    """
    if world_size() == 1:
        return rows.cpu()
    headers = [each["shape"] for each in _exchange(shape=list(rows.shape))]
    width = max((width for count, width in headers if count), default=headers[0][1])
    longest = max(count for count, _ in headers)
    padded = torch.zeros(longest, width, dtype=rows.dtype)
    if len(rows):
        padded[: len(rows)] = rows.cpu()
    gathered = _all_gather(padded)
    return torch.cat([part[:count] for part, (count, _) in zip(gathered, headers)])


def all_gather_json(value: Any) -> list[Any]:
    """A JSON-able value of each rank -> the list of all, in the order of ranks."""
    if world_size() == 1:
        return [value]
    return [each["value"] for each in _exchange(value=value)]


def check_shared(digest: str, what: str) -> None:
    """Raise the DataError of ranks whose digests of what they have read differ, the same on all of them.

    Args:
        what: what they have read.
    """
    first, *others = all_gather_json(digest)
    if number := next((number for number, each in enumerate(others, 1) if each != first), None):
        line = f"process {number} has read other {what} than process 0; give all of them the same"
        raise _as_error({"type": "DataError", "line": line})


def _exchange(**said: Any) -> list[dict[str, Any]]:
    """What all ranks say; raises what a failed rank announced."""
    heard = _say(said)
    failure = next((each["failure"] for each in heard if "failure" in each), None)
    if failure is not None:
        raise _as_error(failure)
    return heard


def _say(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A JSON-able message of each rank, which may be empty, in the order of ranks."""
    payload = torch.tensor(list(json.dumps(message).encode() if message else b""), dtype=torch.uint8)
    sizes = [int(size) for size in _all_gather(torch.tensor([len(payload)]))]
    if not any(sizes):
        return [{} for _ in sizes]
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(payload)] = payload
    texts = [bytes(part[:size].tolist()) for part, size in zip(_all_gather(padded), sizes)]
    return [json.loads(text) if text else {} for text in texts]


def _all_gather(tensor: Tensor) -> list[Tensor]:
    """Equal-sized tensors of all ranks, on the CPU; over the GPU only where the group speaks nothing else."""
    if "cpu:" not in dist.get_backend_config():
        tensor = tensor.cuda()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return [part.cpu() for part in parts]


def _as_error(failure: dict) -> Exception:
    """Our own error types come back as they were; anything else as the base of ours, naming rank and type."""
    kind = getattr(errors, failure["type"], None)
    if isinstance(kind, type) and issubclass(kind, errors.VladaptError):
        error = kind(failure["line"])
    else:
        error = errors.VladaptError(f"rank {failure['rank']} failed: {failure['type']}: {failure['line']}")
    error.known_to_all_ranks = True
    return error


def together(step: Callable[[], T]) -> T:
    """Run `step` on this rank among the others; alone where torchrun started none.

    Raises:
        The step's own error, or that of whichever rank failed.
    """
    joined = start_from_environment()
    try:
        return run_on_all(step)
    finally:
        if joined:
            stop()
