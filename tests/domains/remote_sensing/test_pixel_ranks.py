"""Two processes of two images with unequal numbers of pixels have the gradient of one process with all four."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

import torch
from forked import OPEN_VOCAB, run_ranks
from safetensors.torch import load_file

from .pixel_gradients import MODELS_OF, gradients_of

RANK = """
import sys
sys.path.insert(0, sys.argv[1])
import torch.distributed as dist
from pixel_gradients import MODELS_OF, gradients_of
from safetensors.torch import save_file

dist.init_process_group("gloo")
rank = dist.get_rank()
for task in MODELS_OF:
    gradients = gradients_of(task, slice(2 * rank, 2 * rank + 2))
    for name in sorted(gradients):
        dist.all_reduce(gradients[name])
        gradients[name] /= 2
    if rank == 0:
        save_file(gradients, f"{sys.argv[2]}/{task}.gradients")
dist.barrier()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the gradients of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    done = run_ranks(["-c", RANK, Path(__file__).parent, folder], modules=OPEN_VOCAB)
    assert [each.returncode for each in done] == [0, 0], done[0].stderr[-2000:] + done[1].stderr[-2000:]
    return folder


@pytest.mark.parametrize("task", MODELS_OF)
def test_two_processes_have_the_gradient_of_one(folder, task):
    together, alone = load_file(folder / f"{task}.gradients"), gradients_of(task, slice(0, 4))
    assert set(together) == set(alone) and len(alone) > 20
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()) + 1e-7)
