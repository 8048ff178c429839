"""Two processes of two images with unequal numbers of boxes give the gradient of one process with all four.

Processes, because what is divided by is told between them.
"""

from pathlib import Path

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

import torch
from forked import OPEN_VOCAB, run_ranks
from safetensors.torch import load_file

from . import tiny
from .rank_gradients import gradients_of

RANK = """
import sys
sys.path.insert(0, sys.argv[1])
import torch.distributed as dist
import vladapt.domains.open_vocab
import tiny
from rank_gradients import gradients_of
from safetensors.torch import save_file

dist.init_process_group("gloo")
rank = dist.get_rank()
gradients = gradients_of(tiny, slice(2 * rank, 2 * rank + 2))
for name in sorted(gradients):
    dist.all_reduce(gradients[name])
    gradients[name] /= 2
if rank == 0:
    save_file({name: value.contiguous() for name, value in gradients.items()}, sys.argv[2])
dist.barrier()
"""


def test_two_processes_have_the_gradient_of_one(tmp_path):
    file = tmp_path / "gradients.safetensors"
    done = run_ranks(["-c", RANK, Path(__file__).parent, file], modules=OPEN_VOCAB)
    assert [each.returncode for each in done] == [0, 0], done[0].stderr[-2000:] + done[1].stderr[-2000:]
    together, alone = load_file(file), gradients_of(tiny, slice(0, 4))
    assert set(together) == set(alone) and len(alone) > 50
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()) + 1e-7)
