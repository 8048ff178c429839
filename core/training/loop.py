"""mmengine's loop over epochs, able to start in the middle of one without reading what lies before."""

from __future__ import annotations

from mmengine.runner import EpochBasedTrainLoop


class ResumableLoop(EpochBasedTrainLoop):
    """Tells the batches their epoch and their first step; a resume sets `_epoch` and `_iter` before `run`.

    An epoch that was finished but whose end was not reached (validation, for instance) is ended first.
    """

    @property
    def steps_an_epoch(self) -> int:
        return len(self.dataloader.batch_sampler)

    @property
    def fresh_epoch(self) -> bool:
        """Whether no step of the current epoch has been done."""
        return self._iter == self._epoch * self.steps_an_epoch

    def run_epoch(self) -> None:
        batches = self.dataloader.batch_sampler
        batches.epoch, batches.start = self._epoch, self._iter - self._epoch * self.steps_an_epoch
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for step, batch in enumerate(self.dataloader, start=batches.start):
            self.run_iter(step, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
