"""Networks trained on folds of the training volumes, and the ensemble of them, as nnU-Net has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from mmengine import Config
from torch import nn

from ....core.contracts import DomainData, Item
from ....core.errors import ConfigError
from ....core.tasks import build_model
from .preprocessing import case_of


def fold_plans(plan: Config, data: DomainData, folds: int, seed: int) -> Iterator[tuple[Config, list[Item]]]:
    """The plan of each fold, and the volumes that it does not learn from: those of val where there is one fold alone.

    Patients stay together.

    Raises:
        ConfigError: more folds than patients.
    """
    if folds == 1:
        yield plan, data.split("val")
        return
    items = [*data.split("train"), *data.split("val")]
    groups: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda each: each.rank(seed)):
        groups.setdefault(item.group or item.id, []).append(item)
    if len(groups) < folds:
        raise ConfigError(f"--ensemble {folds}: the volumes to learn from are of {len(groups)} patients; give fewer")
    for fold in range(folds):
        held_out = [item for place, group in enumerate(groups.values()) if place % folds == fold for item in group]
        learned = [item for item in items if item not in held_out]
        of_fold = Config(plan.to_dict())
        of_fold.model.members = 1
        of_fold.train_dataloader.dataset.cases = [case_of(item) for item in learned]
        yield of_fold, held_out


def joined(plan: Config, members: Sequence[nn.Module], device: torch.device) -> nn.Module:
    """One model of the plan with the networks of all, whose scores are averaged."""
    model = build_model(plan, device)
    state = model.state_dict()
    for place, member in enumerate(members):
        for name, value in member.state_dict().items():
            part, dot, rest = name.partition(".0.")
            state[f"{part}.{place}.{rest}" if dot and part in ("networks", "heads") else name] = value
    model.load_state_dict(state)
    return model.eval()
