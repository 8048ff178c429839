"""What every loss keeps, as functions that anyone can run on a class of their own."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import Loss, shared_of
from ..contracts.outputs import OUTPUTS, Output
from ..errors import CapabilityError
from ..runtime import gather
from ..training.grad_cache import cached_backward, surrogate
from .adapter_claims import BASELINE, PAPER
from .contract import Check, checks_of, refusal, violations
from .options import OPTION_RULES, Options
from .processes import place_of, workers

SIZES = {"B": 8, "D": 24, "W": 20, "T": 16, "P": 6, "L": 7, "N": 3, "V": 2, "E": 5, "C": 5}
DIMS = {
    "embed_dim": SIZES["D"],
    "image_width": SIZES["W"],
    "text_width": SIZES["T"],
    "context_length": SIZES["L"],
    "vocab_size": 50,
    "num_classes": SIZES["C"],
    "num_samples": 32,
}
"""Widths that fit the example outputs."""
HALF = (torch.bfloat16, torch.float16)
TEACHERS = (None, "ema", "frozen")
PROGRESS = 0.5

Batch = dict[str, Tensor]


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
    objective = Objective(cls, options or {}, example)
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
    if processes and place_of(cls) is not None:
        rules.append(two_processes_give_what_one_gives)
    yield from checks_of(objective, rules)


class Objective:
    """A loss to check, with two batches of random outputs.

    Args:
        cls, options, example: as for `loss_checks`.
    """

    def __init__(self, cls: type[Loss], options: Mapping[str, Any], example=None):
        self.cls, self.options = cls, dict(options)
        self._example = example or (lambda outputs, seed: outputs)

    @property
    def title(self) -> str:
        return f"loss '{self.cls.name or self.cls.__name__}'"

    @cached_property
    def needs(self) -> frozenset[str]:
        """Of one built with the options."""
        return self.build().needs

    @property
    def shared(self) -> frozenset[str]:
        """Names of one value for the whole batch."""
        return shared_of(self.cls.outputs)

    @cached_property
    def batches(self) -> list[Batch]:
        return [dict(self._example(self.outputs(self.needs, seed), seed)) for seed in (1, 2)]

    @cached_property
    def training_set(self) -> Batch:
        """Outputs of all samples, for `before_epoch`."""
        rows = {name for name, output in OUTPUTS.items() if not output.shared and name != "index"}
        return self.outputs(rows, 3, B=DIMS["num_samples"])

    @property
    def job(self) -> dict[str, Any]:
        """What `steps_of` computes."""
        return {"options": self.options, "batches": self.batches, "training_set": self.training_set}

    def outputs(self, names, seed: int, **sizes: int) -> Batch:
        return example_outputs(names, seed, self.cls.outputs, **sizes)

    def build(self) -> Loss:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return self.cls(dims=DIMS, **self.options)

    def ready(self) -> Loss:
        """Built, and told of the training set where it asks."""
        return _ready(self.build(), self.training_set)

    def steps(self, batches: list[Batch]) -> list[dict[str, Any]]:
        return steps_of(self.cls, {**self.job, "batches": batches}, 0, 1)["steps"]

    @cached_property
    def whole(self) -> dict[str, Any]:
        """Two steps of this process alone."""
        return steps_of(self.cls, self.job, 0, 1)


def example_outputs(names, seed: int = 0, brought: Mapping[str, Output] | None = None, **sizes: int) -> Batch:
    """Random outputs of the shapes and kinds that the table of outputs gives, by name.

    Args:
        names: of outputs.
        brought: outputs that a loss brings.
        sizes: of axes, where they differ from `SIZES`.
    """
    generator, known = torch.Generator().manual_seed(seed), {**OUTPUTS, **(brought or {})}
    return {name: _example(known[name], {**SIZES, **sizes}, generator) for name in sorted(names)}


def steps_of(cls: type[Loss], job: Mapping[str, Any], rank: int, world: int) -> dict[str, Any]:
    """Value and gradients of batch after batch, as one of `world` ranks that each hold equally many rows.

    Args:
        cls: the class of the loss.
        job: "options", "batches" of the whole, "training_set" or None; "state" to start from, or None.

    Returns:
        {"steps": [{"loss", "outputs": gradients by name, "heads": likewise of its own}], "buffers"}.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        loss = cls(dims={**DIMS, **job.get("dims", {})}, **job["options"])
    if job.get("state"):
        loss.load_state_dict(job["state"])
    _ready(loss, job.get("training_set"))
    shared, steps = shared_of(cls.outputs), []
    for batch in job["batches"]:
        out = {name: _share(value, rank, world, name in shared) for name, value in batch.items()}
        loss.zero_grad()
        value = loss(out, progress=job.get("progress", PROGRESS))["loss"]
        value.backward()
        steps.append(
            {
                "loss": value.detach(),
                "outputs": {name: leaf.grad / world for name, leaf in out.items() if leaf.grad is not None},
                "heads": {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None},
            }
        )
        _after_step(loss)
    return {"steps": steps, "buffers": {name: buffer.clone() for name, buffer in loss.named_buffers()}}


