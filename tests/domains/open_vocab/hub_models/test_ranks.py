"""Two processes of two images with unequal numbers of boxes give the gradient of one process with all four.

Processes, because what is divided by is told between them; two for all types.
"""

from pathlib import Path

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

import torch
from forked import OPEN_VOCAB, run_ranks
from safetensors.torch import load_file

from . import tiny_texts
from .rank_gradients import TEXTS, TYPES, gradients_of

RANK = """
import sys
sys.path.insert(0, sys.argv[1])
import torch.distributed as dist
import vladapt.domains.open_vocab
from rank_gradients import TYPES, gradients_of
from safetensors.torch import save_file

dist.init_process_group("gloo")
rank = dist.get_rank()
for kind in TYPES:
    gradients = gradients_of(kind, slice(2 * rank, 2 * rank + 2), sys.argv[2])
    for name in sorted(gradients):
        dist.all_reduce(gradients[name])
        gradients[name] /= 2
    if rank == 0:
        save_file({name: value.contiguous() for name, value in gradients.items()}, f"{sys.argv[2]}/{kind}.gradients")
dist.barrier()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the tiny model that is asked by texts, and the gradients of two processes."""
    folder = tiny_texts.write_folder(TEXTS, tmp_path_factory.mktemp("ranks"))
    done = run_ranks(["-c", RANK, Path(__file__).parent, folder], modules=OPEN_VOCAB)
    assert [each.returncode for each in done] == [0, 0], done[0].stderr[-2000:] + done[1].stderr[-2000:]
    return folder


@pytest.mark.parametrize("kind", TYPES)
def test_two_processes_have_the_gradient_of_one(folder, kind):
    together, alone = load_file(folder / f"{kind}.gradients"), gradients_of(kind, slice(0, 4), folder)
    assert set(together) == set(alone) and len(alone) > 50
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-5, atol=3e-5 * float(gradient.abs().max()) + 1e-7)
