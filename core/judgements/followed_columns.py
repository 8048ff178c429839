"""`--holistic`: whether answers follow a column of the data's table beyond the label: a site, a scanner, a background.

Of a model that calls every horse on sand a camel, the plain score of a test set from the same places says nothing. What
is asked of each column: within one true class, are images of a value called more often what that value goes with among
the images that the run learned from? The cause stays open: the model may read the column, or something that goes with
it, as a cue that the label misses does where labels are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..contracts.items import Columns, DomainData, items_of
from ..contracts.judgement import JudgedClassifier
from ..contracts.run_info import Record
from ..data.group_columns import LABELS_AND_SPLITS
from ..data.group_words import kind_of_column
from ..data.tables import Table
from ..errors import VladaptError
from ..metrics.followed_columns import Column, Following, followed
from ..metrics.intervals import SIGNIFICANT
from ..metrics.significance import holm, p_words
from ..metrics.subgroups import quartiles
from ..runs.sections import Measure, TableSection, plural
from ._condition import in_points, printed
from ._holistic import WORST, HolisticJudgement
from .subgroups import column_cells

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from torch import Tensor
    from typing_extensions import Self

MOST_VALUES = 20
"""Different texts, above which a column names images rather than what they have in common."""
NOT_THERE = "is no column of the images that were learned from"
SHARE = Measure("")
TITLE = "Columns that answers follow"
HEADER = ("Column", "Images", "Answers that go with it", "If it did not matter", "More, in points", "p")


@dataclass(frozen=True)
class FollowedColumn:
    """One column.

    Attributes:
        column: its name.
        cut: whether its numbers are cut at the quartiles of the images that were learned from.
        following: with a p value that is adjusted for the number of columns (Holm).
        worst: test rows whose wrong answer goes with the value most, where answers follow it.
    """

    column: str
    cut: bool
    following: Following
    worst: Sequence[int] = ()

    @property
    def follows(self) -> bool:
        return self.following.p_value < SIGNIFICANT

    @property
    def words(self) -> str:
        of = self.following
        return (
            f"answers follow {self.column} beyond the label: the model reads it, or something that goes with it "
            f"({SHARE.text(of.share)} of the answers are classes that its value goes with among the images learned "
            f"from, {SHARE.text(of.expected)} if it did not matter; {p_words(of.p_value)})"
        )


@dataclass(frozen=True, eq=False)
class FollowedColumns(Record):
    """What is said of all columns of a table.

    Attributes:
        columns: that were judged, the one that answers follow most first.
        not_judged: the others, and why.
        lacking: why none could be; "" where it could.
        grouped: whether whole groups of images change places, and not single images.
    """

    key: ClassVar[str] = "followed_columns"
    columns: Sequence[FollowedColumn]
    not_judged: Mapping[str, str]
    lacking: str = ""
    grouped: bool = False

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = dict(metrics[cls.key])
        columns = [{**each, "following": Following(**each["following"])} for each in values.pop("columns")]
        return cls([FollowedColumn(**each) for each in columns], **values)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        for each in self.columns:
            of = each.following
            points = in_points(of.share - of.expected, of.interval)
            yield each.column, of.images, SHARE.text(of.share), SHARE.text(of.expected), points, f"{of.p_value:.3g}"

    def section(self) -> TableSection:
        if self.lacking:
            return TableSection(TITLE, (), [], _sentence(self.lacking))
        sentences = [each.words for each in self.columns if each.follows] or ["answers are shown to follow no column"]
        unit = "whole groups of images" if self.grouped else "images"
        of_all = (
            "A class goes with a value that is more frequent with it among the images that the run learned from than "
            f"among all of these. The test deals the values anew to {unit} of one true class, and is adjusted for the "
            f"{plural(len(self.columns), 'column')} (Holm)."
        )
        cut = [each.column for each in self.columns if each.cut]
        cuts = f" Cut at the quartiles of the images learned from: {', '.join(cut)}." if cut else ""
        note = f"{' '.join(map(_sentence, sentences))} {of_all}{cuts} {self._left_out()}".strip()
        return TableSection(TITLE, HEADER if self.columns else (), list(self.rows()), note)

    def table(self) -> RichTable | None:
        rows = [(column, str(images), *values) for column, images, *values in self.rows()]
        return printed(TITLE, HEADER, rows) if rows else None

    @property
    def notes(self) -> list[str]:
        if self.lacking:
            return [self.lacking]
        named = [each.words for each in self.columns if each.follows]
        none = "answers are shown to follow no column of the table"
        judged = f"{none} ({plural(len(self.columns), 'column')} judged)" if self.columns and not named else ""
        return [*named, judged, self._left_out().rstrip(".")]

    def pictured(self) -> tuple[str, list[tuple[int, str]]] | None:
        rows = {row: f"as {each.column} suggests" for each in self.columns for row in each.worst}
        return ("Wrong as a column suggests", list(rows.items())[:WORST]) if rows else None

    def _left_out(self) -> str:
        reasons: dict[str, list[str]] = {}
        for name, reason in self.not_judged.items():
            reasons.setdefault(reason, []).append(name)
        words = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        return f"Cannot be judged: {words}." if words else ""


@dataclass(eq=False, kw_only=True)
class ColumnsFollowed(HolisticJudgement):
    """Whether answers lean, within the true class, to what a column's value goes with in the support."""

    record: ClassVar = FollowedColumns

    def compute(self, fit: JudgedClassifier) -> FollowedColumns:
        try:
            taught = fit.prepared.data if fit.fitted_on is None else fit.fitted_on()
        except VladaptError:
            return _none("the data that the run was fitted on cannot be read any more")
        ids = () if fit.use is None else fit.use.run.info.splits.get("support") or ()
        labels = _labels(taught, ids, fit.class_names)
        if reason := _lacking(fit, taught, ids, labels):
            return _none(reason)
        assert labels is not None and fit.labels is not None
        return _judged(fit, taught, ids, labels)