# rules ----------------------------------------------------------------------------------------------------------------


def it_says_what_it_is(objective: Objective) -> Iterator[str]:
    """Names of outputs, a teacher of a kind that there is, towers that there are."""
    cls, known = objective.cls, {*OUTPUTS, *objective.cls.outputs}
    if unknown := sorted(objective.needs - known):
        yield f"needs '{unknown[0]}', which is not an output; bring it in outputs"
    if cls.outputs.keys() & OUTPUTS.keys():
        yield f"outputs brings '{min(cls.outputs.keys() & OUTPUTS.keys())}', which there is already"
    teacher, asks = objective.build().teacher, any(name.startswith("teacher.") for name in objective.needs)
    if teacher not in TEACHERS:
        yield f"teacher is {teacher!r}; give one of {', '.join(map(str, TEACHERS))}"
    if asks and teacher is None:
        yield "needs outputs of a teacher, and teacher is None"
    if not frozenset(cls.frozen_towers) <= {"image", "text"}:
        yield f"frozen_towers is {sorted(cls.frozen_towers)}; the towers are image and text"


def it_names_its_paper(objective: Objective) -> Iterator[str]:
    """Title, year and arXiv id, or DOI, in the docstring of the class or its module; or that it is a baseline."""
    text = f"{objective.cls.__doc__ or ''}\n{sys.modules[objective.cls.__module__].__doc__ or ''}"
    if not PAPER.search(text) and not BASELINE.search(text):
        yield "its docstring names no paper: give title, year and arXiv id, or say that it is a baseline"


def it_gives_finite_scalars(objective: Objective) -> Iterator[str]:
    """A "loss", and its parts."""
    values = objective.ready()(objective.batches[0], PROGRESS)
    if "loss" not in values:
        yield f"gives {', '.join(sorted(values))} and no 'loss'"
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.ndim or not torch.isfinite(value):
            yield f"its '{name}' is not a finite scalar tensor"


def it_says_what_it_lacks(objective: Objective) -> Iterator[str]:
    loss = objective.ready()
    for name in sorted(objective.needs):
        without = {key: value for key, value in objective.batches[0].items() if key != name}
        did, message = refusal(lambda out=without: loss(out), CapabilityError)
        if did or f"'{name}'" not in message:
            yield f"needs '{name}', and without it {did or 'does not name it'}; raise the CapabilityError of one line"


def it_reads_what_it_needs(objective: Objective) -> Iterator[str]:
    """`compute` reads each name of `needs`."""
    loss, watched = objective.ready(), _Watched(objective.batches[0])
    loss.compute(watched, PROGRESS)
    for name in sorted(objective.needs - watched.read):
        yield f"needs '{name}', and compute() never reads it"


def something_learns(objective: Objective) -> Iterator[str]:
    step = objective.whole["steps"][0]
    gradients = [*step["outputs"].values(), *step["heads"].values()]
    if not any(gradient.abs().max() > 0 for gradient in gradients):
        yield "its gradient is nothing"


def no_gradient_reaches_a_teacher(objective: Objective) -> Iterator[str]:
    for name, gradient in objective.whole["steps"][0]["outputs"].items():
        if name.startswith("teacher.") and gradient.abs().max() > 0:
            yield f"a gradient reaches '{name}'; detach it"


def the_order_of_the_batch_means_nothing(objective: Objective) -> Iterator[str]:
    order = torch.randperm(SIZES["B"], generator=torch.Generator().manual_seed(5))
    batch = objective.batches[0]
    shuffled = {name: value if name in objective.shared else value[order] for name, value in batch.items()}
    one, other = (objective.steps([each])[0]["loss"] for each in (batch, shuffled))
    if not torch.allclose(one, other, rtol=1e-5, atol=1e-6):
        yield f"another order of the batch changes it by {float((one - other).abs()):.2g}"


