"""Every choice of a training run, checked once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..contracts.families import BOTH
from ..contracts.options import TOLERATED, option, require, settle, tolerate_option
from ..contracts.shown import in_short
from ..data.pairs.captions import shares_of_captions
from .log import check_backends

SCHEDULES = ("cosine", "linear", "constant", "epochs", "epoch-cosine", "epoch-steps", "rewarm", "infinite")
BY_EPOCH = ("epochs", "epoch-cosine", "epoch-steps")
"""Schedules of one rate per epoch."""
BY_STEP = ("rewarm", "infinite")
"""Schedules of a closed form per step."""
PRECISIONS = ("bf16", "fp16")
TOWERS = ("image", "text", BOTH)
DDP, FSDP = "ddp", "fsdp"
PARALLEL = (DDP, FSDP)
OPTIMIZERS = ("adamw", "adam", "sgd", "adabelief")
DECAYED = ("matrices", "weights", "all")
MOST_RATE = 10**9


def _captions(value: Any) -> Any:
    """As it is, once its shares are read."""
    shares_of_captions(str(value))
    return value


@dataclass(frozen=True)
class TrainingSettings:
    """How towers are trained.

    Micro-batches (GradCache) cost a second forward pass and change no result. CLIP publishes betas of (0.9, 0.98).
    Biases, norms and the logit scale have no weight decay unless "all" that trains has, as in Dassl. The schedule
    "cosine" falls to `end_lr`, a value for each step; "rewarm" and "infinite" are those of continued training
    (`schedules.py`); "epochs" is Dassl's, one rate per epoch: `warmup` epochs at `warmup_lr`, then a cosine that starts
    after them; "epoch-cosine" is IRRA's: it rises from `warmup_lr` in `warmup` epochs, and the cosine ends with the
    epochs; "epoch-steps" rises alike and falls at `milestones`. `epoch_average` is PromptSRC's: the weights at the ends
    of epochs, counted from 1, averaged by a Gaussian. With `unlock_after`, Chinese-CLIP's two stages, locked towers are
    trained from that epoch on. Captions are drawn as by `CaptionSampler`. Two checkpoints at least are kept, so that a
    damaged one has one before it. On a GPU products are made in TF32, by kernels chosen by trial; with `deterministic`
    in float32, by kernels that repeat themselves.

    Raises:
        ConfigError: a value that is not usable, or values that do not go together.
    """

    __repr__ = in_short

    epochs: int = option(5, "passes over the training set", low=1, high=1_000_000)
    steps: int | None = option(
        None, "steps after which the training ends; by default all steps of its epochs", low=1, high=10**9
    )
    batch_size: int = option(
        64, "samples of one optimiser step, over all processes and micro-batches", low=2, high=10_000_000
    )
    drop_last: bool = option(True, "leave out the last batch of an epoch if it is not full")
    micro_batch_size: int | None = option(
        None, "samples of one forward pass of one process; by default all that it has", low=1, high=10_000_000
    )
    lr: float = option(1e-5, "peak learning rate", above=0)
    head_rate: float = option(
        1.0, "factor on the rate of the weights that losses and outputs add to the towers", above=0, high=1e6
    )
    bias_rate: float | None = option(None, "factor on the rate of biases; none: the same rate", above=0, high=1e6)
    projection_rate: float = option(
        1.0, "factor on the rate of the towers' projections into the shared space", above=0, high=1e6
    )
    optimizer: str = option("adamw", "AdamW, Adam, SGD with momentum 0.9, or AdaBelief", choices=OPTIMIZERS)
    betas: tuple[float, float] = option((0.9, 0.98), "betas of AdamW, Adam and AdaBelief", low=0, below=1)
    eps: float = option(1e-6, "eps of AdamW, Adam and AdaBelief", above=0, high=1)
    weight_decay: float = option(0.2, "weight decay", low=0, high=MOST_RATE)
    end_weight_decay: float | None = option(
        None, "weight decay at the last step, reached along a cosine; none: constant", low=0, high=MOST_RATE
    )
    decayed: str = option("matrices", "what weight decay applies to; weights: all but biases", choices=DECAYED)
    schedule: str = option(
        "cosine",
        "schedule of the learning rate; rewarm and infinite are for further sets, epochs is Dassl's",
        choices=SCHEDULES,
    )
    milestones: tuple[int, ...] = option((40, 70), "epochs at which schedule epoch-steps falls", low=1, high=10**6)
    step_factor: float = option(0.1, "factor of schedule epoch-steps at each milestone", above=0, high=1)
    warmup: float = option(
        0.1,
        "linear rise: a share of all steps below 1, else steps; epochs where these are scheduled",
        low=0,
        high=10**9,
    )
    warmup_lr: float = option(
        1e-5, "rate of the warm-up epochs of schedule epochs; others of epochs rise from it", low=0, high=MOST_RATE
    )
    end_lr: float = option(0.0, "learning rate at the end of the schedule", low=0, high=MOST_RATE)
    constant_lr: float | None = option(
        None, "rate of the constant part of schedule infinite; none: half the peak", above=0, high=MOST_RATE
    )
    cooldown: float = option(
        0.6, "share of the steps in which schedule infinite falls to it, after the warm-up", low=0, high=1
    )
    anneal: float = option(0.15, "share of the steps, at the end, in which schedule infinite ends", low=0, high=1)
    layer_decay: float = option(1.0, "factor on the rate for each layer below the top; 1 is none", above=0, high=1)
    clip_grad: float | None = option(None, "largest norm of the gradient", above=0, high=10**9)
    clip_units: float | None = option(
        None, "largest norm of the gradient of a unit's weights, as a share of theirs (AGC)", above=0, high=10**9
    )
    logit_scale: float | None = option(
        None, "constant that cosines are multiplied by; by default the backbone's, which is learned", above=0, high=1e4
    )
    tolerate: float = tolerate_option(TOLERATED)
    amp: str | None = option(None, "mixed precision: bf16 or fp16; none: full precision", choices=PRECISIONS)
    ema: float | None = option(
        None, "decay per step of a moving average of the weights, which is then kept", above=0, below=1
    )
    epoch_average: tuple[float, float] | None = option(
        None,
        "mean and deviation, in epochs, of a Gaussian average of weights, which is then kept",
        low=-(10**9),
        high=10**9,
    )
    average_from: int = option(1, "epoch from which `epoch_average` counts", low=1, high=1_000_000)
    checkpointing: bool = option(False, "recompute activations in the backward pass instead of holding them")
    compile: bool = option(False, "compile the towers with torch.compile")
    lock: tuple[str, ...] = option(
        (), "towers to keep frozen: image (as LiT does), text, or towers: both but their projections", choices=TOWERS
    )
    unlock_after: int = option(
        0, "epochs after which the locked towers are trained too; 0: never", low=0, high=1_000_000
    )
    train_last: int | None = option(None, "how many of each tower's last layers are trained", low=1, high=10_000)
    lora: int = option(0, "rank of LoRA on the attention of both towers, instead of their weights", low=0, high=65_536)
    lora_alpha: float = option(1.0, "scale of LoRA", above=0, high=1_000_000)
    lora_dropout: float = option(0.25, "dropout on LoRA's inputs in training", low=0, below=1)
    captions: str = option(
        "uniform",
        "texts of an image: uniform, captions, first, shear, sentences, or shares (raw:.5,caption_de:.5)",
        parse=_captions,
    )
    code_switch: str | None = option(
        None, "JSON dictionary by which words of captions are switched into other languages", metavar="FILE"
    )
    code_switch_language: str = option("en", "language of the captions in that dictionary")
    code_switch_sentences: float = option(0.8, "probability that a caption is switched", low=0, high=1)
    code_switch_words: float = option(0.8, "probability that a word of it that is known is", low=0, high=1)
    crop_scale: tuple[float, float] = option(
        (0.5, 1.0), "smallest and largest share of an image's area that the random crop keeps", above=0, high=1
    )
    flip: bool = option(
        False, "mirror half of the training images; captions that name left and right then become wrong"
    )
    save_every: int | None = option(None, "steps between checkpoints; by default once per epoch", low=1, high=10**9)
    keep: int = option(2, "how many checkpoints are kept", low=2, high=1_000_000)
    patience: int | None = option(
        None, "epochs without a better val score after which training stops early", low=1, high=1_000_000
    )
    deterministic: bool = option(
        False, "make runs bit-identical on a GPU too, with slower kernels; a CPU always does so"
    )
    workers: int | None = option(
        None,
        "processes that decode images; by default one per core for a GPU or shards in sequence, else 0",
        low=0,
        high=4096,
    )
    log_every: int | None = option(
        None,
        "steps between two lines of the log, also printed; by default 200 lines in all, not printed",
        low=1,
        high=10**9,
    )
    log_to: tuple[str, ...] = option(
        (), "where else the log goes: tensorboard, wandb, mlflow, or a class of mmengine", parse=check_backends
    )
    parallel: str = option("ddp", "how several processes train", choices=PARALLEL)
    seed: int = option(1, "random seed, of order, augmentation and initialisation", low=0, high=2**32 - 1)

    def __post_init__(self):
        settle(self, "the training")
        cure = "lock image or text, or towers, which leaves their projections"
        require(len(set(self.lock)) < 2, "lock", list(self.lock), cure)
        whole = self.clip_units is None or self.parallel != FSDP
        require(whole, "clip_units", self.clip_units, "units need whole weights; give parallel=ddp")
        whole = self.optimizer != "adabelief" or self.parallel != FSDP
        require(whole, "optimizer", self.optimizer, "adabelief needs whole weights; give parallel=ddp")
        require(not self.unlock_after or self.lock, "unlock_after", self.unlock_after, "name the tower in lock")
        require(self.unlock_after < self.epochs, "unlock_after", self.unlock_after, "give fewer than epochs")
        whole = self.schedule not in BY_EPOCH or self.warmup == int(self.warmup)
        require(whole, "warmup", self.warmup, "give a whole number of epochs")
        decays = self.end_weight_decay is None or self.weight_decay > 0
        require(decays, "end_weight_decay", self.end_weight_decay, "give a weight_decay above 0 to start from")
        endless = self.schedule != "infinite"
        require(endless or self.end_lr > 0, "end_lr", self.end_lr, "schedule infinite ends at a rate above 0")
        rise = self.warmup if self.warmup < 1 else 0
        phases = endless or rise + self.cooldown + self.anneal <= 1
        require(phases, "anneal", self.anneal, "warmup, cooldown and anneal are shares: give 1 in all at most")
        low, high = self.crop_scale
        require(low <= high, "crop_scale", list(self.crop_scale), "give the smaller share first")
        self._check_averages()

    def _check_averages(self) -> None:
        if self.epoch_average is None:
            return
        pair = list(self.epoch_average)
        require(pair[1] > 0, "epoch_average", pair, "give a mean and a deviation above 0, in epochs")
        require(self.ema is None, "epoch_average", pair, "there is one average: omit ema")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def warmup_steps(warmup: float, steps: int) -> int:
    """Steps of the rise: a share of all steps below 1, else a count."""
    return round(warmup * steps) if warmup < 1 else min(int(warmup), steps)
