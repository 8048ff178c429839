"""Watch a training of towers through mmengine: a hook of its own, one of yours, and a log backend.

python examples/own_hook.py      (writes a run into runs/; scalars.json of the backend lies in it)
"""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

import vladapt


@HOOKS.register_module()
class GradientNorms(Hook):
    """The largest norm of each epoch's gradients, to the user and to whatever logs."""

    def before_train_epoch(self, runner):
        self.largest = 0.0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.largest = max(self.largest, float(outputs["grad_norm"]))

    def after_train_epoch(self, runner):
        print(f"epoch {runner.epoch + 1}: gradient norms up to {self.largest:.3g}")
        runner.visualizer.add_scalar("largest_grad_norm", self.largest, step=runner.iter)


result = vladapt.fit(
    domain="medical",
    adapter={"name": "full", "epochs": 6, "lr": 1e-4, "select": "best_val", "log_to": "LocalVisBackend"},
    shots=2,
    image_size=64,  # smaller than usual, to be quick
    custom_hooks=[
        {"type": "GradientNorms"},
        {"type": "EarlyStoppingHook", "monitor": "val", "rule": "greater", "min_delta": 0.5, "patience": 2},
    ],
)
print(f"{len(result.report.history)} epochs, see {result.run}")
