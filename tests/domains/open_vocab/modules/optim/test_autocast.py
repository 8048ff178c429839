"""Mixed precision on a CPU: lower precision forward, scaled losses, a scale that is kept."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt.core.errors import ConfigError
from vladapt.registry import OPTIM_WRAPPERS

SMALL = 1e-3
"""Of a loss whose scaled gradients fit in 16 bits."""


def wrapped(dtype, lr=0.1, **options):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    named = {"type": "vladapt.AutocastOptimWrapper", "dtype": dtype}
    return model, OPTIM_WRAPPERS.build({**named, **options}, default_args={"optimizer": optimizer})


def step(model, wrapper, factor=1.0):
    pixels = torch.linspace(-1, 1, 32).reshape(8, 4)
    with wrapper.optim_context(model):
        out = model(pixels)
    loss = ((out.float() - pixels.sum(dim=1, keepdim=True)) ** 2).mean() * factor
    wrapper.update_params(loss)
    return out.dtype, loss.item()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_trains_in_its_precision(dtype):
    model, wrapper = wrapped(dtype)
    steps = [step(model, wrapper) for _ in range(40)]
    assert {kind for kind, _ in steps} == {getattr(torch, dtype)}
    assert steps[-1][1] < 0.05 * steps[0][1]
    assert model.weight.dtype == torch.float32


def test_only_sixteen_bits_with_few_exponents_are_scaled():
    assert not wrapped("bfloat16")[1].scaler.is_enabled()
    model, wrapper = wrapped("float16", lr=10.0)
    before = model.weight.clone()
    plain = copy.deepcopy(model)
    step(model, wrapper, SMALL)
    reference = torch.optim.SGD(plain.parameters(), lr=10.0)
    pixels = torch.linspace(-1, 1, 32).reshape(8, 4)
    (((plain(pixels) - pixels.sum(dim=1, keepdim=True)) ** 2).mean() * SMALL).backward()
    reference.step()
    assert torch.allclose(model.weight, plain.weight, atol=1e-4)
    assert not torch.allclose(model.weight, before, atol=1e-3)
    assert wrapper.scaler.get_scale() == 65536.0


def test_a_step_with_infinite_gradients_is_left_out_and_the_scale_goes_down():
    model, wrapper = wrapped("float16")
    before = model.weight.clone()
    step(model, wrapper, factor=1e38)
    assert torch.equal(model.weight, before) and wrapper.scaler.get_scale() == 32768.0
    step(model, wrapper, SMALL)
    assert not torch.equal(model.weight, before)


def test_the_scale_is_kept_with_the_optimizer():
    model, wrapper = wrapped("float16")
    step(model, wrapper, factor=1e38)
    state = copy.deepcopy(wrapper.state_dict())
    again = wrapped("float16")[1]
    again.load_state_dict(state)
    assert again.scaler.get_scale() == 32768.0
    wrapped("bfloat16")[1].load_state_dict(wrapped("bfloat16")[1].state_dict())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_are_clipped_in_their_own_size(dtype):
    model, wrapper = wrapped(dtype, lr=1.0, clip_grad={"max_norm": 1e-4})
    before = [p.detach().clone() for p in model.parameters()]
    step(model, wrapper, SMALL)
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before)]).norm()
    assert float(moved) == pytest.approx(1e-4, rel=1e-2)


def test_gradients_are_accumulated():
    model, wrapper = wrapped("bfloat16", accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    before = model.weight.clone()
    step(model, wrapper)
    assert torch.equal(model.weight, before)
    step(model, wrapper)
    assert not torch.equal(model.weight, before)


def test_another_precision_is_refused():
    with pytest.raises(ConfigError, match="give bfloat16 or float16"):
        wrapped("float8")