def _none(reason: str) -> FollowedColumns:
    return FollowedColumns([], {}, f"columns that answers follow: not judged, since {reason}")


def _lacking(fit: JudgedClassifier, taught: DomainData, ids: Sequence[str], labels: Tensor | None) -> str:
    """Why a run cannot be judged so; "" where it can."""
    if fit.several_labels:
        return "images may have several labels"
    if not ids:
        return "the run names no labelled images that it learned from"
    if labels is None:
        return "the images that it learned from are not among the data, or have no such names there"
    for data in (fit.prepared.data, taught):
        if data.columns is None or data.columns() is None:
            array = (
                "a features file with an array per column" if not data.has_images else "a table with a row per image"
            )
            return f"{data.name} has no columns; give {array}"
    return ""


def _labels(data: DomainData, ids: Sequence[str], class_names: Sequence[str]) -> Tensor | None:
    """(M,) indices into the names of the images learned from; None where the data lack one of them."""
    if not {item.id for item in data.items}.issuperset(ids):
        return None
    place = {name: index for index, name in enumerate(class_names)}
    labels = [item.class_label() for item in items_of(ids, data.items)]
    named = [data.class_names[label] if isinstance(label, int) else "" for label in labels]
    return torch.tensor([place[name] for name in named]) if place.keys() >= set(named) else None


def _judged(fit: JudgedClassifier, taught: DomainData, ids: Sequence[str], labels: Tensor) -> FollowedColumns:
    assert fit.labels is not None and taught.columns is not None and fit.prepared.data.columns is not None
    here, there, groups = fit.prepared.data.columns(), taught.columns(), fit.scores.groups
    assert here is not None and there is not None
    columns, cut, not_judged = {}, set(), {}
    for name in (each for each in here.names if _says_something(each, here)):
        if name not in there.names:
            not_judged[name] = NOT_THERE
            continue
        values, support = column_cells(here, name, fit.test.ids or ()), column_cells(there, name, ids)
        if groups is not None and _is_group(values, groups):
            continue
        quarters = quartiles([*support, *values], cut_by=support)
        if quarters is not None:
            cut.add(name)
            support, values = quarters[0][: len(support)], quarters[0][len(support) :]
        order = {value: place for place, value in enumerate(sorted({*support, *values} - {""}))}
        if len(order) > MOST_VALUES:
            not_judged[name] = f"more than {MOST_VALUES} values"
            continue
        code_of, code_here = (torch.tensor([order.get(value, -1) for value in each]) for each in (support, values))
        columns[name] = Column(code_of, code_here, len(order))
    if not columns and not not_judged:
        what = "an array per column" if not fit.prepared.data.has_images else "a table with a row per image"
        return _none(f"{fit.prepared.data.name} has no columns besides label, split and group; give {what}")
    answers, truth, classes = fit.scores.adapted_logits.argmax(dim=1).cpu(), fit.labels.cpu(), len(fit.class_names)
    of_columns = followed(list(columns.values()), labels, truth, answers, classes, groups, seed=fit.seed)
    results = dict(zip(columns, of_columns))
    not_judged |= {name: of for name, of in results.items() if isinstance(of, str)}
    judged = {name: of for name, of in results.items() if isinstance(of, Following)}
    made = []
    for (name, of), p_value in zip(judged.items(), holm([of.p_value for of in judged.values()])):
        each = FollowedColumn(name, name in cut, replace(of, p_value=p_value))
        goes = columns[name].association(labels, classes) if each.follows else None
        made.append(each if goes is None else replace(each, worst=_worst(goes, columns[name].test, truth, answers)))
    made.sort(key=lambda each: (each.following.p_value, -each.following.share + each.following.expected))
    return FollowedColumns(made, not_judged, grouped=groups is not None)


def _says_something(name: str, columns: Columns) -> bool:
    """Whether a column is none of the image, its label, its group and its split."""
    is_taken = name in columns.taken or Table.plain_name(name) in LABELS_AND_SPLITS
    return not is_taken and kind_of_column(name) is None


def _is_group(values: Sequence[str], groups: Sequence[str]) -> bool:
    """Whether a column says what belongs together: one value for each group, and for no other."""
    pairs = set(zip(values, groups))
    return len(pairs) == len({value for value, _ in pairs}) == len({group for _, group in pairs})


def _worst(association: Tensor, values: Tensor, labels: Tensor, answers: Tensor) -> list[int]:
    """Test rows that are called a class of another, which goes with their value more than their own does.

    Args:
        association: (V, C).
        values: (N,), -1 for none.
    """
    drawn = association[values, answers] - association[values, labels]
    drawn[(values < 0) | (answers == labels)] = 0
    rows = drawn.argsort(descending=True, stable=True)[:WORST]
    return [int(row) for row in rows if drawn[row] > 0]


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:].rstrip('.')}."
