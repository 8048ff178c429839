"""Example outputs for any loss, and steps of it on them, alone or as one of several ranks."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import Loss, shared_of
from ..contracts.outputs import OUTPUTS, Output
from .processes import class_at

SIZES = {"B": 8, "D": 24, "W": 20, "T": 16, "P": 6, "L": 7, "N": 3, "V": 2, "G": 2, "E": 5, "C": 5, "S": 4, "X": 50}
DIMS = {
    "embed_dim": SIZES["D"],
    "image_width": SIZES["W"],
    "text_width": SIZES["T"],
    "context_length": SIZES["L"],
    "vocab_size": SIZES["X"],
    "num_classes": SIZES["C"],
    "num_labels": SIZES["C"],
    "num_samples": 32,
    "patches": SIZES["P"],
    "patch_values": SIZES["S"],
}
"""Widths that fit the example outputs."""
PROGRESS = 0.5
_BUILDING = threading.Lock()  # ranks may be threads, which have one random state

Batch = dict[str, Tensor]


class CheckedLoss:
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
        outputs = {**OUTPUTS, **self.cls.outputs}
        rows = {name for name, output in outputs.items() if not output.shared and name != "index"}
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
    generator, outputs = torch.Generator().manual_seed(seed), {**OUTPUTS, **(brought or {})}
    return {name: _example(outputs[name], {**SIZES, **sizes}, generator) for name in sorted(names)}


def steps_of(cls: type[Loss], job: Mapping[str, Any], rank: int, world: int) -> dict[str, Any]:
    """Value and gradients of batch after batch, as one of `world` ranks that each hold equally many rows.

    Args:
        cls: the class of the loss.
        job: "options", "batches" of the whole, "training_set" or None; "state" to start from, or None.

    Returns:
        {"steps": [{"loss", "outputs": gradients by name, "heads": likewise of its own}], "buffers"}.
    """
    with _BUILDING, torch.random.fork_rng(devices=()):
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
        loss.after_step(None)
    return {"steps": steps, "buffers": {name: buffer.clone() for name, buffer in loss.named_buffers()}}


def steps_elsewhere(job: Mapping[str, Any], rank: int, world: int) -> dict[str, Any]:
    """`steps_of` as a job of another process (`processes.Workers.run`); "place" says where the class is."""
    return steps_of(class_at(job["place"]), job, rank, world)


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
    if training_set is not None:
        loss.before_epoch(lambda names: {name: training_set[name] for name in names})
    return loss


def _share(value: Tensor, rank: int, world: int, shared: bool) -> Tensor:
    """A rank's rows, as a leaf that asks for its gradient. What is shared has a gradient that ranks agree on."""
    if shared:
        return value.clone().requires_grad_(value.is_floating_point())
    count = len(value) // world
    mine = value[rank * count : (rank + 1) * count].clone()
    return mine.requires_grad_(mine.is_floating_point())
