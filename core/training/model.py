"""Towers and objective as the module that mmengine's Runner trains: one optimiser step per global batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..runtime.distributed import world_size
from .grad_cache import cached_backward, surrogate
from .kernels import not_deterministic
from .objective import Objective
from .samples import length_field, seed_of, seed_torch
from .settings import TrainingSettings
from .sharding import average_replicated, is_sharded, whole
from .teachers import widths_of
from .tower_outputs import Outputs
from .tower_weights import BetweenWeights, all_weights, follow, swapped

T = TypeVar("T")
AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


class PairModel(nn.Module):
    """The towers of a backbone, what the outputs need beyond them, the objective, and teachers where there are any.

    What mmengine's Runner asks of a model is `train_step` and `val_step`. It is not mmengine's BaseModel: that has
    weights initialised and sent round, which weights that are sharded over processes do not allow.

    Args:
        backbone: its model is trained.
        objective: what is minimised; its heads are trained too.
        outputs: makes what the objective needs.
        settings: micro-batch and precision.
        mix, between: as of `Task`.
        graph_changes: whether some steps reach other parameters than others.

    Attributes:
        progress: share of the training that is done.
        average: of the towers' weights, by name, which is validated in their place; or None.
        not_deterministic: sentences on what a deterministic training cannot be.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        outputs: Outputs,
        settings: TrainingSettings,
        mix: Callable[[dict[str, Any], np.random.Generator], dict[str, Any]] | None = None,
        between: BetweenWeights | None = None,
        graph_changes: bool = False,
    ):
        super().__init__()
        self.mix, self.between, self.graph_changes = mix, between, graph_changes
        self.towers = backbone.model
        self.objective, self.outputs, self.settings = objective, outputs, settings
        of_teachers = [teacher.model for teacher in outputs.teachers]
        self.teacher_towers: nn.Module | None = (
            nn.ModuleList(of_teachers) if of_teachers[1:] else next(iter(of_teachers), None)
        )
        self._held = [backbone]
        self.progress, self.average = 0.0, None
        asked = settings.deterministic and backbone.device.type == "cuda"
        self.not_deterministic = not_deterministic(backbone, outputs.wanted) if asked else []
        readers = [loss.needs for loss in objective.losses.values() if "text_tokens" in loss.needs]
        self.leaves_padding = bool(readers) and all("text_mask" in needs for needs in readers)
        self.scale_bounds = scale_bounds(objective, float(backbone.logit_scale.detach()))

    @property
    def backbone(self) -> Backbone:
        return self._held[0]

    @property
    def locked(self) -> list[nn.Module]:
        """Towers that are kept as they are, which see each sample as after the training: without dropout."""
        of_losses = any(loss.frozen_towers for loss in self.objective.losses.values())
        if not (self.settings.lock or of_losses):
            return []
        named = [(name, part) for name, part in self.towers.named_children() if any(True for _ in part.parameters())]
        frozen = [(name, part) for name, part in named if not any(p.requires_grad for p in part.parameters())]
        return [part for name, part in frozen if self.backbone.tower_of(name) != "shared"]

    @property
    def backbones(self) -> list[Backbone]:
        """Those whose towers run: the one that is trained, and its teachers."""
        return [*self._held, *self.outputs.teachers]

    @property
    def has_static_graph(self) -> bool:
        """Whether each backward pass reaches the same parameters: not with micro-batches, where heads and towers have
        passes of their own, nor with losses that say so."""
        micro, rows = self.settings.micro_batch_size, self.settings.batch_size // world_size()
        changes = self.graph_changes or any(loss.graph_changes for loss in self.objective.losses.values())
        return (micro is None or micro >= rows) and not changes

    def train(self, mode: bool = True) -> PairModel:
        super().train(mode)
        if self.teacher_towers is not None:
            self.teacher_towers.eval()
        for part in self.locked:
            part.eval()
        return self

    def forward(self, batch: Mapping[str, Any], mode: str, gradients: Mapping[str, Tensor] | None = None) -> Any:
        """mode "loss": {"loss", parts} of the batch; "encode": its outputs; "objective": the loss of outputs that are
        given as the batch; "replay": a scalar whose gradient by the outputs is `gradients`."""
        if mode == "objective":
            return self._loss(batch)
        with self._autocast():
            classes = self.outputs.classes()
            made = self.outputs.per_sample(batch, classes)
        if mode == "encode":
            return {name: value.float() if value.is_floating_point() else value for name, value in made.items()}
        if mode == "replay":
            return surrogate({name: made[name].float() for name in gradients}, gradients)
        return self._loss(made, classes)

    def train_step(self, data: dict[str, Any], optim_wrapper) -> dict[str, Tensor]:
        """One optimiser step; see `global_step`."""
        return global_step(self, self, data, optim_wrapper)

    def val_step(self, validate: Callable[[], T]) -> T:
        """The score, or scores, of the towers, whole and in eval mode; random states stay as they were."""
        training = self.towers.training
        self.towers.eval()
        with torch.random.fork_rng(), swapped(self.towers, self.average), whole(self):
            score = validate()
        self.towers.train(training)
        for part in self.locked:
            part.eval()
        return score

    def mixed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch of a step, as `mix` changes it."""
        if self.mix is None:
            return batch
        return self.mix(self.outputs.normalised(batch), self.drawn("mix"))

    def drawn(self, name: str) -> np.random.Generator:
        """A generator of this step, the same on all processes."""
        return np.random.default_rng(seed_of(self.settings.seed, self.progress, name))

    def after_step(self) -> None:
        """What moves once per step: the logit scale's bounds, queues and means of the losses, the teacher."""
        clamp_logit_scale(self.towers, self.scale_bounds)
        self.objective.call("after_step", self)
        if self.objective.teacher == "ema":
            keeps = [
                loss.teacher_momentum(self.progress) for loss in self.objective.losses.values() if loss.teacher == "ema"
            ]
            for loss in self.objective.losses.values():
                if (anchor := loss.teacher_anchor(self.progress)) is not None:
                    follow(all_weights(self.teacher_towers), all_weights(anchor[0]), anchor[1])
            follow(all_weights(self.teacher_towers), all_weights(self.towers), keeps[0])

    def _loss(self, made: Mapping[str, Any], classes: Tensor | None = None) -> dict[str, Tensor]:
        with _alike_on_all_ranks(self.settings.seed, self.progress):
            with self._autocast():
                shared = self.outputs.shared(classes)
            return self.objective({**made, **shared}, self.progress)

    def _autocast(self):
        if self.settings.amp is None:
            return nullcontext()
        return torch.autocast(self.backbone.device.type, dtype=AMP[self.settings.amp])


