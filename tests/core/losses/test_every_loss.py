"""What holds for every objective: finite in 16 bits, blind to the order of the batch, and of one meaning however the
batch was split over processes or micro-batches."""

from __future__ import annotations

import copy
import doctest
import importlib
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from vladapt import CapabilityError, build_loss
from vladapt.core.contracts.outputs import OUTPUTS, SHARED
from vladapt.core.registry import catalogue, loss_class
from vladapt.core.training.grad_cache import cached_backward, surrogate

NAMES = sorted(name for name, entry in catalogue.losses().items() if entry.entry_point is None)
NARROW = {
    "silc": {"out_dim": 40, "hidden_dim": 16, "bottleneck_dim": 8},
    "slip": {"mlp_dim": 16, "emb_dim": 8},
}
"""Heads whose published widths would take most of the time of these tests."""
SHARED_OF_TEACHER = {name for name in SHARED if name.startswith("teacher.")}


def _worker():
    spec = importlib.util.spec_from_file_location("rank_worker", Path(__file__).with_name("rank_worker.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def compute():
    """`compute(job, rank, world)` in this process, where no group is: what one process gives."""
    return _worker().compute


@pytest.fixture(params=NAMES)
def job(request, dims, example_out):
    """Two steps of a loss on random outputs."""
    options = NARROW.get(request.param, {})
    needs = build_loss(request.param, dims, **options).needs
    batches = [example_out(needs, seed) for seed in (1, 2)]
    if request.param == "binary-cross-entropy":
        for batch in batches:
            batch["labels"] = (torch.rand(8, 5) < 0.5).float()
    training_set = example_out(set(OUTPUTS) - SHARED - {"index"}, seed=3, B=dims["num_samples"])
    return {
        "loss": request.param,
        "options": options,
        "dims": dims,
        "batches": batches,
        "training_set": training_set,
        "progress": 0.5,
    }


@pytest.mark.parametrize("name", NAMES)
def test_its_example_runs(name):
    """Of the class's docstring: three or four lines that a reader can copy, and what they print."""
    (example,) = doctest.DocTestFinder(recurse=False).find(loss_class(name), globs={})
    assert 3 <= len(example.examples) <= 5 and example.examples[-1].want
    told: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=told.append).failed == 0, "".join(told)


def test_a_copy_is_a_loss_of_its_own(job):
    """Deep copies, and modules whose state was loaded, give the same value; the copy's weights are its own."""
    loss = _loss_of(job)
    value = loss(job["batches"][0], 0.5)["loss"].detach()
    again, loaded = copy.deepcopy(loss), build_loss(job["loss"], job["dims"], **job["options"])
    loaded.load_state_dict(loss.state_dict())
    for other in (again, loaded):
        torch.testing.assert_close(other(job["batches"][0], 0.5)["loss"].detach(), value, rtol=1e-6, atol=1e-6)
        assert hash(other) != hash(loss) and other != loss
    for parameter in again.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(loss(job["batches"][0], 0.5)["loss"].detach(), value, rtol=1e-6, atol=1e-6)


def assert_same(ours, theirs, tolerance: float = 1e-5):
    assert set(ours) == set(theirs)
    for name in ours:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_two_processes_give_what_one_gives(job, compute, two_ranks):
    whole = compute(job, 0, 1)
    halves = two_ranks.run(job)
    for step, one in enumerate(whole["steps"]):
        both = [half["steps"][step] for half in halves]
        for half in both:
            torch.testing.assert_close(half["loss"], one["loss"], rtol=1e-5, atol=1e-5)
        for name, gradient in one["outputs"].items():
            if name in SHARED:
                together = both[0]["outputs"][name] * 2  # the worker divides by the ranks; here each has all of it
            else:
                together = torch.cat([half["outputs"][name] for half in both])
            torch.testing.assert_close(together, gradient, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        assert_same({k: (both[0]["heads"][k] + both[1]["heads"][k]) / 2 for k in both[0]["heads"]}, one["heads"])
    for half in halves:
        assert_same(half["buffers"], whole["buffers"])


def test_the_order_of_the_batch_means_nothing(job, compute):
    order = torch.randperm(8, generator=torch.Generator().manual_seed(5))
    shuffled = {name: value if name in SHARED else value[order] for name, value in job["batches"][0].items()}
    one = compute({**job, "batches": job["batches"][:1]}, 0, 1)["steps"][0]["loss"]
    other = compute({**job, "batches": [shuffled]}, 0, 1)["steps"][0]["loss"]
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_is_finite_in_16_bits(job, dtype, compute):
    halved = {n: v.to(dtype) if v.is_floating_point() else v for n, v in job["batches"][0].items()}
    step = compute({**job, "batches": [halved]}, 0, 1)["steps"][0]
    assert torch.isfinite(step["loss"])
    assert all(torch.isfinite(gradient).all() for gradient in [*step["outputs"].values(), *step["heads"].values()])
    full = compute({**job, "batches": job["batches"][:1]}, 0, 1)["steps"][0]["loss"]
    assert abs(step["loss"] - full) <= 0.1 * abs(full) + 0.1


def test_the_gradient_is_not_nothing(job, compute):
    step = compute(job, 0, 1)["steps"][0]
    assert any(gradient.abs().max() > 0 for gradient in [*step["outputs"].values(), *step["heads"].values()])


def test_no_gradient_reaches_a_teacher(job, compute):
    step = compute(job, 0, 1)["steps"][0]
    reached = [name for name, grad in step["outputs"].items() if name.startswith("teacher.") and grad.abs().max() > 0]
    assert not reached


def test_it_says_what_it_lacks(job):
    loss = build_loss(job["loss"], job["dims"], **job["options"])
    for name in loss.needs:
        without = {n: v for n, v in job["batches"][0].items() if n != name}
        with pytest.raises(CapabilityError, match=f"needs '{name}'"):
            loss(without)


def test_nothing_moves_before_the_step(job):
    loss = _loss_of(job)
    before = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    values = [loss(job["batches"][0], 0.5)["loss"].detach() for _ in range(2)]
    torch.testing.assert_close(values[0], values[1])
    after = dict(loss.named_buffers())
    for name, buffer in before.items():
        if "running_" not in name and "num_batches" not in name:  # BatchNorm's own
            assert torch.equal(buffer, after[name]), name


def test_micro_batches_give_the_gradient_of_the_whole(job):
    """GradCache over a linear layer behind each output stands for the towers."""
    whole, parts = _through_layers(job, micro=8), _through_layers(job, micro=3)
    assert_same(whole, parts, 1e-4)


def _loss_of(job):
    torch.manual_seed(0)
    loss = build_loss(job["loss"], job["dims"], **job["options"])
    if hasattr(loss, "before_epoch"):
        loss.before_epoch(lambda names: {name: job["training_set"][name] for name in names})
    return loss


def _through_layers(job, micro: int) -> dict[str, torch.Tensor]:
    batch = job["batches"][0]
    loss = _loss_of(job)
    rows = {name: value for name, value in batch.items() if name not in SHARED}
    learned = [n for n, v in rows.items() if v.is_floating_point() and not n.startswith("teacher.") and v.ndim > 1]
    if job["loss"] == "binary-cross-entropy":
        learned.remove("labels")
    if not learned:
        pytest.skip("it looks at classes alone, and stands beside a loss that looks at samples")
    torch.manual_seed(1)
    towers = nn.ModuleDict({n.replace(".", "_"): nn.Linear(rows[n].shape[-1], rows[n].shape[-1]) for n in learned})
    for tower in towers.values():  # near the identity: a head sees outputs of their kind
        nn.init.eye_(tower.weight)

    def encode(part):
        made = {name: towers[name.replace(".", "_")](part[name]) for name in learned}
        made = {n: nn.functional.normalize(v, dim=-1) if OUTPUTS[n].kind == "unit" else v for n, v in made.items()}
        return {**part, **made}

    def replay(part, gradients, last):
        made = encode(part)
        surrogate(made, {name: gradients[name] for name in learned if name in gradients}).backward()

    shared = {name: value for name, value in batch.items() if name in SHARED}
    splits = [{n: v[i : i + micro] for n, v in rows.items()} for i in range(0, 8, micro)]
    cached_backward(splits, encode, lambda out: loss({**out, **shared}, 0.5), torch.Tensor.backward, replay)
    named = [*towers.named_parameters(), *loss.named_parameters()]
    return {name: p.grad for name, p in named if p.grad is not None}
