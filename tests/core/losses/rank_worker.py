"""One of two processes that compute losses for the tests: reads the path of a job, writes that of the answer.

A job: {"loss": name, "options": {...}, "dims": {...}, "batches": [out, ...] of the whole batch, "state": state dict or
None, "training_set": outputs of all samples or None}. The answer: values, gradients by outputs and heads, buffers.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist

from vladapt import build_loss
from vladapt.core.contracts.outputs import SHARED


def compute(job: dict, rank: int, world: int) -> dict:
    """Value and gradients of each batch in turn, as one of `world` ranks that each hold equally many rows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = build_loss(job["loss"], job["dims"], **job["options"])
    if job.get("state"):
        loss.load_state_dict(job["state"])
    if job.get("training_set") is not None and hasattr(loss, "before_epoch"):
        loss.before_epoch(lambda names: {name: job["training_set"][name] for name in names})
    steps = []
    for batch in job["batches"]:
        out = {name: _share(name, value, rank, world) for name, value in batch.items()}
        loss.zero_grad()
        value = loss(out, progress=job.get("progress", 0.5))["loss"]
        value.backward()
        steps.append(
            {
                "loss": value.detach(),
                "outputs": {name: leaf.grad / world for name, leaf in out.items() if leaf.grad is not None},
                "heads": {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None},
            }
        )
        if hasattr(loss, "after_step"):
            loss.after_step(None)
    return {"steps": steps, "buffers": {name: b.clone() for name, b in loss.named_buffers()}}


def _share(name: str, value, rank: int, world: int):
    """A rank's rows, as a leaf that asks for its gradient. What is shared has a gradient that ranks agree on."""
    if name in SHARED:
        mine = value.clone()
        return mine.requires_grad_()
    count = len(value) // world
    mine = value[rank * count : (rank + 1) * count].clone()
    return mine.requires_grad_() if mine.is_floating_point() else mine


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for line in sys.stdin:
        path = line.strip()
        answer = f"{path}.{rank}.pt"
        torch.save(compute(torch.load(path), rank, dist.get_world_size()), answer)
        print(answer, flush=True)
    os._exit(0)  # the other rank may have left the group already


if __name__ == "__main__":
    main()