@contextmanager
def _alike_on_all_ranks(seed: int, progress: float) -> Iterator[None]:
    """What a loss draws is drawn alike on every rank, each of which computes it of the whole batch."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        seed_torch(seed_of(seed, progress))
        yield


def inner_model(wrapped: nn.Module) -> PairModel:
    """The model inside whatever wraps it."""
    return getattr(wrapped, "module", wrapped)


def global_step(wrapped: nn.Module, model: PairModel, data: dict[str, Any], optim_wrapper) -> dict[str, Tensor]:
    """Forward, backward and update for one global batch, of which `data` is this process's part.

    Returns:
        {"loss": ..., parts, "grad_norm": ...}, detached.
    """
    device = model.backbone.device
    batch = {name: value.to(device, non_blocking=True) for name, value in data.items() if isinstance(value, Tensor)}
    batch |= {name: value for name, value in data.items() if isinstance(value, np.ndarray)}  # stays with the host
    if model.leaves_padding and world_size() == 1 and not model.settings.compile:
        batch = cut_to_longest(batch)
    parts = micro_batches(model.mixed(batch), model.settings.micro_batch_size)
    values = _backward(wrapped, model, parts, optim_wrapper.backward)
    if (between := model.between) is not None:
        with between.moved(model.towers, model.drawn("between")):
            _backward(wrapped, model, parts, lambda loss: optim_wrapper.backward(between.ratio * loss))
    if is_sharded(model):
        average_replicated([p for p in model.parameters() if p.requires_grad])
    norm = optim_wrapper.gradient_norm()
    optim_wrapper.step(values["loss"].detach().isfinite() & norm.isfinite())
    optim_wrapper.zero_grad()
    with torch.no_grad():
        model.after_step()
    return {**{name: value.detach() for name, value in values.items()}, "grad_norm": norm}


def _backward(wrapped: nn.Module, model: PairModel, parts: list[dict[str, Any]], backward) -> dict[str, Tensor]:
    """Gradients of the batch, of which `parts` go through the towers one by one, added to those that there are."""
    if len(parts) == 1:
        values = wrapped(parts[0], mode="loss")
        backward(values["loss"])
        return values
    return cached_backward(
        parts,
        encode=lambda part: model(part, mode="encode"),
        loss_of=lambda out: model(out, mode="objective"),
        backward=backward,
        replay=lambda part, gradients, last: _replay(wrapped, part, gradients, last),
    )


def micro_batches(batch: dict[str, Any], size: int | None) -> list[dict[str, Any]]:
    """The batch in parts of at most `size` samples."""
    count = len(next(iter(batch.values())))
    if size is None or size >= count:
        return [batch]
    return [{name: value[i : i + size] for name, value in batch.items()} for i in range(0, count, size)]


def cut_to_longest(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch without the padding that all of its texts end with, where the host knows their lengths: losses of words
    and patches would pay for it. Ranks exchange words, so several need one length and leave it."""
    lengths = {name: batch[field] for name in batch if (field := length_field(name)) in batch}
    return {**batch, **{name: batch[name][..., : int(of.max(initial=1))] for name, of in lengths.items()}}


