"""Trainings in one of several processes, each with the weights on every process and sharded over them.

Argument: a JSON object {"spec", "jobs": [{"losses", "loss_options", "settings", "teacher", "validate", "static",
"fused"}]}. Rank 0 prints, as JSON, for each job what `difference` gives, or the error.
"""

from __future__ import annotations

import json
import sys
import traceback
from functools import cache

import torch
from torch.distributed.tensor import DTensor
from toy_pairs import ToyPairs

from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts.backbone import Backbone
from vladapt.core.losses.protoclip import Protoclip
from vladapt.core.registry import loss_class
from vladapt.core.runtime.distributed import is_main, run_on_all, start_from_environment, stop
from vladapt.core.training import optimizer, sharding
from vladapt.core.training import train as trainings
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask, train

SETTINGS = {"epochs": 2, "steps": 3, "batch_size": 8, "lr": 1e-2, "optimizer": "sgd", "warmup": 0, "seed": 3}
PROMPTS = [[f"a {colour} area"] for colour in ("red", "green", "blue", "yellow")]


def main(job: dict) -> None:
    start_from_environment()
    found = []
    for one in job["jobs"]:
        try:
            found.append(difference(job["spec"], one))
        except Exception:
            found.append(traceback.format_exc())
    if is_main():
        print(json.dumps(found))
    run_on_all(lambda: None)
    stop()


def difference(spec: str, job: dict) -> dict:
    """Largest differences between the two trainings, of weights after them and of losses, how far the weights moved,
    how many units were sharded, and whether the graph of whole weights was taken for static."""
    before = as_loaded(spec).model.state_dict()
    kept, kept_history, static = trained(spec, job, "ddp")
    sharded, history, units = trained(spec, job, "fsdp")
    assert kept.keys() == sharded.keys()
    return {
        "weights": max(float((kept[name] - sharded[name]).abs().max()) for name in kept),
        "loss": abs(kept_history[-1]["loss"] - history[-1]["loss"]),
        "moved": max(
            float((before[name] - value).abs().max()) for name, value in kept.items() if _same(name, value, before)
        ),
        "units": units,
        "static": static,
    }


def trained(spec: str, job: dict, parallel: str) -> tuple[dict, list, int]:
    gathered: list[int] = []
    backbone, facts = load_backbone(spec, device="cpu"), []
    taught = job.get("teacher") and any(loss_class(name).teacher == "frozen" for name in job["losses"])
    teachers = [a_little_larger(spec)] if taught else []
    original = trainings.parallel

    def watched(model, settings):
        wrapped = original(model, settings)
        units = sum(map(sharding.is_sharded, wrapped.modules()))
        facts.append(wrapped.static_graph if parallel == "ddp" else units)
        blocks = [block for each in model.backbones for block in each.block_modules() if sharding.is_sharded(block)]
        for block in blocks:
            block.register_forward_pre_hook(lambda *_: gathered.append(sum(map(is_gathered, blocks))))
        return wrapped

    trainings.parallel = watched
    optimizer.is_fast = lambda device: job.get("fused", False)
    Protoclip.graph_changes = not job.get("static", False)
    options = {} if "validate" not in job else {"validate": lambda: float(backbone.encode_text(["red"])[0, 0])}
    task = TrainingTask(
        ToyPairs(16), job["losses"], job.get("loss_options", {}), class_prompts=PROMPTS, teachers=teachers, **options
    )
    try:
        settings = TrainingSettings(**{**SETTINGS, **job.get("settings", {}), "parallel": parallel})
        done = train(backbone, task, settings, None)
    finally:
        trainings.parallel = original
    features = backbone.encode_text(["a red area", "a blue area on the left"])
    assert features.isfinite().all() and not any(map(sharding.is_sharded, backbone.model.modules()))
    state = {**backbone.model.state_dict(), **{f"losses.{n}": v for n, v in done.objective.state_dict().items()}}
    outside_steps = facts[0] - 1  # all of them, where the set is gone through or val is measured
    assert set(gathered) - {outside_steps} == ({1} if parallel == "fsdp" else set()), "whole for its own pass"
    return {name: value.float() for name, value in state.items()}, done.history, facts[0]


@cache
def as_loaded(spec: str) -> Backbone:
    return load_backbone(spec, device="cpu")


@cache
@torch.no_grad()
def a_little_larger(spec: str) -> Backbone:
    """A teacher for all trainings."""
    teacher = load_backbone(spec, device="cpu")
    for parameter in teacher.model.parameters():
        parameter *= 1.02
    return teacher


def is_gathered(block: torch.nn.Module) -> bool:
    return not any(isinstance(parameter, DTensor) for parameter in block.parameters())


def _same(name: str, value: torch.Tensor, before: dict) -> bool:
    return name in before and before[name].shape == value.shape


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
