"""Intervals by drawing the test images anew, whole groups at a time; paired tests by exchanging two models' answers.

Images of one group (a patient, a video) are no independent observations: where there are groups, a bootstrap draws
groups with replacement ("Bootstrap-based improvements for inference with clustered errors", Cameron, Gelbach and Miller
2008), and a permutation test exchanges the answers of whole groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .classification import BINS, bin_of, log_odds, probabilities

SAMPLES = 1000
FEWEST_SAMPLES = 100
LEVEL = 0.95
NUMBERS_AT_ONCE = 4_000_000
MOST_RANKED = 5_000_000
"""Scores (images x classes) above which no AUROC is drawn anew: it would take minutes."""
RANKED_WORK = 200_000_000
"""Scores times draws that AUROC may take."""
EXCHANGES = 10_000
MOST_ENUMERATED = 13
"""Units up to which all exchanges are made."""

Draws = Callable[[Tensor], Mapping[str, Tensor]]
"""(s, N) weights of the images in s draws -> metric -> (s,) values; NaN where a draw cannot tell."""


def units_of(groups: Sequence[str] | None, count: int) -> tuple[Tensor, int]:
    """Which unit each image belongs to, (N,) int64, and the number of units; an image without a group is its own."""
    if groups is None:
        return torch.arange(count), count
    places: dict[object, int] = {}
    unit = [places.setdefault(group or position, len(places)) for position, group in enumerate(groups)]
    return torch.tensor(unit, dtype=torch.int64), len(places)


def drawn_weights(
    count: int, groups: Sequence[str] | None = None, samples: int = SAMPLES, seed: int = 0
) -> Iterator[Tensor]:
    """How often each image is in each draw, (s, N) float32, in parts that fit the memory.

    Args:
        count: N images.
        groups: N keys; then groups are drawn, with all their images.
        samples: draws in all.
        seed: fixes the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    unit, units = units_of(groups, count)
    rows = max(1, NUMBERS_AT_ONCE // max(1, count))
    for start in range(0, samples, rows):
        some = min(rows, samples - start)
        drawn = torch.randint(units, (some, units), generator=generator)  # (s, U)
        times = torch.zeros(some, units).scatter_add_(1, drawn, torch.ones(1).expand(drawn.shape))
        yield times if groups is None else times[:, unit]


def metric_draws(
    logits: Tensor,
    labels: Tensor,
    groups: Sequence[str] | None = None,
    *,
    class_names: Sequence[str] = (),
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The metrics of a classifier on draws of the test images; equal seeds give equal draws, so that values of two
    models on the same images are paired.

    Args:
        logits: (N, C).
        labels: (N,) class indices, or (N, C) 0, 1 or NaN.
        groups: N keys of what is drawn as a whole, or None.
        class_names: C names; with several labels the AUROC of each is drawn as well, as "auroc/<label>".
        samples: draws.
        seed: fixes them.

    Returns:
        Metric -> (S,) float64, named and defined as in `classification`; AUROC of one label per image has fewer draws
        the larger the set, and none above 5 million scores.

    Raises:
        DataError: as `probabilities`.
    """
    labels = probabilities(logits, labels)[1]  # checked
    logits = logits.detach().double().cpu()
    if labels.ndim == 2:
        of_draws = _several_labels(logits, labels, class_names)
        values = _collected(of_draws, drawn_weights(len(labels), groups, samples, seed))
        values |= label_answer_draws(logits > 0, labels, groups, samples=samples, seed=seed)
    else:
        values = answer_draws(logits.argmax(dim=1), labels, logits.shape[1], groups, samples=samples, seed=seed)
    values["ece"] = calibration_draws(logits, labels, groups, samples=samples, seed=seed)
    if labels.ndim == 2:
        return values
    if len(labels.unique()) > 1 and logits.numel() <= MOST_RANKED:
        fewer = max(FEWEST_SAMPLES, min(samples, RANKED_WORK // logits.numel()))
        ranking = _one_vs_rest(logits, labels)
        values.update(_collected(ranking, drawn_weights(len(labels), groups, fewer, seed)))
    return values


def answer_draws(
    predicted: Tensor,
    labels: Tensor,
    num_classes: int,
    groups: Sequence[str] | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Accuracy, balanced accuracy and macro F1 of answers (N,) on the same draws as `metric_draws`, each (S,)."""
    right = predicted == labels

    def of_draws(weight: Tensor) -> dict[str, Tensor]:
        images = _per_class(weight, labels, num_classes)  # (s, C)
        hits, answers = _per_class(weight * right, labels, num_classes), _per_class(weight, predicted, num_classes)
        absent = images == 0
        recall, f1 = hits / images, 2 * hits / (images + answers)
        return {
            "accuracy": hits.sum(dim=1) / images.sum(dim=1),
            "balanced_accuracy": recall.masked_fill(absent, torch.nan).nanmean(dim=1),
            "macro_f1": f1.masked_fill(absent, torch.nan).nanmean(dim=1),
        }

    return _collected(of_draws, drawn_weights(len(labels), groups, samples, seed))


def label_answer_draws(
    predicted: Tensor,
    labels: Tensor,
    groups: Sequence[str] | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Accuracy and macro F1 of yes-no answers (N, C) to labels (N, C), each (S,), on the draws of `metric_draws`."""
    known = ~labels.isnan()
    right = (predicted == (labels == 1)) & known
    true, found, called = ((each & known).double() for each in (labels == 1, predicted & (labels == 1), predicted))

    def of_draws(weight: Tensor) -> dict[str, Tensor]:
        weight = weight.double()
        f1 = 2 * (weight @ found) / (weight @ true + weight @ called)  # (s, C)
        f1 = f1.masked_fill(_one_sided(weight, labels), torch.nan)
        whole = (weight @ known.double()).sum(dim=1)
        return {"macro_f1": f1.nanmean(dim=1), "accuracy": (weight @ right.double()).sum(dim=1) / whole}

    return _collected(of_draws, drawn_weights(len(labels), groups, samples, seed))


def calibration_draws(
    logits: Tensor, labels: Tensor, groups: Sequence[str] | None = None, *, samples: int = SAMPLES, seed: int = 0
) -> Tensor:
    """(S,) the expected calibration error on the same draws as `metric_draws`, in the same bins."""
    gaps, counts = _calibration_gaps(logits, labels)  # (N, B), (N,)
    return torch.cat(
        [
            (weight.double() @ gaps).abs().sum(dim=1) / (weight.double() @ counts)
            for weight in drawn_weights(len(labels), groups, samples, seed)
        ]
    )


def mean_draws(
    values: Mapping[str, Tensor], unit: Tensor, *, samples: int = SAMPLES, seed: int = 0
) -> dict[str, Tensor]:
    """Means of values per query on draws of units, whole with all their queries.

    Args:
        values: name -> (Q,).
        unit: (Q,) int64, which unit each query belongs to, from 0.
        samples: draws.
        seed: fixes them.

    Returns:
        Name -> (S,) float64.
    """
    units = int(unit.max()) + 1

    def summed(of: Tensor) -> Tensor:
        return torch.zeros(units, dtype=torch.float64).index_add_(0, unit, of.double())

    counts, sums = summed(torch.ones(len(unit))), {name: summed(of) for name, of in values.items()}  # (U,)
    parts: dict[str, list[Tensor]] = {name: [] for name in values}
    for weight in drawn_weights(units, None, samples, seed):
        drawn = weight.double() @ counts  # (s,)
        for name, of in sums.items():
            parts[name].append((weight.double() @ of) / drawn)
    return {name: torch.cat(of) for name, of in parts.items()}


def centred(draws: Tensor, value: float) -> Tensor:
    """Draws (S,) moved so that their mean is the value on all images."""
    known = draws[draws.isfinite()]
    return draws if not len(known) else draws + (value - known.mean())


def percentiles(draws: Tensor, level: float = LEVEL) -> tuple[float, float] | None:
    """The middle `level` of the draws; None where none is finite."""
    draws = draws[draws.isfinite()]
    if not len(draws):
        return None
    tail = (1 - level) / 2
    low, high = draws.quantile(torch.tensor([tail, 1 - tail], dtype=draws.dtype)).tolist()
    return low, high


def paired_difference(draws: Tensor, difference: float) -> tuple[list[float] | None, float]:
    """Interval and two-sided p value of a difference that is no sum over images, AUROCs' for instance.

    Both are of draws moved to the difference on all images, since draws that miss a rare label are biased. So they
    agree: p is below 0.05 where the interval of 95 % leaves out 0.

    Args:
        draws: (S,) of the difference of two models, paired.
        difference: on all images.

    Returns:
        [low, high], or None where no draw is finite; and the p value, 1 then.
    """
    moved = centred(draws, difference)
    bounds = percentiles(moved)
    return None if bounds is None else list(bounds), p_of_draws(moved)


def p_of_draws(difference: Tensor) -> float:
    """Two-sided p value of a bootstrapped difference: twice the share of draws on the rarer side of 0."""
    known = difference[difference.isfinite()]
    if not len(known):
        return 1.0
    below, above = int((known <= 0).sum()), int((known >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(known) + 1))


def exchange_test(gains: Tensor, groups: Sequence[str] | None = None, *, seed: int = 0) -> float:
    """Paired permutation test of a difference that is a sum over images ("The Design of Experiments", Fisher 1935).

    If two models were equally good, either could have given either's answers: the sign of what each unit adds to the
    difference is chance. All signs are tried up to 13 units that add something, else 10,000 draws of them.

    Args:
        gains: (N,) what each image adds to the difference.
        groups: N keys of images that are exchanged together, or None.
        seed: fixes the draws.

    Returns:
        The two-sided p value.
    """
    unit, units = units_of(groups, len(gains))
    added = torch.zeros(units, dtype=torch.float64).index_add_(0, unit, gains.double().cpu())
    added = added[added != 0]  # (U,)
    if not len(added):
        return 1.0
    least = added.sum().abs() - 1e-12
    if len(added) <= MOST_ENUMERATED:
        bits = torch.arange(2 ** len(added))[:, None] >> torch.arange(len(added)) & 1
        return float(((2.0 * bits - 1).double() @ added).abs().ge(least).double().mean())
    generator, extreme, rows = torch.Generator().manual_seed(seed), 0, max(1, NUMBERS_AT_ONCE // len(added))
    for start in range(0, EXCHANGES, rows):
        shape = (min(rows, EXCHANGES - start), len(added))
        signs = 2.0 * torch.randint(2, shape, generator=generator) - 1
        extreme += int((signs.double() @ added).abs().ge(least).sum())
    return (extreme + 1) / (EXCHANGES + 1)


def _collected(of_draws: Draws, weights: Iterator[Tensor]) -> dict[str, Tensor]:
    parts = [of_draws(weight) for weight in weights]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _per_class(weight: Tensor, of: Tensor, classes: int) -> Tensor:
    return torch.zeros(len(weight), classes, dtype=torch.float64).index_add_(1, of, weight.double())


def _one_vs_rest(logits: Tensor, labels: Tensor) -> Draws:
    odds = log_odds(logits)
    ranks = [ranked_pairs(odds[:, c], (labels == c).double()) for c in labels.unique().tolist()]

    def of_draws(weight: Tensor) -> dict[str, Tensor]:
        return {"auroc": torch.stack([weighted_auroc(weight, *each) for each in ranks], dim=1).nanmean(dim=1)}

    return of_draws


def _calibration_gaps(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(N, B) confidence minus truth of each image in the bin of the confidence, (N,) answers that an image gives."""
    probs, labels = probabilities(logits, labels)
    if labels.ndim == 1:
        confidence, predicted = probs.max(dim=1)
        probs, labels = confidence[:, None], (predicted == labels).double()[:, None]
    known = ~labels.isnan()
    gaps = torch.where(known, probs - labels, 0.0)
    table = torch.zeros(len(probs), BINS, dtype=torch.float64).scatter_add_(1, bin_of(probs), gaps)
    return table, known.sum(dim=1).double()


def _several_labels(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> Draws:
    columns = [(logits[:, c], labels[:, c]) for c in range(labels.shape[1])]
    ranks = [ranked_pairs(*column) for column in columns]
    curves = [_falling(*column) for column in columns]

    def of_draws(weight: Tensor) -> dict[str, Tensor]:
        weight = weight.double()
        auroc = torch.stack([weighted_auroc(weight, *each) for each in ranks], dim=1)  # (s, C)
        precision = torch.stack([_weighted_precision(weight, *each) for each in curves], dim=1)
        return {
            "auroc": auroc.nanmean(dim=1),
            "mean_average_precision": precision.masked_fill(_one_sided(weight, labels), torch.nan).nanmean(dim=1),
            **{f"auroc/{name}": auroc[:, c] for c, name in enumerate(class_names)},
        }

    return of_draws


def _one_sided(weight: Tensor, labels: Tensor) -> Tensor:
    """(s, C) labels that all drawn images have, or none."""
    positives, known = weight @ (labels == 1).double(), weight @ (~labels.isnan()).double()
    return (positives == 0) | (positives == known)


def ranked_pairs(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of positives; rows of negatives by rising score; of each positive, how many negatives are below, and not
    above."""
    positive, negative = (truth == 1).nonzero().flatten(), (truth == 0).nonzero().flatten()
    rising, order = scores[negative].sort()
    wanted = scores[positive].contiguous()
    below, level = (torch.searchsorted(rising, wanted, right=side) for side in (False, True))
    return positive, negative[order], below, level


def weighted_auroc(weight: Tensor, positive: Tensor, negative: Tensor, below: Tensor, level: Tensor) -> Tensor:
    """(s,) chance that a drawn positive scores above a drawn negative, ties counted half."""
    positives = weight[:, positive].double()  # (s, P)
    reached = torch.nn.functional.pad(weight[:, negative].double().cumsum(dim=1), (1, 0))  # (s, M + 1)
    wins = (positives * (reached[:, below] + reached[:, level])).sum(dim=1) / 2
    return wins / (positives.sum(dim=1) * reached[:, -1])  # 0 / 0 is NaN: nothing to rank in this draw


def _falling(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Known rows by falling score, which of them are positive, and where each run of equal scores ends."""
    rows = (~truth.isnan()).nonzero().flatten()
    rows = rows[scores[rows].argsort(descending=True)]
    steps = scores[rows].diff() != 0
    ends = torch.cat([steps, torch.ones(min(1, len(rows)), dtype=torch.bool)]).nonzero().flatten()
    return rows, truth[rows] == 1, ends


def _weighted_precision(weight: Tensor, rows: Tensor, positive: Tensor, ends: Tensor) -> Tensor:
    """(s,) average precision: the sum over thresholds of precision times the recall it adds."""
    drawn = weight[:, rows]  # (s, M)
    reached, found = drawn.cumsum(dim=1)[:, ends], (drawn * positive).cumsum(dim=1)[:, ends]  # (s, T)
    if not len(ends):
        return torch.full((len(weight),), torch.nan, dtype=torch.float64)
    added = found.diff(dim=1, prepend=torch.zeros(len(found), 1, dtype=found.dtype))
    return (added * (found / reached).nan_to_num(0.0)).sum(dim=1) / found[:, -1]