def scale_bounds(objective: Objective, start: float) -> tuple[float, float] | None:
    """Within what the losses want the logit scale to stay; a backbone that starts above it keeps its own as the top."""
    published = [loss.logit_scale_bounds for loss in objective.losses.values() if loss.logit_scale_bounds]
    if not published:
        return None
    lowest, highest = max(low for low, _ in published), min(high for _, high in published)
    return lowest, max(highest, start)


def clamp_logit_scale(towers: nn.Module, bounds: tuple[float, float] | None) -> None:
    """Bring the logit scale, kept as its logarithm, back within its bounds."""
    parameter = getattr(towers, "logit_scale", None)
    if bounds is not None and isinstance(parameter, nn.Parameter) and parameter.requires_grad:
        parameter.data.clamp_(math.log(bounds[0]), math.log(bounds[1]))


def _replay(wrapped: nn.Module, part: dict[str, Tensor], gradients: Mapping[str, Tensor], last: bool) -> None:
    """Gradients add up on each process and are averaged over processes with the last part."""
    alone = world_size() == 1 or not hasattr(wrapped, "no_sync")
    with nullcontext() if last or alone else wrapped.no_sync():
        wrapped(part, mode="replay", gradients=gradients).backward()


@torch.no_grad()
def dims_of(
    backbone: Backbone,
    num_samples: int,
    classes: Sequence | None = None,
    teachers: Sequence[Backbone] = (),
    num_labels: int = 0,
) -> dict[str, int]:
    """Name -> width; what a backbone does not have is left out.

    Args:
        num_labels: labels of the samples are below it; 0 where they have none.
    """
    dims = {
        "embed_dim": backbone.embed_dim,
        "context_length": backbone.context_length,
        "num_samples": num_samples,
    }
    if classes is not None:
        dims["num_classes"] = len(classes)
    if num_labels:
        dims["num_labels"] = num_labels
    if "hidden" in backbone.capabilities:
        dims["image_width"] = backbone.hidden(backbone.blank_image()).shape[-1]
    if "prompt" in backbone.capabilities:
        words = backbone.embed_tokens(backbone.tokenize(["a"]))
        dims["text_width"] = words.shape[-1]
        dims["vocab_size"] = backbone.vocab_size
    if "image_blocks" in backbone.capabilities and "image_tokens" in backbone.capabilities:
        _, (height, width) = backbone.image_tokens(blank := backbone.blank_image())
        dims["patches"] = height * width
        dims["patch_values"] = blank.shape[1] * (blank.shape[2] // height) * (blank.shape[3] // width)
    if teachers:
        dims |= widths_of(teachers)
        if all("hidden" in teacher.capabilities for teacher in teachers):
            dims["teacher_width"] = sum(teacher.hidden(teacher.blank_image()).shape[-1] for teacher in teachers)
    return dims
