"""M4: weights under which sensitive attributes are as frequent as wished, and labels hardly depend on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..contracts.curator import TEXT, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import ConfigError, DataError, first_of
from ._entries import EntryList, read_entries

SHOWN = 5
FEW_UTILITIES = 4096
"""So many different ones are taken as they are; of more, the digits are cut."""
TOLERANCE = 1e-3
"""By which a moment may miss its bound and yet count as within it."""
PRECISE = {"maxiter": 10_000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-10, "maxcor": 30}


@dataclass(eq=False, kw_only=True)
class M4(Curator):
    """CLIP the Bias: How Useful is Balancing Data in Multimodal Learning? (Alabdulmohsin et al., 2024, arXiv
    2403.04547), multi-modal moment matching, solved to the optimum.

    A pair has attributes s in {0, 1}^m, labels y in {0, 1}^c and a utility u, by default 1. Its weight q in [0, Q] is
    the solution, with expectations over all pairs and E q = mean, of

        minimise   E[(q - mean u)^2] / 2 + V * sum of slacks
        subject to |E[q (s_k - target_k) y_r]| <= association * E q + slack
                   |E[q (s_k - target_k)]|     <= representation * E q + slack

    that is q = clip(mean u - v.b - mu, 0, Q) with two multipliers v in [0, V] per constraint. Pairs of equal (s, y, u)
    have equal weights, so that a table of their counts is all that is solved. Where more than 4096 utilities differ,
    they are rounded to three digits, for the table and for the weights.

    A mean near Q leaves no room: what the weights cannot reach is reported, with the moments before and after. Removing
    about 10 % (mean 0.9) is what the paper does. A pair is kept with probability q, or, with `weights`, weighted.

    Attributes read from words are attributes of texts, not of people, and balancing them does not make a model
    fair.

    Example:
        >>> m4 = build_curator("m4", attributes="woman", labels="nurse,pilot", words="words.json")
        >>> m4.decide_all(pairs).keep.mean()
        0.9
    """

    stage: ClassVar[str] = "balance"

    attributes: tuple[str, ...] = option((), "sensitive attributes: columns of flags, or names in the file of words")
    labels: tuple[str, ...] = option((), "labels that should not depend on them: columns of flags, or names there")
    words: str | None = option(
        None,
        "a .json dict of names, each with a list of words: a text has the flag if it contains one, in any case, with "
        "spaces or punctuation around it",
        metavar="FILE",
    )
    utility: str | None = option(None, "column of numbers from 0 on, how useful a pair is; none: 1 of all")
    targets: tuple[float, ...] = option(
        (0.5,), "wished frequency of the attributes, one for all or one of each", above=0.0, below=1.0
    )
    association: float = option(0.005, "what a moment of attribute and label may be, per weight", low=0.0)
    representation: float = option(0.005, "what an attribute's frequency may miss its target by", low=0.0)
    mean: float = option(0.9, "mean of the weights, the share of the pairs that is kept", above=0.0)
    most: float = option(1.0, "Q, the largest weight; above 1 with weights alone", above=0.0)
    penalty: float = option(10.0, "V, what it costs to miss a bound by 1", above=0.0)
    weights: bool = option(False, "keep all pairs whose weight is not 0, with it, in place of a draw")
    seed: int = option(0, "fixes the draw", low=0)

    def __post_init__(self):
        super().__post_init__()
        owner = f"curator '{self.name}'"
        if not self.attributes:
            raise ConfigError(f"{owner}: give attributes=NAMES, columns of flags, or names in a file of words")
        if len(self.targets) not in (1, len(self.attributes)):
            raise ConfigError(
                f"{owner}: {len(self.targets)} targets for {len(self.attributes)} attributes; give one each"
            )
        if self.mean > self.most:
            raise ConfigError(f"{owner}: weights up to {self.most:g} have no mean of {self.mean:g}; lower mean")
        if self.most > 1 and not self.weights:
            raise ConfigError(f"{owner}: most={self.most:g} is no probability; add weights=true, or give at most 1")

    @property
    def reads(self) -> tuple[str, ...]:
        columns = [name for name in (*self.attributes, *self.labels) if name not in self._words]
        columns += [TEXT] if len(columns) < len(self.attributes) + len(self.labels) else []
        return tuple(dict.fromkeys([*columns, *([self.utility] if self.utility else [])]))

    def check(self, columns: Collection[str]) -> None:
        _ = self._words

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        rounds = self._many_utilities(pairs)
        cells: Counter[bytes] = Counter()
        width = len(self.attributes) + len(self.labels)
        for rows in pairs.blocks():
            flags, useful = self._facts(pairs.among(rows), rounds)
            joined = np.concatenate([flags, useful[:, None]], axis=1, dtype=np.float64)
            kinds, counts = np.unique(joined.view(f"V{8 * (width + 1)}").ravel(), return_counts=True)
            cells.update(dict(zip(kinds.tolist(), counts.tolist())))
            progress(rows.stop, len(pairs))
        table = np.frombuffer(b"".join(sorted(cells)), np.float64).reshape(-1, width + 1)
        counts = np.array([cells[key] for key in sorted(cells)], np.float64)
        solved = self._solved(table, counts / counts.sum())
        return replace(
            solved,
            whole={**solved.whole, "rounded": np.array([rounds])},
            notes=(*solved.notes, *self._words_without_match()),
        )

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        flags, useful = self._facts(pairs, survey.whole["rounded"][0])
        q = self._problem(flags, useful).weights(survey.whole["multipliers"])
        dropped = q <= 0 if self.weights else pairs.uniform(self.seed, purpose=self.name) >= q
        fails = {"its attributes are too frequent": dropped}
        return Decision.of(fails, q.astype(np.float32) if self.weights else None, {"m4": q.astype(np.float32)})

    @cached_property
    def _strings(self) -> Mapping[str, list[str]]:
        """Name -> its words, in lower case."""
        if self.words is None:
            return {}
        lists = read_entries(Path(self.words))
        if "" in lists:
            raise DataError(f"{self.words}: not a .json dict of names with lists of words; give one")
        return {name: [word.lower() for word in words] for name, words in lists.items()}

    @cached_property
    def _words(self) -> Mapping[str, EntryList]:
        return {name: EntryList(words, True) for name, words in self._strings.items()}

    def _words_without_match(self) -> tuple[str, ...]:
        """A note of the words that no text can contain, or nothing."""
        names = [name for name in (*self.attributes, *self.labels) if name in self._words]
        never = [w for name in names for w, n in zip(self._strings[name], self._words[name].never) if n]
        if not never:
            return ()
        listed = f"{len(never):,} ({first_of(never, SHOWN)})"
        return (f"words that can never match: {listed}; punctuation is set apart in texts: write them without",)

    def _many_utilities(self, pairs: PairTable) -> bool:
        """Whether more than `FEW_UTILITIES` differ."""
        different: set[float] = set()
        for rows in pairs.blocks() if self.utility else ():
            different.update(pairs.numbers(str(self.utility), rows).astype(np.float64).tolist())
            if len(different) > FEW_UTILITIES:
                return True
        return False

    @property
    def _names(self) -> list[str]:
        return [f"{s} x {y}" for s in self.attributes for y in self.labels] + list(self.attributes)

    def _problem(self, flags: np.ndarray, useful: np.ndarray) -> WeightProblem:
        count = len(self.attributes)
        moments = moments_of(flags[:, :count], flags[:, count:], np.broadcast_to(self.targets, count))
        bounds = np.repeat([self.association, self.representation], [count * len(self.labels), count])
        return WeightProblem(moments, bounds, useful, self.mean, self.most)

    def _facts(self, pairs: PairTable, rounds: bool) -> tuple[np.ndarray, np.ndarray]:
        """(N, m + c) flags of attributes and labels, and (N,) utilities, rounded or not."""
        names = (*self.attributes, *self.labels)
        flags = np.zeros((len(pairs), len(names)), bool)
        if any(name in self._words for name in names):
            texts = [text.lower() for text in pairs.strings(TEXT)]
        for place, name in enumerate(names):
            if name in self._words:
                flags[self._words[name].matches(texts)[1], place] = True
            else:
                values = pairs.numbers(name)
                if values.ndim != 1 or not np.isin(values, (0, 1)).all():
                    raise DataError(f"column '{name}': not all are 0 or 1; give flags, or words for it")
                flags[:, place] = values
        useful = np.ones(len(pairs)) if self.utility is None else pairs.numbers(self.utility).astype(np.float64)
        if not (np.isfinite(useful) & (useful >= 0)).all():
            raise DataError(f"column '{self.utility}': a utility is negative or not finite; give numbers from 0 on")
        return flags, rounded_weights(useful) if rounds else useful

    def _solved(self, table: np.ndarray, share: np.ndarray) -> Survey:
        """The survey of (L, m + c + 1) kinds of pairs and their shares: what the weights reach and what they do not."""
        problem = self._problem(table[:, :-1], table[:, -1])
        multipliers = problem.solve(share, self.penalty)
        q = problem.weights(multipliers)
        before, after = (each @ problem.moments / each.sum() for each in (share, share * q))
        effective = (share @ q) ** 2 / (share @ q**2)
        whole = {
            "multipliers": multipliers,
            "moment_before": before,
            "moment_after": after,
            "association_before": self._associations(table, share),
            "association_after": self._associations(table, share * q),
            "effective_share": np.array([effective]),
        }
        missed = np.abs(after) - problem.bounds
        worst = [place for place in np.argsort(-missed, kind="stable") if missed[place] > TOLERANCE]
        residuals = [
            f"{self._names[i]} {before[i]:+.3f} -> {after[i]:+.3f}, allowed {problem.bounds[i]:g}" for i in worst
        ]
        if worst:
            listed = first_of(residuals, SHOWN)
            reached = f"{len(worst)} of {len(missed)} bounds are missed: {listed}; give a lower mean, or allow more"
        else:
            reached = f"all {len(missed)} moments are within their bounds; the largest was {np.abs(before).max():.3f}"
        spread = (
            f"weights of mean {share @ q:.3f}: {share @ (q <= 0):.1%} are 0, {share @ (q >= self.most):.1%} are "
            f"{self.most:g}; the effective sample size is {effective:.1%} of the pairs"
        )
        return Survey(whole, notes=(reached, spread))

    def _associations(self, table: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """(m, c) E[y | s = 1] - E[y | s = 0]; 0 where one of the two never is."""
        count = len(self.attributes)
        s, y = table[:, :count], table[:, count:-1]
        sides = [(weight[:, None] * each).T @ y / np.maximum(weight @ each, 1e-12)[:, None] for each in (s, 1 - s)]
        both = np.minimum(weight @ s, weight @ (1 - s)) > 0
        return np.where(both[:, None], sides[0] - sides[1], 0.0)


def rounded_weights(utility: np.ndarray) -> np.ndarray:
    """(N,) of the same size within 0.05 %, so that there are few kinds of pairs."""
    mantissa, exponent = np.frexp(utility)
    return np.ldexp(np.round(mantissa * 1024) / 1024, exponent)


def moments_of(attributes: np.ndarray, labels: np.ndarray, targets: Sequence[float] | np.ndarray) -> np.ndarray:
    """(N, m c + m) float64: (s - target) y, attribute by attribute, then s - target; of (N, m) and (N, c) flags."""
    first = attributes - np.asarray(targets, np.float64)  # (N, m)
    second = first[:, :, None] * labels[:, None, :]  # (N, m, c)
    return np.concatenate([second.reshape(len(first), -1), first], axis=1)


@dataclass(frozen=True, eq=False)
class WeightProblem:
    """What the weights (L,) of L kinds of pairs are to be.

    Args:
        moments: a, (L, K).
        bounds: (K,), of the moments per weight.
        utility: (L,).
        mean: of the weights.
        most: the largest weight.
    """

    moments: np.ndarray
    bounds: np.ndarray
    utility: np.ndarray
    mean: float
    most: float

    @cached_property
    def sides(self) -> np.ndarray:
        """b, (L, 2 K): what must have no positive mean, of the upper bounds and of the lower ones."""
        return np.concatenate([self.moments - self.bounds, -self.moments - self.bounds], axis=1)

    def weights(self, multipliers: np.ndarray) -> np.ndarray:
        """(L,) clip(mean u - v.b - mu, 0, most), of (2 K + 1,) multipliers v and mu."""
        free = self.mean * self.utility - self.sides @ multipliers[:-1]
        return np.clip(free - multipliers[-1], 0.0, self.most)

    def objective(self, q: np.ndarray, share: np.ndarray, penalty: float) -> float:
        """E[(q - mean u)^2] / 2 + penalty * sum of slacks, of (L,) weights and shares of the pairs."""
        slack = np.maximum(np.abs((share * q) @ self.moments) - self.bounds * (share @ q), 0)
        return float(share @ (q - self.mean * self.utility) ** 2 / 2 + penalty * slack.sum())

    def dual(self, multipliers: np.ndarray, share: np.ndarray) -> tuple[float, np.ndarray]:
        """Its value, which is no higher than any objective, and its gradient (2 K + 1,)."""
        q = self.weights(multipliers)
        gradient = np.append((share * q) @ self.sides, share @ q - self.mean)
        return float(share @ (q - self.mean * self.utility) ** 2 / 2 + gradient @ multipliers), gradient

    def solve(self, share: np.ndarray, penalty: float) -> np.ndarray:
        """(2 K + 1,) multipliers that maximise the dual, by L-BFGS with 0 <= v <= penalty; then mu, for which the mean
        is met, by bisection.

        The weights depend on how utilities differ alone: their mean, beside which the dual would lose its digits, is
        left out of it.
        """
        from scipy.optimize import brentq, minimize

        centred = replace(self, utility=self.utility - share @ self.utility)

        def negative(multipliers: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = centred.dual(multipliers, share)
            return -value, -gradient

        limits = [(0.0, penalty)] * self.sides.shape[1] + [(None, None)]
        start = np.append(np.zeros(len(limits) - 1), -self.mean)  # every weight about the mean
        multipliers = minimize(negative, start, jac=True, method="L-BFGS-B", bounds=limits, options=PRECISE).x
        free = self.mean * self.utility - self.sides @ multipliers[:-1]
        multipliers[-1] = brentq(
            lambda mu: share @ np.clip(free - mu, 0, self.most) - self.mean, free.min() - self.most, free.max()
        )
        return multipliers