def halves_of_two_ranks_give_the_whole(objective: Objective) -> Iterator[str]:
    """Two ranks with half of the rows each, whose rows are gathered by hand, give what one process gives: the value,
    and each rank the gradients of its own rows."""
    ranks = [_as_rank(objective, rank) for rank in range(2)]
    yield from _differences(objective, ranks, "half of the rows, with those of another rank,")


def two_processes_give_what_one_gives(objective: Objective) -> Iterator[str]:
    """The same in two processes, step after step, and their buffers after it."""
    job = {**objective.job, "kind": "loss", "place": place_of(objective.cls)}
    try:
        ranks = workers(2).run(job)
    except RuntimeError as error:
        yield f"in two processes it fails: {error}"
    else:
        yield from _differences(objective, ranks, "each of two processes")


def micro_batches_give_the_gradient_of_the_whole(objective: Objective) -> Iterator[str]:
    """GradCache over a linear layer behind each output stands for the towers."""
    whole, parts = (_through_layers(objective, micro) for micro in (SIZES["B"], 3))
    for name, gradient in whole.items():
        if name not in parts or not torch.allclose(parts[name], gradient, rtol=1e-4, atol=1e-4):
            yield f"micro-batches change the gradient of '{name}'"


def it_is_finite_in_16_bits(objective: Objective) -> Iterator[str]:
    full = objective.steps(objective.batches[:1])[0]["loss"]
    for dtype in HALF:
        halved = {n: v.to(dtype) if v.is_floating_point() else v for n, v in objective.batches[0].items()}
        step = objective.steps([halved])[0]
        values = [step["loss"], *step["outputs"].values(), *step["heads"].values()]
        if not all(torch.isfinite(value).all() for value in values):
            yield f"in {str(dtype).removeprefix('torch.')} it or its gradient is not finite"
        elif abs(step["loss"] - full) > 0.1 * abs(full) + 0.1:
            yield f"in {str(dtype).removeprefix('torch.')} it is {float(step['loss']):.3g}, not {float(full):.3g}"


def nothing_moves_before_the_step(objective: Objective) -> Iterator[str]:
    """`compute` gives the same twice; queues, means and prototypes move in `after_step`."""
    loss = objective.ready()
    before = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    values = [loss(objective.batches[0], PROGRESS)["loss"].detach() for _ in range(2)]
    if not torch.allclose(*values, rtol=1e-6, atol=1e-6):
        yield "gives another value for the same batch at once; move in after_step what moves"
    for name, buffer in loss.named_buffers():
        of_batch_norm = "running_" in name or "num_batches" in name
        if not of_batch_norm and not torch.equal(before[name], buffer):
            yield f"moves its buffer '{name}' before the step; do it in after_step"


def its_state_is_all_it_holds(objective: Objective) -> Iterator[str]:
    """A deep copy, and a new one with its state dict after a step, give the same value; the copy's weights are its
    own."""
    loss, (first, second) = objective.ready(), objective.batches
    loss(first, PROGRESS)
    _after_step(loss)
    again, loaded = copy.deepcopy(loss), objective.ready()
    loaded.load_state_dict(loss.state_dict())
    value = loss(second, PROGRESS)["loss"].detach()
    for other, words in ((again, "a deep copy"), (loaded, "a new one with its state dict")):
        gap = (other(second, PROGRESS)["loss"].detach() - value).abs()
        if gap > 1e-5 * (1 + value.abs()):
            yield f"after a step {words} differs by {float(gap):.2g}; keep in buffers and parameters what lasts"
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


def _example(output: Output, sizes: Mapping[str, int], generator: torch.Generator) -> Tensor:
    shape = [sizes.get(axis, 4) for axis in output.shape]
    if output.kind == "unit":
        return F.normalize(torch.randn(shape, generator=generator), dim=-1)
    if output.kind == "raw":
        return torch.randn(shape, generator=generator)
    if output.kind == "positive":
        return torch.tensor(11.3)
    if output.kind == "number":
        return torch.tensor(-4.2)
    if output.kind == "mask":
        lengths = torch.randint(2, shape[1] + 1, (shape[0], 1), generator=generator)
        return torch.arange(shape[1])[None] < lengths
    if output.kind == "class":
        return torch.randint(0, 3, shape, generator=generator)
    if output.kind == "finding":
        return torch.randint(-1, 2, shape, generator=generator).float()
    if output.kind == "row":
        return torch.randperm(DIMS["num_samples"], generator=generator)[: shape[0]]
    if output.kind == "token":
        hidden = torch.rand(shape, generator=generator) < 0.4
        return torch.where(hidden, torch.randint(0, DIMS["vocab_size"], shape, generator=generator), -100)
    raise ValueError(f"an output of kind '{output.kind}' has no example; give example=")


