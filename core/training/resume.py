"""A run is saved whole, every few steps, and goes on from there: on as many processes as it had, or on others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from ..backbones.finders import kept_tensors
from ..backbones.load import PREFIX
from ..errors import DataError
from ..runtime.distributed import is_main, run_on_all
from ..runtime.files import writing_to
from .checkpoints import all_random_states, keep_newest, newest_checkpoint, save_checkpoint, set_random_states
from .hooks import model_of, saves_after
from .settings import TrainingSettings
from .sharded_checkpoints import ShardedSaver, check_folder_shared, load_sharded, on_host
from .sharding import is_sharded, load_plain, unsharded
from .tower_weights import all_weights

WHERE_FULL = "give another --out; once there is space, --resume continues from the last checkpoint"


class ResumeHook(Hook):
    """Saves all a run is made of, and starts from there again: weights, optimiser, schedule, queues, random states.

    Where weights are sharded, a checkpoint is written while the training goes on; else the training waits for it.

    Args:
        folder: of the checkpoints.
        settings: how often, how many.
        identity: what must be the same for a checkpoint to be of this run.
        history: of the run.
        extra: name -> (read, write) of further states.
        resume: whether to look for a checkpoint.
        on_message: called with what was found.

    Attributes:
        first_step: steps that were done before; 0 where nothing was resumed.
    """

    priority = "LOWEST"

    def __init__(
        self, folder: Path, settings: TrainingSettings, identity: dict, history, extra, resume: bool, on_message
    ):
        self.folder, self.settings, self.identity = folder, settings, identity
        self.history, self.extra, self.resume, self.on_message = history, extra, resume, on_message
        self.first_step = 0
        self.saver = ShardedSaver(folder, lambda _: keep_newest(folder, settings.keep))

    def before_run(self, runner) -> None:
        if is_sharded(model_of(runner)):
            self._refused_in_one_line(lambda: check_folder_shared(self.folder))
        if self.resume:
            self._restore(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        done = runner.iter + 1
        if not saves_after(done, runner, self.settings.save_every):
            return
        facts, extra = self._facts(runner, done), {name: read() for name, (read, _) in self.extra.items()}
        if is_sharded(model_of(runner)):
            self._save_shards(runner, facts, extra)
        else:
            self._save_whole(runner, facts, extra)

    def after_train(self, runner) -> None:
        self._refused_in_one_line(self.saver.wait)

    def close(self) -> None:
        """After an error: what is being written is written to its end, if it can be."""
        with suppress(Exception):
            self.saver.wait()

    def _refused_in_one_line(self, step) -> None:
        def stepped() -> None:
            with writing_to(self.folder, WHERE_FULL):
                step()

        run_on_all(stepped)

    def _facts(self, runner, done: int) -> dict[str, Any]:
        """What is no tensor, the same on all ranks."""
        return {
            "step": done,
            "identity": json.dumps(self.identity, sort_keys=True),
            "schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers or []],
            "random": json.dumps(all_random_states()),
            "history": json.dumps(self.history.state()),
            "first_losses": list(runner.message_hub.get_info("vladapt_first_losses") or []),
        }

    def _save_whole(self, runner, facts: dict, extra: dict) -> None:
        model, optimizer = model_of(runner).state_dict(), runner.optim_wrapper.state_dict()
        state = {**facts, "model": model, "optimizer": optimizer, "extra": unsharded(extra)}
        write = lambda: save_checkpoint(self.folder, facts["step"], state, self.settings.keep)  # noqa: E731
        self._refused_in_one_line(lambda: write() if is_main() else None)

    def _save_shards(self, runner, facts: dict, extra: dict) -> None:
        wrapper, names = runner.optim_wrapper, _names(runner)
        tensors = {f"model/{name}": value for name, value in model_of(runner).state_dict().items()}
        for name, state in zip(names, wrapper.states(), strict=True):
            tensors |= {f"optimizer/{name}/{key}": value for key, value in state.items() if isinstance(value, Tensor)}
        plain = {name: _without_tensors(value, name, tensors) for name, value in extra.items()}
        optimizer = {"options": dict(zip(names, wrapper.options())), "scaler": wrapper.scaler.state_dict()}
        facts = {**facts, "optimizer": optimizer, "extra": plain}
        self._refused_in_one_line(lambda: self.saver.save(facts["step"], tensors, facts))

    def _restore(self, runner) -> None:
        state, path, notes = newest_checkpoint(self.folder)
        for note in notes:
            self.on_message(note)
        if state is None:
            return
        facts = state["facts"] if path.is_dir() else state
        self._check_identity(json.loads(facts["identity"]), path)
        if path.is_dir():
            extra = self._restore_shards(runner, path, state)
        else:
            weights = all_weights(model_of(runner))
            _check_model({name: value.shape for name, value in state["model"].items()}, weights, path)
            load_plain(weights, state["model"])
            runner.optim_wrapper.load_state_dict(state["optimizer"])
            extra = state["extra"]
        for scheduler, saved in zip(runner.param_schedulers or [], facts["schedulers"]):
            scheduler.load_state_dict(saved)
        for name, (_, write) in self.extra.items():
            write(extra[name])
        self.history.restore(json.loads(facts["history"]))
        runner.message_hub.update_info("vladapt_first_losses", facts["first_losses"])
        loop = runner.train_loop
        loop.iter = self.first_step = facts["step"]
        # The end of an epoch comes after its last checkpoint, so it is gone through again.
        loop.epoch = max(0, (facts["step"] - 1)) // loop.steps_an_epoch
        set_random_states(json.loads(facts["random"]))
        self.on_message(f"Resumed at step {facts['step']} of {runner.max_iters} from {path}")

    def _restore_shards(self, runner, path: Path, index: dict) -> dict[str, Any]:
        """Weights and optimiser, in place; what the extra states were."""
        model, wrapper, names = model_of(runner), runner.optim_wrapper, _names(runner)
        weights, shapes = model.state_dict(), {name: tuple(about["shape"]) for name, about in index["tensors"].items()}
        saved = {name.partition("/")[2]: shape for name, shape in shapes.items() if name.startswith("model/")}
        _check_model(saved, weights, path)
        tensors = {f"model/{name}": value for name, value in weights.items()}
        of_optimizer = [
            {
                key: torch.zeros_like(parameter.detach()) if shapes[place] == parameter.shape else torch.zeros(())
                for place in shapes
                if place.startswith(f"optimizer/{name}/") and (key := place.rpartition("/")[2])
            }
            for name, parameter in zip(names, wrapper.parameters, strict=True)
        ]
        for name, state in zip(names, of_optimizer):
            tensors |= {f"optimizer/{name}/{key}": value for key, value in state.items()}
        extra, like = index["facts"]["extra"], self._like(model)
        for place in shapes:
            if place.partition("/")[0] in self.extra:
                tensors[place] = on_host(like[place.rpartition("/")[2]])
        load_sharded(path, tensors)
        stored = index["facts"]["optimizer"]
        wrapper.load(of_optimizer, [stored["options"][name] for name in names], stored["scaler"])
        return {name: _with_tensors(value, name, tensors) for name, value in extra.items()}

    def _like(self, model) -> Mapping[str, Tensor]:
        """Tensors of the shapes, and with the shards, of those in the extra states."""
        prefix = getattr(model.backbone, "text_prefix", None)
        return all_weights(model.towers) | kept_tensors(model.backbone) | ({} if prefix is None else {PREFIX: prefix})

    def _check_identity(self, saved: dict, path: Path) -> None:
        for name in sorted(set(saved) | set(self.identity)):
            if saved.get(name) != self.identity.get(name):
                raise DataError(
                    f"{path}: from a run with {name}={saved.get(name)}, this one has {self.identity.get(name)}; give "
                    "the same, or start without --resume in another --out"
                )


def _names(runner) -> list[str]:
    """Of the parameters that the optimiser updates, in its order."""
    names = {parameter: name for name, parameter in model_of(runner).named_parameters()}
    return [names[parameter] for parameter in runner.optim_wrapper.parameters]


def _check_model(saved: Mapping[str, tuple], weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise DataError where a checkpoint is of another model."""
    for name in sorted(saved.keys() | weights.keys()):
        theirs = tuple(saved[name]) if name in saved else None
        ours = tuple(weights[name].shape) if name in weights else None
        if theirs != ours:
            raise DataError(
                f"{path}: from another model: its weight '{name}' has shape {theirs}, this model's {ours}; give the "
                "same --backbone and losses, or start without --resume in another --out"
            )


def _without_tensors(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """A nested state with None in the places of its tensors, which are put into `tensors` by their places."""
    if isinstance(value, Mapping):
        return {key: _without_tensors(inner, f"{place}/{key}", tensors) for key, inner in value.items()}
    if isinstance(value, Tensor):
        tensors[place] = value
        return None
    return value


def _with_tensors(value: Any, place: str, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_without_tensors`."""
    if isinstance(value, Mapping):
        return {key: _with_tensors(inner, f"{place}/{key}", tensors) for key, inner in value.items()}
    return tensors.get(place, value)
