"""The tower that a training changed, as a backbone that other configs name."""

from __future__ import annotations

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from .....core.errors import CapabilityError
from .....registry import HOOKS


@HOOKS.register_module()
class SaveBackboneHook(Hook):
    """After training, write the model's backbone, by its `save_backbone`, to `<work_dir>/<folder>`.

    `backbone="<work_dir>/<folder>"` in any config, or `--backbone` on the command line, takes it from there.

    Args:
        folder: inside the run's work_dir.
    """

    def __init__(self, folder: str = "backbone"):
        self.folder = folder

    def after_train(self, runner) -> None:
        if runner.rank != 0:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not hasattr(model, "save_backbone"):
            raise CapabilityError(f"SaveBackboneHook: {type(model).__name__} has no backbone to save; omit the hook")
        path = model.save_backbone(Path(runner.work_dir) / self.folder)
        runner.logger.info(f"backbone saved: {path}")
