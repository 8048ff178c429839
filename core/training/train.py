"""One training of the towers of a backbone by mmengine's Runner, from a source of samples to the weights in place."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.visualization import Visualizer
from torch import Tensor

from ..backbones.finders import kept_tensors, saved_part, take_kept
from ..backbones.load import PREFIX
from ..contracts.backbone import Backbone
from ..contracts.images import LogPlace
from ..runtime.liveness import failing_alone
from .checkpoints import FOLDER
from .class_scores import CosineHead
from .hooks import (
    AverageHook,
    BeforeEpochHook,
    EpochAverageHook,
    EpochRateHook,
    History,
    StepHook,
    StepRateHook,
    ValidationHook,
    built_hooks,
)
from .kernels import (
    ask_for_determinism,
    contiguous,
    is_repeatable,
    named_kernels,
    restored_determinism,
    suits_channels_last,
    to_channels_last,
)
from .loading import BatchLoader, planned_batches, refuse_whole_passes, worker_count
from .log import FILE, SCORE, WORK, read_interval
from .log_hook import LogHook
from .lora import LowRank
from .mixing import MixedBatches
from .model import PairModel
from .optimizer import build_optimizer, epoch_rates, rate_schedulers, step_rates
from .parts import Parts, TrainingResult, TrainingTask
from .resume import ResumeHook
from .runner import NOT_USED, ResumableLoop, ScoreLoop, TowerRunner, parallel, unheard_shell
from .samples import BrokenSamples, seed_everything
from .settings import TrainingSettings
from .sharded_checkpoints import on_host
from .sharding import load_plain, make_whole, unsharded
from .source_losses import SourceLog
from .sources import in_sequence
from .tower_outputs import extract_outputs
from .tower_weights import copied_weights

HEAD = "class_scores."
"""How the weights of classes that are learned beside the towers are called among those of the best epoch."""


def train(
    backbone: Backbone,
    task: TrainingTask,
    settings: TrainingSettings,
    folder: str | Path | None,
    *,
    resume: bool = False,
    log: LogPlace | None = None,
    on_step: Callable[[int, int, dict[str, float]], None] = lambda done, total, values: None,
    on_message: Callable[[str], None] = lambda line: None,
    hooks: Sequence[Mapping[str, Any]] = (),
) -> TrainingResult:
    """Train the towers in place; afterwards they are frozen and in eval mode again.

    Args:
        folder: for checkpoints; None keeps none.
        resume: go on from the newest whole checkpoint in it.
        log: where a line of values is written every few steps; by default a file in `folder`, if there is one.
        on_step: called with (steps done, all steps, values) for each step; on a GPU for several at once.
        on_message: called with sentences about resuming, on what cannot be deterministic, and with lines of the log
            where `log_every` is given.
        hooks: further ones, as mmengine's configs name them; those of the same priority come after ours. What they
            write into the Runner's `work_dir` lies beside the log.

    Raises:
        CapabilityError: a loss needs what backbone or data do not have.
        ConfigError: settings that do not go together, or a hook that cannot be made. UnknownNameError: there is none
            of that name.
        DataError: too many unreadable samples, checkpoints of another run or damaged, or a loss that is not a number.
    """
    started = time.monotonic()
    seed_everything(settings.seed)
    further = built_hooks(hooks)
    if log is None and folder is not None:
        log = LogPlace(Path(folder) / FILE)
    # What is trained, and what it minimises.
    made = Parts(backbone, task, settings)
    model, notes = made.model(), made.notes
    for sentence in model.not_deterministic:
        on_message(sentence)
    notes += model.not_deterministic
    # Which samples each step sees, and who makes them.
    workers = worker_count(settings.workers, backbone.device, in_sequence(task.source))
    batches = planned_batches(task.source, settings, workers, on_message, task.plan)
    told_of_sources = SourceLog(batches) if isinstance(batches, MixedBatches) else None
    if isinstance(batches, MixedBatches) and log is not None:
        batches.done_before = log.steps
    samples = BatchLoader(made.samples(), batches, workers, backbone.device.type == "cuda", made.sample_bytes)
    steps = min(settings.epochs * len(batches), settings.steps or sys.maxsize)
    # How it lies in memory.
    turned = to_channels_last(backbone) if suits_channels_last(backbone, settings) else []
    wrapped = parallel(model, settings)
    if settings.ema is not None or settings.epoch_average is not None:
        model.average = copied_weights(backbone.model)
    heads = [made.objective, made.outputs]
    head = task.class_scores if isinstance(task.class_scores, CosineHead) else None
    optimizer = build_optimizer(backbone, heads, settings)
    # What happens around the steps.
    history, broken, best = History(), BrokenSamples(len(task.source), settings.tolerate), {}
    read_every = read_interval(backbone.device, settings.log_every, steps)
    ours: list[Hook] = [StepHook(history, broken, on_step, settings.seed, read_every, settings.save_every)]
    ours.append(BeforeEpochHook(_extract(model, made, batches)))
    checkpoints = None
    if folder is not None:
        identity = {**_identity(settings), "losses": task.weights, "samples": len(task.source), **task.identity}
        states = {"best": (lambda: dict(best), best.update), **_further_states(model, batches)}
        where = Path(folder) / FOLDER
        checkpoints = ResumeHook(where, settings, identity, history, states, resume, on_message)
        ours.append(checkpoints)
    if (rates := epoch_rates(settings)) is not None:
        ours.append(EpochRateHook(rates))
    if (rates := step_rates(settings, steps)) is not None:
        ours.append(StepRateHook(rates))
    if settings.ema is not None:
        ours.append(AverageHook(model.average, settings.ema))
    if settings.epoch_average is not None:
        ours.append(EpochAverageHook(model.average, settings.epoch_average, settings.average_from))
    logging = settings.log_every, settings.log_to, settings.to_dict(), settings.batch_size
    log_hook = LogHook(log, *logging, task.validate is not None, on_message, told_of_sources)
    ours.append(log_hook)
    if task.validate is not None:
        ours.append(ValidationHook(history, settings.patience, best, lambda: _weights(backbone, model.average, head)))
    # The training.
    repeatable = is_repeatable(settings, backbone.device)
    val = {"val_dataloader": [task.validate], "val_cfg": {"type": ScoreLoop}, "val_evaluator": SCORE}
    with (
        _work_folder(log, further) as work,
        closing(log_hook),
        nullcontext() if checkpoints is None else closing(checkpoints),
        restored_determinism(),
    ):
        with unheard_shell():
            runner = TowerRunner(
                model=wrapped,
                work_dir=work,
                train_dataloader=samples,
                train_cfg={"type": ResumableLoop, "max_epochs": settings.epochs, "fast": not repeatable},
                **({} if task.validate is None else val),
                optim_wrapper=optimizer,
                param_scheduler=rate_schedulers(settings, steps) or None,
                default_hooks=dict.fromkeys(NOT_USED),
                custom_hooks=[*ours, *further],
                launcher="none",  # the processes are joined and the model is wrapped already
                randomness={"seed": settings.seed, "deterministic": repeatable},
                log_level="ERROR",
                visualizer=Visualizer.get_instance("vladapt"),  # one for all: it holds a figure
                default_scope="mmengine",
                experiment_name=f"vladapt-{time.time_ns()}",
            )
        if repeatable:
            ask_for_determinism(backbone.device, warn_only=bool(model.not_deterministic))
        with failing_alone(), named_kernels():
            runner.train()
    # What stays: frozen towers in eval mode, whole on each process, with the best weights or their average.
    make_whole(model, model.backbones)
    for module in (backbone.model, *heads):
        module.eval().requires_grad_(False)
    contiguous(turned)
    _keep_best(backbone, model.average, best, head)
    backbone.finder = backbone.finder and saved_part(backbone.finder)
    backbone.answers = {name: saved_part(loss) for name, loss in backbone.answers.items()}
    if settings.lora and task.select is None:
        LowRank(backbone).merge()
    done_before, seconds = 0 if checkpoints is None else checkpoints.first_step, time.monotonic() - started
    return TrainingResult(
        history=history.finished(),
        objective=made.objective,
        notes=notes,
        broken=sorted(broken.reasons.items()),
        steps=steps,
        best_epoch=best["epoch"] + 1 if "epoch" in best else None,
        samples_per_second=(steps - done_before) * batches.batch_size / max(seconds, 1e-9),
        trained_parameters=made.trained_parameters,
    )


def _further_states(model: PairModel, batches) -> dict[str, tuple[Callable[[], Any], Callable]]:
    """Name -> how it is read for a checkpoint, and put back from one."""
    states: dict[str, tuple[Callable[[], Any], Callable]] = {}
    if model.average is not None:
        states["average"] = (lambda: model.average, lambda saved: load_plain(model.average, saved))
    if batches.streams is not None:
        states["streams"] = (lambda: batches.streams, batches.set_streams)
    return states


def _extract(model: PairModel, made: Parts, batches) -> Callable[[list[str]], dict[str, Tensor]]:
    if batches.streams is not None:
        return refuse_whole_passes(made.task.source, " + ".join(made.objective.losses))
    return lambda names: extract_outputs(model, made.samples(), batches, names)


@contextmanager
def _work_folder(log: LogPlace | None, further: list[Hook]) -> Iterator[str]:
    """Where mmengine makes a folder of its own: into it nothing goes but what further hooks write, which stays."""
    if further and log is not None and log.path is not None:
        yield str(log.path.parent / WORK)
    else:
        with tempfile.TemporaryDirectory() as made:
            yield made


def _weights(backbone: Backbone, average, head: CosineHead | None) -> dict[str, Tensor]:
    weights = backbone.model.state_dict() if average is None else average
    state = {name: on_host(value) for name, value in weights.items()}
    state |= {name: on_host(value) for name, value in kept_tensors(backbone).items()}
    if head is not None:
        state |= {HEAD + name: on_host(value) for name, value in head.state_dict().items()}
    prefix = getattr(backbone, "text_prefix", None)
    return state if prefix is None else {**state, PREFIX: on_host(prefix)}


def _keep_best(backbone: Backbone, average, best: dict[str, Any], head: CosineHead | None) -> None:
    """The weights that stay: of the best epoch on val, else the average, else the last."""
    if best.get("state") is not None:
        state = unsharded(best["state"])
        if PREFIX in state:
            backbone.text_prefix = state.pop(PREFIX)
        take_kept(backbone, state)
        if head is not None:
            head.load_state_dict({name: state.pop(HEAD + name) for name in head.state_dict()})
        backbone.model.load_state_dict(state)
    elif average is not None:
        backbone.model.load_state_dict(unsharded(average))


def _identity(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that make a run what it is; how it is split over memory and processes does not."""
    cost_options = {"micro_batch_size", "workers", "save_every", "keep", "compile", "checkpointing", "parallel"}
    cost_options.update(("log_every", "log_to", "tolerate"))
    later: dict[str, object] = {}  # which older checkpoints do not name
    later |= {"steps": None, "drop_last": True, "deterministic": False}
    later |= {"head_rate": 1.0, "projection_rate": 1.0, "bias_rate": None, "milestones": [40, 70], "step_factor": 0.1}
    later |= {"average_from": 1, "end_weight_decay": None, "constant_lr": None, "cooldown": 0.6, "anneal": 0.15}
    later |= {"clip_units": None, "logit_scale": None, "flip": True}
    later |= {"code_switch": None, "code_switch_language": "en", "code_switch_sentences": 0.8, "code_switch_words": 0.8}
    own = {name: value for name, value in settings.to_dict().items() if name not in cost_options}
    return {name: value for name, value in own.items() if name not in later or value != later[name]}