def _ready(loss: Loss, training_set: Batch | None) -> Loss:
    prepare = getattr(loss, "before_epoch", None)
    if prepare is not None and training_set is not None:
        prepare(lambda names: {name: training_set[name] for name in names})
    return loss


def _after_step(loss: Loss) -> None:
    move = getattr(loss, "after_step", None)
    if move is not None:
        move(None)


def _share(value: Tensor, rank: int, world: int, shared: bool) -> Tensor:
    """A rank's rows, as a leaf that asks for its gradient. What is shared has a gradient that ranks agree on."""
    if shared:
        return value.clone().requires_grad_(value.is_floating_point())
    count = len(value) // world
    mine = value[rank * count : (rank + 1) * count].clone()
    return mine.requires_grad_(mine.is_floating_point())


def _as_rank(objective: Objective, rank: int) -> dict[str, Any]:
    """The first step of one of two ranks in this process: `gather` finds the other's rows, without a gradient, and
    returns its own gradient times the number of ranks, as ranks do."""
    whole = objective.batches[0]

    def gathered(out: Mapping[str, Tensor], shared: frozenset[str]) -> dict[str, Tensor]:
        return {n: v if n in shared else _Joined.apply(v, whole[n].to(v.dtype), rank) for n, v in out.items()}

    with mock.patch.object(gather, "global_batch", gathered):
        return steps_of(objective.cls, {**objective.job, "batches": [whole]}, rank, 2)


class _Joined(torch.autograd.Function):
    """A rank's rows among those of all; see `runtime.gather.gather_rows`."""

    @staticmethod
    def forward(ctx, rows: Tensor, whole: Tensor, rank: int) -> Tensor:
        ctx.count, ctx.rank = len(rows), rank
        start = rank * len(rows)
        return torch.cat([whole[:start], rows, whole[start + len(rows) :]])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        start = ctx.rank * ctx.count
        return gradient[start : start + ctx.count] * 2, None, None


def _differences(objective: Objective, ranks: list[dict[str, Any]], who: str) -> Iterator[str]:
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
            together = parts[0] * 2 if name in objective.shared else torch.cat(parts)
            if not torch.allclose(together, gradient, rtol=1e-5, atol=1e-6):
                yield f"{who} has another gradient of '{name}' than the whole batch"
        for name, gradient in one["heads"].items():
            mean = sum(half["heads"][name] for half in both) / 2
            if not torch.allclose(mean, gradient, rtol=1e-5, atol=1e-5):
                yield f"{who} has another gradient of its own '{name}' than the whole batch"
    if len(ranks[0]["steps"]) == len(objective.whole["steps"]):
        for name, buffer in objective.whole["buffers"].items():
            if not all(torch.allclose(rank["buffers"][name], buffer, rtol=1e-5, atol=1e-5) for rank in ranks):
                yield f"{who} ends with another buffer '{name}' than the whole batch"


def _through_layers(objective: Objective, micro: int) -> dict[str, Tensor]:
    """Gradients of a layer behind each output and of the loss's own, of a batch in parts."""
    batch, loss, known = objective.batches[0], objective.ready(), {**OUTPUTS, **objective.cls.outputs}
    rows = {name: value for name, value in batch.items() if name not in objective.shared}
    given = {name for name in rows if known[name].kind in ("unit", "raw") and not name.startswith("teacher.")}
    if not given:
        return {}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        towers = nn.ModuleDict({_plain(n): nn.Linear(rows[n].shape[-1], rows[n].shape[-1]) for n in sorted(given)})
    for tower in towers.values():  # near the identity: a head sees outputs of their kind
        nn.init.eye_(tower.weight)

    def encode(part: Batch) -> Batch:
        made = {name: towers[_plain(name)](part[name]) for name in given}
        return {**part, **{n: F.normalize(v, dim=-1) if known[n].kind == "unit" else v for n, v in made.items()}}

    def replay(part: Batch, gradients: Batch, last: bool) -> None:
        made = encode(part)
        surrogate(made, {name: gradients[name] for name in given if name in gradients}).backward()

    shared = {name: value for name, value in batch.items() if name in objective.shared}
    parts = [{n: v[i : i + micro] for n, v in rows.items()} for i in range(0, SIZES["B"], micro)]
    cached_backward(parts, encode, lambda out: loss({**out, **shared}, PROGRESS), Tensor.backward, replay)
    named = [*towers.named_parameters(), *loss.named_parameters()]
    return {name: p.grad for name, p in named if p.grad is not None}


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)
