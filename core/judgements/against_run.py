"""`eval RUN --against RUN2`: whether one of two runs ranks the same images better, by DeLong's paired test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..contracts.judgement import EVAL, JudgedClassifier, Judgement, Place
from ..contracts.run_info import Record
from ..metrics.classification import log_odds
from ..metrics.intervals import SIGNIFICANT
from ..metrics.score_intervals import Aurocs, PairedAurocs, auroc_difference, delong_test
from ..metrics.significance import holm, p_words
from ..runs.sections import Cell, Measure, TableSection
from .finding_curves import FindingScores, present_of

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor
    from typing_extensions import Self

NUMBER = Measure("", kind="number")
MACRO = "Mean"
HEADER = ("", "This run", "Other run", "Difference", "p")
NOTE = (
    "AUROCs of both runs on the same images, and DeLong’s paired test of their difference. p values of single classes "
    "are adjusted for their number (Holm)."
)


@dataclass(frozen=True)
class AurocPair:
    """AUROCs of both runs.

    Attributes:
        run, other: of each.
        difference, interval: run less other.
        p_value: of the difference, two-sided.
        p_holm: adjusted for the number of classes; of a single one the same.
    """

    run: float
    other: float
    difference: float
    interval: Sequence[float]
    p_value: float
    p_holm: float

    def cells(self) -> tuple[str, str, Cell, str]:
        difference, between = (
            text.replace("-", "−") for text in (f"{self.difference:+.3f}", NUMBER.between(self.interval))
        )
        return NUMBER.text(self.run), NUMBER.text(self.other), Cell(difference, between), p_words(self.p_holm)


@dataclass(frozen=True, eq=False)
class AgainstRun(Record):
    """Two runs on the same images.

    Attributes:
        other: name of the other run's folder.
        in_its_fit: how many of the images were in the fit of the other run, in words; "" where that is not known.
        pairs: finding, class or label -> AUROCs of both, of those that some images have and others lack.
        mean: the same of the mean over classes; None of a single one.
    """

    key: ClassVar[str] = "against"
    other: str
    in_its_fit: str
    pairs: Mapping[str, AurocPair]
    mean: AurocPair | None = None

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = metrics[cls.key]
        pairs, mean = {name: AurocPair(**of) for name, of in values["pairs"].items()}, values["mean"]
        return cls(values["other"], values["in_its_fit"], pairs, mean and AurocPair(**mean))

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Of a table."""
        for name, of in [*([] if self.mean is None else [(MACRO, self.mean)]), *self.pairs.items()]:
            yield name, *of.cells()

    def section(self) -> TableSection | None:
        note = f"{NOTE} {self.in_its_fit}".strip()
        return (
            TableSection(f"Against {self.other}", HEADER, list(self.rows()), note, shares=False) if self.pairs else None
        )

    def table(self) -> Table | None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        if not self.pairs:
            return None
        table = Table(title=f"AUROC against {self.other}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for name in HEADER:
            table.add_column(name.lower(), justify="right" if name else "left")
        for name, run, other, difference, p in self.rows():
            table.add_row(name, run, other, f"{difference.text} ({difference.small})", p)
        return table

    @property
    def notes(self) -> list[str]:
        if not self.pairs:
            return [f"--against {self.other}: no class is both shown and absent often enough to rank by it"]
        of = self.mean or next(iter(self.pairs.values()))
        what = "the mean AUROC" if self.mean is not None else f"the AUROC of “{next(iter(self.pairs))}”"
        values = f"{of.run:.3f} against {of.other:.3f} of {self.other}, {p_words(of.p_value)}"
        if of.p_value < SIGNIFICANT:
            how = "higher" if of.difference > 0 else "lower"
            notes = [f"{what} is {how} than that of the other run by more than chance: {values} (DeLong)"]
        else:
            notes = [f"no difference from the other run is shown in {what}: {values} (DeLong)"]
        return [*notes, *([f"of {self.other}: {self.in_its_fit}"] if self.in_its_fit else [])]


@dataclass(eq=False, kw_only=True)
class Against(Judgement):
    """Two runs on the same images, compared by DeLong's paired test."""

    record: ClassVar = AgainstRun
    at: ClassVar = frozenset({EVAL})
    needs: ClassVar = frozenset({"labelled", "own_classes", "against"})
    place: ClassVar = Place.SCORES
    refits: ClassVar = True  # it fits nothing, but which of two classes is the finding is judged before

    def compute(self, fit: JudgedClassifier) -> AgainstRun | None:
        against, names = fit.against, list(fit.class_names)
        if against is None:
            return None
        columns = list(range(len(names)))
        if len(names) == 2 and not fit.several_labels:
            columns = [names.index(fit.metrics[FindingScores.key]["finding"])]
        truth = torch.stack([present_of(fit.labels, c) for c in columns], dim=1)  # (N, K)
        run, other = (
            _ranking(logits, fit.several_labels)[:, columns] for logits in (fit.scores.adapted_logits, against.logits)
        )
        groups, tests = fit.scores.groups, {}
        for place, c in enumerate(columns):
            known = ~truth[:, place].isnan()
            both = (truth[:, place] == 1).any() and (truth[:, place] == 0).any()
            of = None if groups is None else [groups[row] for row in known.nonzero().flatten().tolist()]
            test = delong_test(run[known, place], other[known, place], truth[known, place], of) if both else None
            if test is not None:
                tests[names[c]] = test
        adjusted = holm([test.p_value for test in tests.values()])
        pairs = {name: _pair(test, p) for (name, test), p in zip(tests.items(), adjusted)}
        return AgainstRun(
            against.name, against.words, pairs, _mean(run, other, truth, groups) if len(pairs) > 1 else None
        )


def _ranking(logits: Tensor, several: bool) -> Tensor:
    """(N, C) by which images are ranked for each class: logits of labels, else log-odds against all other classes."""
    logits = logits.detach().double().cpu()
    return logits if several else log_odds(logits)


def _pair(test: PairedAurocs, p_holm: float) -> AurocPair:
    return AurocPair(test.first, test.second, test.difference, test.interval, test.p_value, p_holm)


def _mean(run: Tensor, other: Tensor, truth: Tensor, groups: Sequence[str] | None) -> AurocPair:
    """Of the mean over all classes."""
    after, before = Aurocs.of(run, truth, groups), Aurocs.of(other, truth, groups)
    gain = auroc_difference(before, after)
    interval = gain.bounds or [-1.0, 1.0]
    return AurocPair(after.macro, before.macro, gain.value, interval, gain.p_value, gain.p_value)
