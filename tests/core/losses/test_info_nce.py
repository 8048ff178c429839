"""InfoNCE as losses share it: exact however large the blocks are, and flat in memory."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from forked import run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from vladapt import build_loss
from vladapt.core.losses import _info_nce
from vladapt.core.losses._info_nce import info_nce, log_sums, soft_cross_entropy


def unit(count, seed, dim=5):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1).requires_grad_()


def by_hand(a, b, scale, smoothing=0.0):
    """The equation, a sum at a time."""
    count, total = len(a), 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(count):
            logits = [scale * x[i] @ y[j] for j in range(count)]
            log_sum = torch.stack([value.exp() for value in logits]).sum().log()
            for j in range(count):
                target = smoothing / count + (1 - smoothing) * (i == j)
                total = total + target * (log_sum - logits[j]) / (2 * count)
    return total


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 1000), st.floats(0.5, 100), st.integers(1, 40), st.sampled_from([0.0, 0.3]))
def test_blocks_of_any_height_give_the_equation(count, seed, scale, entries, smoothing):
    a, b = unit(count, seed), unit(count, seed + 1)
    scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_info_nce, "ENTRIES", entries)
        ours = info_nce(a, b, scale, label_smoothing=smoothing)
        gradients = torch.autograd.grad(ours, (a, b, scale))
    theirs = by_hand(a, b, scale, smoothing)
    torch.testing.assert_close(ours, theirs)
    for gradient, wanted in zip(gradients, torch.autograd.grad(theirs, (a, b, scale), allow_unused=True)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient) if wanted is None else wanted)


def test_gradients_of_the_three_vectors_pass_gradcheck(monkeypatch):
    monkeypatch.setattr(_info_nce, "ENTRIES", 14)
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_sums, (unit(6, 0), unit(6, 1), scale))


def test_logits_far_apart_do_not_vanish(monkeypatch):
    """A column whose logits lie 190 below those of the block before keeps its own sum."""
    monkeypatch.setattr(_info_nce, "ENTRIES", 2)
    a = torch.tensor([[1.0, 0.0], [0.95, -((1 - 0.95**2) ** 0.5)]])
    b = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    rows, columns, own = log_sums(a, b, 100.0)
    logits = (100.0 * a.double() @ b.double().T).requires_grad_()
    torch.testing.assert_close(rows.double(), logits.logsumexp(1), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(columns.double(), logits.logsumexp(0), rtol=1e-6, atol=1e-5)
    assert own.tolist() == pytest.approx(logits.diagonal().tolist())


def test_targets_are_brought_to_a_sum_of_one_in_each_direction():
    a, b, scale = unit(3, 0), unit(4, 1), 7.0
    targets = torch.tensor([[2.0, 1, 0, 1], [0, 3, 0, 0], [1, 0, 4, 0]], dtype=torch.float64)
    wanted = 0.0
    for logits, weights in ((scale * a @ b.T, targets), (scale * b @ a.T, targets.T)):
        for i in range(len(logits)):
            chance = logits[i].exp() / logits[i].exp().sum()
            wanted = wanted - (weights[i] / weights[i].sum() * chance.log()).sum() / (2 * len(logits))
    torch.testing.assert_close(info_nce(a, b, scale, targets), wanted)
    torch.testing.assert_close(info_nce(a, a, scale, torch.eye(3).double()), info_nce(a, a, scale))
    torch.testing.assert_close(soft_cross_entropy(a, 5 * torch.ones_like(a)), -a.log_softmax(1).mean())


def test_a_bias_changes_nothing_and_learns_nothing():
    a, b = unit(5, 2), unit(5, 3)
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    for smoothing in (0.0, 0.1):
        loss = info_nce(a, b, 7.0, bias=bias, label_smoothing=smoothing)
        torch.testing.assert_close(loss, info_nce(a, b, 7.0, label_smoothing=smoothing))
        assert abs(torch.autograd.grad(loss, bias)[0]) < 1e-12


def test_a_gpu_takes_a_32nd_of_its_memory_as_a_block(monkeypatch):
    """So that a rank's 4,096 rows of 32,768 are one product on a card of 24 GiB."""
    memory = SimpleNamespace(total_memory=24 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert _info_nce._entries_on(torch.device("cuda")) == 24 * 2**30 // 32 // 4 >= 4096 * 32768
    memory.total_memory = 2**20
    assert (
        _info_nce._entries_on(torch.device("cuda")) == _info_nce.ENTRIES == _info_nce._entries_on(torch.device("cpu"))
    )


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_what_fits_a_block_takes_as_many_kernels_whatever_its_size(name, example_out, monkeypatch):
    def launches(count):
        loss, counted = build_loss(name), Launches()
        out = {key: value.requires_grad_() for key, value in example_out(loss.needs, B=count).items()}
        with counted:
            loss(out)["loss"].backward()
        return counted.count

    assert launches(16) == launches(256) < 100
    monkeypatch.setattr(_info_nce, "ENTRIES", 16 * 256)
    assert launches(256) > 5 * launches(16)


class Launches(TorchDispatchMode):
    """Counts the operations that torch dispatches."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


MEASURE = """
import sys, torch, torch.nn.functional as F
from vladapt import build_loss

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

torch.set_num_threads(1)
loss = build_loss(sys.argv[1])
def step(count):
    a, b = (F.normalize(torch.randn(count, 32), dim=1).requires_grad_() for _ in range(2))
    out = {"image_features": a, "text_features": b, "logit_scale": torch.tensor(10.0, requires_grad=True)}
    loss(out)["loss"].backward()
step(64)
before = peak()
step(12288)
print(peak() - before)
"""


@pytest.mark.thorough(but=("siglip",))
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_matrix_is_never_held(name):
    """The 12,288 x 12,288 matrix alone would be 576 MiB."""
    assert float(run(["-c", MEASURE, name], check=True).stdout) < 150
