"""What one of W ranks computes for a contrastive loss, forward and backward, compared with open_clip's local loss.

    python benchmarks/loss_per_rank.py
    python benchmarks/loss_per_rank.py --batch-size 8192 --ranks 64

Operations are counted, not timed: one process plays rank 0 of a group whose exchanges do nothing, so values are
meaningless but each product has its true size. Products are matrix products, in units of n x N x D multiplications with
n = N / W; launches are all operations that torch dispatches. Ours are counted twice: with the block size for a CPU, and
with that for a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vladapt import build_loss
from vladapt.core.contracts.loss import RowLoss
from vladapt.core.losses import _info_nce
from vladapt.core.registry import catalogue, loss_class
from vladapt.core.testing.loss_steps import DIMS, example_outputs

WIDTH = 16
GOAL = 1.1
SMALLER = 8
"""Losses other than clip and siglip are counted with a batch smaller by this: their units do not depend on it."""
FEW = 64
"""Rows of a rank that are compared with those of one process."""
NARROW = {"silc": {"out_dim": 64, "hidden_dim": 32, "bottleneck_dim": 16}}


class Launches(TorchDispatchMode):
    """Counts the operations that are dispatched inside."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


def counted(step: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """Operations of matrix products, and launches, of a step and its backward pass."""
    with FlopCounterMode(display=False) as products, Launches() as launches:
        step().backward()
    return products.get_total_flops(), launches.count


def open_clip_step(name: str, rows: int, ranks: int) -> Callable[[], torch.Tensor]:
    from open_clip.loss import ClipLoss, SigLipLoss

    if name == "clip":
        theirs = ClipLoss(local_loss=True, gather_with_grad=True, rank=0, world_size=ranks)
    else:
        theirs = SigLipLoss(rank=0, world_size=ranks)
    image, text = (F.normalize(torch.randn(rows, WIDTH), dim=1).requires_grad_() for _ in range(2))
    scale, bias = (torch.tensor(start, requires_grad=True) for start in (14.3, -10.0))
    return lambda: theirs(image, text, scale, *((bias,) if name == "siglip" else ()))


def our_step(name: str, rows: int) -> Callable[[], torch.Tensor]:
    loss = build_loss(name, {**DIMS, "embed_dim": WIDTH}, **NARROW.get(name, {}))
    batch = example_outputs(loss.needs, 0, loss.outputs, B=rows, D=WIDTH)
    out = {key: value.requires_grad_() if value.is_floating_point() else value for key, value in batch.items()}
    return lambda: loss(out, progress=0.5)["loss"]


def row_losses() -> list[str]:
    """Names of the losses that each rank computes of its own rows, clip and siglip first."""
    ours = [name for name, entry in catalogue.losses().items() if entry.entry_point is None]
    by_rows = [name for name in ours if issubclass(loss_class(name), RowLoss)]
    return sorted(by_rows, key=lambda name: (name not in ("clip", "siglip"), name))


def counted_in_a_group(size: int, step: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """`counted` on rank 0 of a group that exchanges nothing."""
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        return counted(step)
    finally:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32768, help="N, over all ranks")
    parser.add_argument("--ranks", type=int, default=8, help="W, the number of ranks")
    parser.add_argument("--gpu-gib", type=float, default=24.0, help="memory of the GPU for which blocks are sized")
    given = parser.parse_args()
    ranks, rows = given.ranks, given.batch_size // given.ranks
    print(f"N {given.batch_size:,}, W {ranks}, rank 0, forward and backward; launches with blocks of a CPU and a GPU")
    products = {}
    for name in ("clip", "siglip"):
        products[name], launches = counted_in_a_group(ranks, open_clip_step(name, rows, ranks))
        print(f"open_clip {name:13} {in_units(products[name], rows, ranks):6.2f} products {launches:6,} launches")
    for name in row_losses():
        ours = our_line(name, rows if name in products else rows // SMALLER, ranks, given.gpu_gib)
        if name == "clip":
            ratio = ours / products["clip"]
    met = "met" if ratio <= GOAL else "missed"
    print(f"clip takes {ratio:.2f} of the products of open_clip's local loss; at most {GOAL}: {met}")


def our_line(name: str, rows: int, ranks: int, gpu_gib: float) -> int:
    """Prints what a loss takes; returns its operations."""
    products, on_cpu = counted_in_a_group(ranks, our_step(name, rows))
    gpu_entries = int(_info_nce.GPU_SHARE * gpu_gib * 2**30) // torch.float32.itemsize
    with mock.patch.object(_info_nce, "ENTRIES", gpu_entries):
        _, on_gpu = counted_in_a_group(ranks, our_step(name, rows))
    share, _ = counted_in_a_group(ranks, our_step(name, FEW))
    alone, _ = counted(our_step(name, FEW * ranks))
    line = f"vladapt   {name:13} {in_units(products, rows, ranks):6.2f} products {on_cpu:6,} and {on_gpu:,} launches"
    print(f"{line}; of one process 1 / {alone / share:.2f}")
    return products


def in_units(operations: int, rows: int, ranks: int) -> float:
    return operations / (2 * rows * rows * ranks * WIDTH)


if __name__ == "__main__":
    main()
