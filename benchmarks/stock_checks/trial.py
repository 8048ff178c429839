"""One packaged config: built with random weights, trained for one step, asked once. For a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from .batches import batches
from .reduced import reduce_config

UNTRAINED = "its parts are trained separately; prediction only"


def try_config(file: Path, language_model: str) -> tuple[int, str]:
    """Try it.

    Args:
        file: a packaged config.
        language_model: folder of the BERT that GLIP and Grounding DINO are built on.

    Returns:
        (parameters, a remark or "").

    Raises:
        Exception: whatever does not work.
    """
    torch.manual_seed(0)
    progress = MessageHub.get_instance("stock")  # a Runner says where it is, and some losses ask
    for name, value in {"iter": 0, "max_iters": 1, "epoch": 0, "max_epochs": 1}.items():
        progress.update_info(name, value)
    os.chdir(_beside_configs(file))
    config = Config.fromfile(file)
    reduce_config(config, language_model)
    init_default_scope(config.get("default_scope", "mmdet"))
    model = revert_sync_batchnorm(MODELS.build(config.model))
    model.init_weights()
    train, test = batches(model, config)
    remark = _step(model, config, train)
    model.eval()
    with torch.no_grad():
        answers = model.test_step(test)
    if not answers:
        raise ValueError("no answer")
    return sum(parameter.numel() for parameter in model.parameters()), remark


def _beside_configs(file: Path) -> Path:
    """The folder from which mmdet's repository runs: distillation names its teacher `configs/...`."""
    return next(folder for folder in file.parents if folder.name == "configs").parent


def _step(model: BaseModel, config: Config, batch: dict) -> str:
    """A step of the config's own optimiser, in full precision; "" or why there is none."""
    if "optim_wrapper" not in config:
        return UNTRAINED
    wrapper = {**config.optim_wrapper, "type": "OptimWrapper", "accumulative_counts": 1}
    wrapper.pop("loss_scale", None), wrapper.pop("dtype", None)
    optimizer = build_optim_wrapper(model, wrapper)
    model.train()
    try:
        losses = model.train_step(batch, optimizer)
    except NotImplementedError as error:
        if "train" in str(error):
            return UNTRAINED
        raise
    if not all(torch.isfinite(loss).all() for loss in losses.values()):
        raise FloatingPointError(", ".join(name for name, loss in losses.items() if not torch.isfinite(loss).all()))
    return ""
