"""Heads that answer with a number: the training mean, ridge, a linear layer, a small MLP.

All see unit features, standardised by their training rows, and answer in the unit of the numbers. Ridge chooses its
penalty by errors on rows held out, one at a time or whole groups (scikit-learn's RidgeCV). The linear layer starts as
ridge, and the MLP adds a hidden layer to it whose answers start at zero; both are trained by AdamW ("Decoupled Weight
Decay Regularization", Loshchilov and Hutter 2019, arXiv 1711.05101) along a cosine. The number of epochs, none among
them, has the least of the error that is minimised, on rows held out of the training, whole groups at a time; all rows
are learned from afterwards. Val chooses nothing: intervals are calibrated on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...confidence.number_intervals import NumberIntervals
from ...contracts.adapter import FitReport
from ...contracts.options import option, settle
from ...errors import DataError
from ...losses.number import ERRORS
from ...losses.number import NumberHeadLoss as NumberLoss
from ...metrics.intervals import units_of
from ...training.batches import epoch_batches
from ...training.ridge import penalty_of_groups
from ...training.schedules import LearningRates
from ...training.small_heads import train_epochs

MLP, LINEAR, RIDGE = HEADS = ("mlp", "linear", "ridge")
FOLDS, FEWEST_ROWS = 4, 20
"""Parts that are held out in turn, and rows below which nothing is chosen."""
MANY_ROWS = 2000
"""From which on one part alone is held out."""
PENALTIES = tuple(np.logspace(-2, 6, 17).tolist())
SMALLEST_SCALE = 0.25
"""Of adaptive intervals, as a share of the mean absolute error."""


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """Options of the training of a head, given as `adapter.NAME` where no adapter is named."""

    epochs: int = option(40, "most passes over the training images", low=1, high=100_000)
    lr: float = option(1e-3, "peak learning rate; a cosine follows", above=0, high=10)
    weight_decay: float = option(0.1, "weight decay of AdamW", low=0)
    batch_size: int = option(64, "images per step", low=1, high=1_048_576)
    dropout: float = option(0.1, "of the hidden layer of the MLP", low=0, below=1)
    hidden: int = option(256, "width of the hidden layer of the MLP", low=1, high=65_536)

    def __post_init__(self):
        settle(self, "the head of regression")


@dataclass(frozen=True)
class NumberRows:
    """Images as features, each with its number.

    Args:
        features: (N, D) float32 of unit length, on the CPU.
        numbers: (N,) float64; of no use where an image has none.
        groups: N keys of images that belong together, None where an image stands alone.
        ids: N.
    """

    features: Tensor
    numbers: Tensor
    groups: tuple[str | None, ...]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.features)

    @property
    def grouped(self) -> bool:
        """Whether some belong together."""
        return units_of(self.groups, len(self))[1] < len(self)

    def select(self, rows: Sequence[int]) -> NumberRows:
        """Some of them."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        of_rows = (tuple(values[row] for row in index.tolist()) for values in (self.groups, self.ids))
        return NumberRows(self.features[index], self.numbers[index], *of_rows)

    def held_out(self, folds: int = FOLDS, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        """(Rows to learn from, rows to look at), whole groups at a time; none where there are fewer than two groups."""
        from sklearn.model_selection import GroupKFold

        unit, units = units_of(self.groups, len(self))
        order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
        if units < 2:
            return []
        parts = GroupKFold(min(folds, units)).split(np.zeros(len(self)), groups=order[unit].numpy())
        return [(torch.from_numpy(learned), torch.from_numpy(looked_at)) for learned, looked_at in parts]

    def to_choose_on(self, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Those of `held_out`; of `MANY_ROWS` and more the first alone."""
        parts = self.held_out(seed=seed)
        return parts[:1] if len(self) >= MANY_ROWS else parts


class NumberHead(nn.Module):
    """Features (N, D) -> numbers.

    Attributes:
        kind: of `HEADS`, or the adapter that trained it with the towers.
        intervals: around its answers, or None.
        penalty: that ridge chose; None of others, and of one that was loaded.
        column: what the numbers are of.
        made_by: fingerprint of the backbone of the features; "" of a file that does not say.
    """

    def __init__(self, kind: str, width: int, hidden: int = 0, dropout: float = 0.0):
        super().__init__()
        self.kind, self.column, self.made_by = kind, "", ""
        self.intervals: NumberIntervals | None = None
        self.penalty: float | None = None
        self.linear, self.further = nn.Linear(width, 1), None
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        if hidden:
            last = nn.Linear(hidden, 1, bias=False)
            nn.init.zeros_(last.weight)
            self.further = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), last)
        for name, size in (("centre", width), ("scale", width), ("mean", 1), ("deviation", 1)):
            self.register_buffer(name, torch.full((size,), float(name in ("scale", "deviation")), dtype=torch.float64))
        self.register_buffer("error_weight", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("error_bias", torch.zeros(2, dtype=torch.float64))

    @property
    def width(self) -> int:
        """D."""
        return len(self.centre)

    def standardise(self, rows: NumberRows) -> NumberHead:
        """Standardise by these rows from now on."""
        features, numbers = rows.features.double(), rows.numbers
        for buffer, values in ((self.scale, features), (self.deviation, numbers)):
            spread = values.std(dim=0, unbiased=False)
            buffer.copy_(torch.where(spread > 1e-12, spread, 1.0))
        self.centre.copy_(features.mean(dim=0))
        self.mean.copy_(numbers.mean())
        return self

    def inputs(self, features: Tensor) -> Tensor:
        """(N, D) standardised float32."""
        return ((features.double() - self.centre) / self.scale).float()

    def targets(self, numbers: Tensor) -> Tensor:
        """(N,) standardised float32."""
        return ((numbers - self.mean) / self.deviation).float()

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, D) standardised -> (N,) standardised."""
        answers = self.linear(inputs)
        return (answers if self.further is None else answers + self.further(inputs)).squeeze(-1)

    @torch.no_grad()
    def answers(self, features: Tensor) -> Tensor:
        """(N, D) unit features -> (N,) float64 numbers."""
        self.check_width(features)
        self.eval()
        return self(self.inputs(features)).double() * self.deviation + self.mean

    def check_width(self, features: Tensor) -> None:
        """Raise the DataError of features of another width."""
        if features.shape[1] != self.width:
            raise DataError(
                f"features of width {features.shape[1]}, and the head learned from {self.width}; use its backbone"
            )

    # how far its answers may be off ----------------------------------------------------------------------------------

    def learn_errors(self, rows: NumberRows) -> None:
        """Predict the absolute error by ridge on the features, from errors of ridge on rows held out of its training:
        what adaptive intervals are divided by. Too few rows teach nothing, so that all errors are alike."""
        errors = torch.full((len(rows),), torch.nan, dtype=torch.float64)
        for learned, looked_at in rows.held_out() if len(rows) >= FEWEST_ROWS else ():
            ridge = fitted_ridge(rows.select(learned))
            errors[looked_at] = (ridge.answers(rows.features[looked_at]) - rows.numbers[looked_at]).abs()
        if bool(errors.isfinite().all()):
            of_errors = fitted_ridge(NumberRows(rows.features, errors, rows.groups, rows.ids))
            weight = of_errors.linear.weight[0].double() * of_errors.deviation / of_errors.scale
            self.error_weight.copy_(weight.detach())
            self.error_bias[0] = (of_errors.answers(torch.zeros(1, self.width)))[0]
            self.error_bias[1] = SMALLEST_SCALE * errors.mean()

    def scales(self, features: Tensor) -> Tensor | None:
        """(N,) how large an error is to be expected of each row; None where none was learned."""
        if not bool(self.error_bias[1] > 0):
            return None
        return (features.double() @ self.error_weight + self.error_bias[0]).clamp(min=float(self.error_bias[1]))

    def half_widths(self, features: Tensor) -> Tensor | None:
        """(N,) how far the interval of each answer reaches to either side; None without intervals."""
        return None if self.intervals is None else self.intervals.half_widths(len(features), self.scales(features))

    def calibrate(self, rows: NumberRows, coverage: float) -> NumberIntervals:
        """Make intervals from rows that trained and chose nothing, and keep them."""
        answers, scales = self.answers(rows.features), self.scales(rows.features)
        self.intervals = NumberIntervals.of_rows(answers, rows.numbers, coverage, rows.groups, scales)
        return self.intervals

    # on disk ---------------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write a safetensors file; how it is built, in its header."""
        made = {"kind": self.kind, "column": self.column, "made_by": self.made_by}
        if self.intervals is not None:
            made["intervals"] = {**vars(self.intervals), "reach": repr(self.intervals.reach)}
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(state, path, metadata={"number_head": json.dumps(made)})

    @classmethod
    def load(cls, path: Path) -> NumberHead:
        """Raises DataError: no such head, or a damaged one."""
        try:
            with safe_open(str(path), framework="pt") as file:
                made = json.loads((file.metadata() or {})["number_head"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            hidden = len(state["further.0.bias"]) if "further.0.bias" in state else 0
            head = cls(str(made["kind"]), len(state["centre"]), hidden)
            head.load_state_dict(state)
            head.column, head.made_by = str(made["column"]), str(made["made_by"])
            if (intervals := made.get("intervals")) is not None:
                head.intervals = NumberIntervals(**{**intervals, "reach": float(intervals["reach"])})
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError):
            raise DataError(f"{path}: damaged, or from another run; copy the run again, or fit again") from None
        return head.eval()


def mean_head(rows: NumberRows) -> NumberHead:
    """Always the mean of the training numbers."""
    return NumberHead("mean", rows.features.shape[1]).standardise(rows)


def fitted_ridge(rows: NumberRows) -> NumberHead:
    """Ridge regression, whose penalty has the least error on rows held out of it: one at a time, or whole groups where
    rows belong together, since a row tells its neighbours' numbers."""
    from sklearn.linear_model import Ridge, RidgeCV

    head = NumberHead(RIDGE, rows.features.shape[1]).standardise(rows)
    if len(rows) > 1:
        inputs = ((rows.features.double() - head.centre) / head.scale).numpy()
        targets = ((rows.numbers - head.mean) / head.deviation).numpy()
        parts = [(learned.numpy(), held.numpy()) for learned, held in rows.to_choose_on()] if rows.grouped else []
        if parts:
            head.penalty = penalty_of_groups(inputs, targets, parts, PENALTIES)
            fitted = Ridge(head.penalty).fit(inputs, targets)
        else:
            fitted = RidgeCV(alphas=PENALTIES).fit(inputs, targets)
            head.penalty = float(fitted.alpha_)
        with torch.no_grad():
            head.linear.weight.copy_(torch.from_numpy(np.atleast_2d(fitted.coef_)))
            head.linear.bias.fill_(float(fitted.intercept_))
    return head


def head_of_loss(kind: str, loss: NumberLoss) -> NumberHead:
    """The linear layer that was trained with the towers."""
    head = NumberHead(kind, len(loss.centre))
    with torch.no_grad():
        head.linear.load_state_dict({name: value.cpu() for name, value in loss.layer.state_dict().items()})
        for name in ("centre", "scale"):
            getattr(head, name).copy_(getattr(loss, name).cpu())
        head.mean.fill_(loss.mean)
        head.deviation.fill_(loss.deviation)
    return head


def fit_head(
    rows: NumberRows, kind: str, error: str, training: HeadTraining, seed: int = 0
) -> tuple[NumberHead, FitReport]:
    """A head of `HEADS`.

    Args:
        rows: to learn from, at least one.
        error: of `ERRORS`, that is minimised; ridge minimises the squared one.
        seed: of what is held out, initial weights, and the order of the rows.
    """
    if kind == RIDGE:
        head = fitted_ridge(rows)
        chosen = {} if head.penalty is None else {"penalty": head.penalty}
        by = (
            "training images held out, whole groups at a time"
            if rows.grouped
            else "leave-one-out errors of the training images"
        )
        return head, FitReport(RIDGE, chosen, by)
    how = (kind, error, training, seed)
    epochs, chosen_on = _chosen_epochs(rows, how)
    head, history = _trained(rows, how, epochs)
    count = sum(parameter.numel() for parameter in head.parameters())
    return head, FitReport(kind, {"epochs": epochs}, chosen_on, history=history, trained_parameters=count)


How = tuple[str, str, HeadTraining, int]
"""Kind of head, error, options and seed."""


def _chosen_epochs(rows: NumberRows, how: How) -> tuple[int, str]:
    """How many, and on what they were chosen."""
    _, error, training, seed = how
    parts = rows.to_choose_on(seed) if len(rows) >= FEWEST_ROWS else []
    if not parts:
        return training.epochs, f"defaults: fewer than {FEWEST_ROWS} training images, or one group"
    errors, deviation = np.zeros(training.epochs + 1), float(rows.numbers.std(unbiased=False)) or 1.0
    for learned, looked_at in parts:
        held = rows.select(looked_at)
        errors_of: list[float] = []

        def look(head: NumberHead, held: NumberRows = held, errors_of: list[float] = errors_of) -> None:
            missed = (head.answers(held.features) - held.numbers) / deviation
            errors_of.append(float(ERRORS[error](missed, torch.zeros_like(missed), reduction="sum")))

        _trained(rows.select(learned), how, training.epochs, look)
        errors += errors_of
    seen = sum(len(looked_at) for _, looked_at in parts)
    return int(errors.argmin()), f"{seen} training images held out in turn, whole groups at a time"


def _trained(
    rows: NumberRows, how: How, epochs: int, look: Callable[[NumberHead], None] = lambda head: None
) -> tuple[NumberHead, list[dict[str, float]]]:
    """The head after the first epochs of a whole training, and the history; `look` sees it before, and after each."""
    kind, error, training, seed = how
    ridge = fitted_ridge(rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = training.hidden if kind == MLP else 0
        head = NumberHead(kind, rows.features.shape[1], hidden, training.dropout).standardise(rows)
        head.linear.load_state_dict(ridge.linear.state_dict())
        inputs, targets = head.inputs(rows.features), head.targets(rows.numbers)
        batches = epoch_batches(len(rows), training.batch_size, seed)
        steps = len(batches(0))
        rates = LearningRates.cosine(training.lr, steps * training.epochs).by_epoch(steps)[:epochs]
        weights = head.linear.parameters() if head.further is None else head.further.parameters()
        optimizer = torch.optim.AdamW(weights, lr=training.lr, weight_decay=training.weight_decay)

        def loss_of(epoch: int, index: Tensor) -> Tensor:
            head.train()
            return ERRORS[error](head(inputs[index]), targets[index])

        history = []
        look(head)
        for epoch in train_epochs(optimizer, rates, batches, loss_of):
            history.append(epoch.row())
            look(head)
    return head.eval(), history
