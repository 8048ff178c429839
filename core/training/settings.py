"""Every choice of a training run, checked once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..contracts.adapter import require

SCHEDULES = ("cosine", "constant", "epochs")
PRECISIONS = (None, "bf16", "fp16")
TOWERS = ("image", "text")
PARALLEL = ("ddp", "fsdp")
OPTIMIZERS = ("adamw", "sgd")
DECAYED = ("matrices", "all")
CAPTIONS = ("uniform", "captions", "first", "shear")


@dataclass(frozen=True)
class TrainingSettings:
    """How towers are trained.

    Args:
        epochs: passes over the training set.
        batch_size: samples of one optimiser step, over all processes and micro-batches.
        micro_batch_size: samples of one forward pass of one process; None: all that it has. Smaller ones cost a
            second forward pass and change no result (GradCache).
        lr: the peak learning rate.
        optimizer: "adamw" or "sgd" (momentum 0.9).
        betas: of AdamW. CLIP publishes (0.9, 0.98).
        eps: of AdamW.
        weight_decay: on matrices; biases, norms and the logit scale have none.
        decayed: "matrices", or "all" that trains, as Dassl does.
        schedule: "cosine" to `end_lr`, or "constant", a value for each step; "epochs" is Dassl's, one rate an epoch:
            `warmup` epochs at `warmup_lr`, then a cosine that starts after them.
        warmup: steps of linear rise, as a share of all steps (below 1) or a count; epochs, with schedule="epochs".
        warmup_lr: the rate of those epochs.
        end_lr: where the cosine ends.
        layer_decay: factor on the rate for each layer below the top; 1 is none.
        clip_grad: largest norm of the gradient, or None.
        amp: None, "bf16" or "fp16" autocast.
        ema: share that a moving average of the weights keeps in a step, or None. The average is kept at the end.
        epoch_average: (mean, deviation), in epochs counted from 1, of a Gaussian; the weights at the ends of epochs,
            averaged by it, are kept at the end (PromptSRC). None: no such average.
        checkpointing: recompute activations in the backward pass instead of holding them.
        compile: torch.compile the towers.
        lock: towers that stay as they are (LiT locks "image").
        unlock_after: epochs with locked towers, then a second stage of the rest without (Chinese-CLIP); 0: one stage.
        train_last: only so many of each tower's last layers are trained; None: all.
        lora: rank of LoRA on the attention of both towers, in place of training their weights; 0: none.
        lora_alpha: its scale.
        lora_dropout: share of its inputs left out in training.
        captions: which of several captions an epoch uses: "uniform" (drawn of captions and rewrites, as LaCLIP does),
            "captions" (drawn, without rewrites), "first", or "shear" (as "uniform", rewrites cut to the original's
            length).
        crop_scale: shares of an image's area that the random crop keeps.
        save_every: steps between checkpoints; None: once an epoch.
        keep: how many checkpoints are kept, 2 at least, so that a damaged one has one before it.
        patience: epochs without a better val score after which training stops early; None: never.
        workers: processes that decode images; 0 decodes in the training process.
        parallel: "ddp" or "fsdp", where several processes train.
        seed: fixes order, augmentation and initialisation.

    Raises:
        ConfigError: a value out of range.
    """

    epochs: int = 5
    batch_size: int = 64
    micro_batch_size: int | None = None
    lr: float = 1e-5
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.2
    decayed: str = "matrices"
    schedule: str = "cosine"
    warmup: float = 0.1
    warmup_lr: float = 1e-5
    end_lr: float = 0.0
    layer_decay: float = 1.0
    clip_grad: float | None = None
    amp: str | None = None
    ema: float | None = None
    epoch_average: tuple[float, float] | None = None
    checkpointing: bool = False
    compile: bool = False
    lock: tuple[str, ...] = ()
    unlock_after: int = 0
    train_last: int | None = None
    lora: int = 0
    lora_alpha: float = 1.0
    lora_dropout: float = 0.25
    captions: str = "uniform"
    crop_scale: tuple[float, float] = (0.5, 1.0)
    save_every: int | None = None
    keep: int = 2
    patience: int | None = None
    workers: int = 0
    parallel: str = "ddp"
    seed: int = 1

    def __post_init__(self):
        for name in ("betas", "crop_scale"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        object.__setattr__(self, "lock", _names(self.lock))
        self._check_counts()
        self._check_rates()
        require(self.schedule in SCHEDULES, "schedule", self.schedule, "there are cosine, constant and epochs")
        require(self.decayed in DECAYED, "decayed", self.decayed, "there are matrices and all")
        require(self.optimizer in OPTIMIZERS, "optimizer", self.optimizer, "there are adamw and sgd")
        require(self.amp in PRECISIONS, "amp", self.amp, "there are bf16 and fp16 (none: full precision)")
        require(self.parallel in PARALLEL, "parallel", self.parallel, "there are ddp and fsdp")
        self._check_averages()
        require(self.captions in CAPTIONS, "captions", self.captions, f"there are {', '.join(CAPTIONS)}")
        require(set(self.lock) < set(TOWERS), "lock", list(self.lock), "lock image or text, not both")
        require(not self.unlock_after or self.lock, "unlock_after", self.unlock_after, "name the tower in lock")
        require(self.unlock_after < self.epochs, "unlock_after", self.unlock_after, "give fewer than epochs")

    def _check_averages(self) -> None:
        for name in ("ema", "epoch_average"):
            value = getattr(self, name)
            whole = self.parallel == "ddp" or value is None
            require(whole, name, value, "weights that fsdp cuts over processes are not averaged; use ddp")
        require(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "give a share between 0 and 1")
        if self.epoch_average is None:
            return
        pair = tuple(float(value) for value in self.epoch_average)
        object.__setattr__(self, "epoch_average", pair)
        fine = len(pair) == 2 and all(map(math.isfinite, pair)) and pair[1] > 0
        require(fine, "epoch_average", list(pair), "give a mean and a deviation above 0, in epochs")
        require(self.ema is None, "epoch_average", list(pair), "there is one average: leave ema out")

    def _check_counts(self) -> None:
        least_of = {"epochs": 1, "batch_size": 2, "unlock_after": 0, "keep": 2, "workers": 0, "seed": 0, "lora": 0}
        for name, least in least_of.items():
            value = getattr(self, name)
            require(type(value) is int and value >= least, name, value, f"give a whole number, {least} or more")
        for name in ("micro_batch_size", "train_last", "save_every", "patience"):
            value = getattr(self, name)
            fine = value is None or (type(value) is int and value >= 1)
            require(fine, name, value, "give a whole number, 1 or more, or None")

    def _check_rates(self) -> None:
        for name in ("lr", "eps"):
            require(getattr(self, name) > 0, name, getattr(self, name), "give a number above 0")
        for name in ("weight_decay", "warmup", "warmup_lr", "end_lr"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "give 0 or more")
        whole = self.schedule != "epochs" or self.warmup == int(self.warmup)
        require(whole, "warmup", self.warmup, "give a whole number of epochs")
        require(self.lora_alpha > 0, "lora_alpha", self.lora_alpha, "give a number above 0")
        require(0 <= self.lora_dropout < 1, "lora_dropout", self.lora_dropout, "give a share, 0 to below 1")
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "give a factor above 0, at most 1")
        require(self.clip_grad is None or self.clip_grad > 0, "clip_grad", self.clip_grad, "give a norm above 0")
        low, high = self.crop_scale
        fine = 0 < low <= high <= 1
        require(fine, "crop_scale", list(self.crop_scale), "give two shares, 0 < smallest <= largest <= 1")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def warmup_steps(warmup: float, steps: int) -> int:
    """Steps of the rise: a share of all steps below 1, else a count."""
    return round(warmup * steps) if warmup < 1 else min(int(warmup), steps)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    return tuple(value or ())
