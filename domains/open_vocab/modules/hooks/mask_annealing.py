"""Masks of attention that a training gives up step by step, as EoMT's does (arXiv 2503.19108)."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from .....registry import HOOKS


@HOOKS.register_module()
class MaskAnnealing(Hook):
    """After each step, tell the model's type how far the training is: `family.annealed(model, progress)`."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.family.annealed(model.model, (runner.iter + 1) / runner.max_iters)
