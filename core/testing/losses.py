"""What every loss keeps, as functions that anyone can run on a class of their own."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import Loss
from ..contracts.outputs import OUTPUTS
from ..errors import CapabilityError
from ..training.grad_cache import cached_backward, surrogate
from .contract import Check, checks_of, names_its_origin, refusal, violations
from .loss_steps import PROGRESS, SIZES, Batch, CheckedLoss, steps_elsewhere, steps_of
from .options import OPTION_RULES, Options
from .processes import class_place, workers
from .thread_ranks import as_ranks

HALF = (torch.bfloat16, torch.float16)
TEACHERS = (None, "ema", "frozen")


def check_loss(cls: type[Loss], *, raises: bool = True, **how: Any) -> list[str]:
    """Hold an objective to the contract of `Loss`, on random outputs of the shapes that it needs.

    Args:
        cls: the class of a loss.
        raises: raise where it breaks a rule; else the lines are returned.
        how: as for `loss_checks`.

    Returns:
        A line per violated rule: "loss 'x': another order of the batch changes it by 0.3".

    Raises:
        ContractError: an AssertionError with those lines.
    """
    return violations(loss_checks(cls, **how), raises)


def loss_checks(
    cls: type[Loss],
    *,
    options: Mapping[str, Any] | None = None,
    example: Callable[[Mapping[str, Tensor], int], Mapping[str, Tensor]] | None = None,
    processes: bool = False,
) -> Iterator[Check]:
    """The same rule by rule: (name, call), for `pytest.mark.parametrize` and its like. A call raises `ContractError`.

    Args:
        cls: the class of a loss.
        options: that it is built with; narrow heads make it fast.
        example: (outputs by name, seed) -> the outputs of a batch of 8 that it is given, where random ones of the kinds
            in `OUTPUTS` will not do.
        processes: also start two processes of a gloo group, and compare them with one.
    """
    objective = CheckedLoss(cls, options or {}, example)
    yield from checks_of(Options(cls, objective.title), OPTION_RULES)
    rules = [
        it_says_what_it_is,
        it_names_its_paper,
        it_gives_finite_scalars,
        it_says_what_it_lacks,
        it_reads_what_it_needs,
        something_learns,
        no_gradient_reaches_a_teacher,
        the_order_of_the_batch_means_nothing,
        halves_of_two_ranks_give_the_whole,
        micro_batches_give_the_gradient_of_the_whole,
        it_is_finite_in_16_bits,
        nothing_moves_before_the_step,
        its_state_is_all_it_holds,
    ]
    if processes and class_place(cls) is not None:
        rules.append(two_processes_give_what_one_gives)
    yield from checks_of(objective, rules)


# rules ----------------------------------------------------------------------------------------------------------------


def it_says_what_it_is(objective: CheckedLoss) -> Iterator[str]:
    """Names of outputs, a teacher of a kind that there is, towers that there are."""
    cls, outputs = objective.cls, {*OUTPUTS, *objective.cls.outputs}
    if unknown := sorted(objective.needs - outputs):
        yield f"needs '{unknown[0]}', which is not an output; declare it in outputs"
    if cls.outputs.keys() & OUTPUTS.keys():
        yield f"outputs brings '{min(cls.outputs.keys() & OUTPUTS.keys())}', which there is already"
    teacher, asks = objective.build().teacher, any(name.startswith("teacher.") for name in objective.needs)
    if teacher not in TEACHERS:
        yield f"teacher is {teacher!r}; give one of {', '.join(map(str, TEACHERS))}"
    if asks and teacher is None:
        yield "needs outputs of a teacher, and teacher is None"
    if not frozenset(cls.frozen_towers) <= {"image", "text"}:
        yield f"frozen_towers is {sorted(cls.frozen_towers)}; the towers are image and text"


def it_names_its_paper(objective: CheckedLoss) -> Iterator[str]:
    """Title, year and arXiv id, or DOI, in the docstring of the class or its module; or that it is a baseline."""
    if not names_its_origin(objective.cls):
        yield "its docstring names no paper: give title, year and arXiv id, or say that it is a baseline"


def it_gives_finite_scalars(objective: CheckedLoss) -> Iterator[str]:
    """A "loss", and its parts."""
    values = objective.ready()(objective.batches[0], PROGRESS)
    if "loss" not in values:
        yield f"gives {', '.join(sorted(values))} and no 'loss'"
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.ndim or not torch.isfinite(value):
            yield f"its '{name}' is not a finite scalar tensor"


def it_says_what_it_lacks(objective: CheckedLoss) -> Iterator[str]:
    loss = objective.ready()
    for name in sorted(objective.needs):
        without = {key: value for key, value in objective.batches[0].items() if key != name}
        did, message = refusal(lambda out=without: loss(out), CapabilityError)
        if did or f"'{name}'" not in message:
            yield f"needs '{name}', and without it {did or 'does not name it'}; raise the CapabilityError of one line"


def it_reads_what_it_needs(objective: CheckedLoss) -> Iterator[str]:
    """`compute` reads each name of `needs`."""
    loss, watched = objective.ready(), _Watched(objective.batches[0])
    loss.compute(watched, PROGRESS)
    for name in sorted(objective.needs - watched.read):
        yield f"needs '{name}', and compute() never reads it"


def something_learns(objective: CheckedLoss) -> Iterator[str]:
    step = objective.whole["steps"][0]
    gradients = [*step["outputs"].values(), *step["heads"].values()]
    if not any(gradient.abs().max() > 0 for gradient in gradients):
        yield "it has no gradient"


def no_gradient_reaches_a_teacher(objective: CheckedLoss) -> Iterator[str]:
    for name, gradient in objective.whole["steps"][0]["outputs"].items():
        if name.startswith("teacher.") and gradient.abs().max() > 0:
            yield f"a gradient reaches '{name}'; detach it"


def the_order_of_the_batch_means_nothing(objective: CheckedLoss) -> Iterator[str]:
    order = torch.randperm(SIZES["B"], generator=torch.Generator().manual_seed(5))
    batch = objective.batches[0]
    shuffled = {name: value if name in objective.shared else value[order] for name, value in batch.items()}
    one, other = (objective.steps([each])[0]["loss"] for each in (batch, shuffled))
    if not torch.allclose(one, other, rtol=1e-5, atol=1e-6):
        yield f"another order of the batch changes it by {float((one - other).abs()):.2g}"


def halves_of_two_ranks_give_the_whole(objective: CheckedLoss) -> Iterator[str]:
    """Two ranks with half of the rows each, as two threads, give what one process gives: the value, and each rank the
    gradients of its own rows."""
    job = {**objective.job, "batches": objective.batches[:1]}
    ranks = as_ranks(2, lambda rank: steps_of(objective.cls, job, rank, 2))
    yield from _differences(objective, ranks, "half of the rows, with those of another rank,")


def two_processes_give_what_one_gives(objective: CheckedLoss) -> Iterator[str]:
    """The same in two processes, step after step, and their buffers after it."""
    job = {**objective.job, "place": class_place(objective.cls)}
    try:
        ranks = workers(2).run(steps_elsewhere, job)
    except RuntimeError as error:
        yield f"in two processes it fails: {error}"
    else:
        yield from _differences(objective, ranks, "each of two processes")


def micro_batches_give_the_gradient_of_the_whole(objective: CheckedLoss) -> Iterator[str]:
    """GradCache over a linear layer behind each output stands for the towers."""
    whole, parts = (_through_layers(objective, micro) for micro in (SIZES["B"], 3))
    for name, gradient in whole.items():
        if name not in parts or not torch.allclose(parts[name], gradient, rtol=1e-4, atol=1e-4):
            yield f"micro-batches change the gradient of '{name}'"


def it_is_finite_in_16_bits(objective: CheckedLoss) -> Iterator[str]:
    full = objective.steps(objective.batches[:1])[0]["loss"]
    for dtype in HALF:
        halved = {n: v.to(dtype) if v.is_floating_point() else v for n, v in objective.batches[0].items()}
        step = objective.steps([halved])[0]
        values = [step["loss"], *step["outputs"].values(), *step["heads"].values()]
        if not all(torch.isfinite(value).all() for value in values):
            yield f"in {str(dtype).removeprefix('torch.')} it or its gradient is not finite"
        elif abs(step["loss"] - full) > 0.1 * abs(full) + 0.1:
            yield f"in {str(dtype).removeprefix('torch.')} it is {float(step['loss']):.3g}, not {float(full):.3g}"


def nothing_moves_before_the_step(objective: CheckedLoss) -> Iterator[str]:
    """`compute` gives the same twice; queues, means and prototypes move in `after_step`."""
    loss = objective.ready()
    before = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    values = [loss(objective.batches[0], PROGRESS)["loss"].detach() for _ in range(2)]
    if not torch.allclose(*values, rtol=1e-6, atol=1e-6):
        yield "gives a different value for the same batch the second time; change state only in after_step"
    for name, buffer in loss.named_buffers():
        of_batch_norm = "running_" in name or "num_batches" in name
        if not of_batch_norm and not torch.equal(before[name], buffer):
            yield f"moves its buffer '{name}' before the step; do it in after_step"


def its_state_is_all_it_holds(objective: CheckedLoss) -> Iterator[str]:
    """A deep copy, and a new one with its state dict after a step, give the same value; the copy's weights are its
    own."""
    loss, (first, second) = objective.ready(), objective.batches
    loss(first, PROGRESS)
    loss.after_step(None)
    again, loaded = copy.deepcopy(loss), objective.ready()
    loaded.load_state_dict(loss.state_dict())
    value = loss(second, PROGRESS)["loss"].detach()
    for other, words in ((again, "a deep copy"), (loaded, "a new one with its state dict")):
        gap = (other(second, PROGRESS)["loss"].detach() - value).abs()
        if gap > 1e-5 * (1 + value.abs()):
            yield f"after a step {words} differs by {float(gap):.2g}; keep all state in buffers and parameters"
        if other == loss or hash(other) == hash(loss):
            yield "is equal to its copies; write @dataclass(eq=False, repr=False, kw_only=True)"
    for parameter in again.parameters():
        parameter.data.zero_()
    if not torch.allclose(loss(second, PROGRESS)["loss"].detach(), value, rtol=1e-5, atol=1e-5):
        yield "shares weights with its copies"


# ----------------------------------------------------------------------------------------------------------------------


class _Watched(Mapping):
    """Outputs that remember which of them were asked for."""

    def __init__(self, content: Mapping[str, Tensor]):
        self.content, self.read = dict(content), set()

    def __getitem__(self, name: str) -> Tensor:
        if name in self.content:
            self.read.add(name)
        return self.content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)


def _differences(objective: CheckedLoss, ranks: list[dict[str, Any]], who: str) -> Iterator[str]:
    """Where two ranks do not give what one process gives."""
    for step, both in enumerate(zip(*(rank["steps"] for rank in ranks))):
        one = objective.whole["steps"][step]
        for half in both:
            if not torch.allclose(half["loss"], one["loss"], rtol=1e-5, atol=1e-5):
                yield f"{who} gives {float(half['loss']):.4g}, the whole batch {float(one['loss']):.4g}"
        for name, gradient in one["outputs"].items():
            if any(name not in half["outputs"] for half in both):
                yield f"{who} has no gradient of '{name}'"
                continue
            parts = [half["outputs"][name] for half in both]
            together = sum(parts) if name in objective.shared else torch.cat(parts)  # each is its mean over ranks
            if not _alike(together, gradient, 1e-6):
                yield f"{who} has another gradient of '{name}' than the whole batch"
        for name, gradient in one["heads"].items():
            mean = sum(half["heads"][name] for half in both) / 2
            if not _alike(mean, gradient, 1e-5):
                yield f"{who} has another gradient of its own '{name}' than the whole batch"
    if len(ranks[0]["steps"]) == len(objective.whole["steps"]):
        for name, buffer in objective.whole["buffers"].items():
            if not all(torch.allclose(rank["buffers"][name], buffer, rtol=1e-5, atol=1e-5) for rank in ranks):
                yield f"{who} ends with another buffer '{name}' than the whole batch"


def _alike(gradient: Tensor, expected: Tensor, rounding: float) -> bool:
    """Within rounding, which is that of the largest entries: they are what sums are made of."""
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(gradient, expected, rtol=1e-5, atol=rounding * max(1.0, largest))


def _through_layers(objective: CheckedLoss, micro: int) -> dict[str, Tensor]:
    """Gradients of a layer behind each output and of the loss's own, of a batch in parts."""
    batch, loss, outputs = objective.batches[0], objective.ready(), {**OUTPUTS, **objective.cls.outputs}
    rows = {name: value for name, value in batch.items() if name not in objective.shared}
    encoded = {name for name in rows if not outputs[name].column or outputs[name].tower}  # other columns are numbers
    features = {name for name in encoded if outputs[name].kind in ("unit", "raw") and not name.startswith("teacher.")}
    if not features:
        return {}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        towers = nn.ModuleDict({_plain(n): nn.Linear(rows[n].shape[-1], rows[n].shape[-1]) for n in sorted(features)})
    for tower in towers.values():  # near the identity: a head sees outputs of their kind
        nn.init.eye_(tower.weight)

    def encode(part: Batch) -> Batch:
        made = {name: towers[_plain(name)](part[name]) for name in features}
        return {**part, **{n: F.normalize(v, dim=-1) if outputs[n].kind == "unit" else v for n, v in made.items()}}

    def replay(part: Batch, gradients: Batch, last: bool) -> None:
        made = encode(part)
        surrogate(made, {name: gradients[name] for name in features if name in gradients}).backward()

    shared = {name: value for name, value in batch.items() if name in objective.shared}
    parts = [{n: v[i : i + micro] for n, v in rows.items()} for i in range(0, SIZES["B"], micro)]
    cached_backward(parts, encode, lambda out: loss({**out, **shared}, PROGRESS), Tensor.backward, replay)
    named = [*towers.named_parameters(), *loss.named_parameters()]
    return {name: p.grad for name, p in named if p.grad is not None}


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)
