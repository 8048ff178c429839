"""`--by COLUMN`: whether the model does equally well in all parts of the test set: sites, sexes, scanners, ages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..confidence.calibration import HALF
from ..contracts.items import Columns, DomainData, items_of
from ..contracts.judgement import JudgedClassifier, Judgement, Place
from ..contracts.options import option
from ..contracts.run_info import AxisScore, Record
from ..data.group_columns import UNKNOWN
from ..errors import ConfigError, UnknownNameError, did_you_mean, shortened
from ..metrics.intervals import units_of
from ..metrics.significance import holm, p_words
from ..metrics.subgroups import LEAST_UNITS, QUARTERS, Subgroup, Subgroups, quartiles, shrunk_shares, subgroups
from ..robustness.image_factors import FACTORS, check_factors, factor_values
from ..runs.sections import Cell, Measure, TableSection, plural
from ._holistic import WORST

if TYPE_CHECKING:
    from rich.console import Group
    from torch import Tensor
    from typing_extensions import Self

SHARE = Measure("")
ACCURACY = "Accuracy"
INTERVALS = "The 95 % intervals of all values of a column hold together."
SHRUNK = "The worst group's share is drawn towards the mean, since the worst of many equal groups looks bad by chance."


@dataclass(frozen=True)
class ByColumn:
    """What one column shows.

    Attributes:
        column: its name.
        cut: whether its numbers are cut at the quartiles of the test images.
        computed: whether it is no column, but a factor that is computed of the images.
        without: test images that have no value.
        grouped: whether units are groups of images, patients say, and not single images.
        shares: what is compared ("Accuracy", "Recall of sick") -> in which parts, with adjusted p values.
        worst: (test row, what is shown of it) of the most confident mistakes in the worst part, where parts differ.
    """

    column: str
    cut: bool
    without: int
    grouped: bool
    shares: Mapping[str, Subgroups]
    computed: bool = False
    worst: Sequence[tuple[int, str]] = ()

    @property
    def title(self) -> str:
        return f"Scores by {self.column}"

    @property
    def header(self) -> tuple[str, ...]:
        share = next(iter(self.shares)) if len(self.shares) == 1 else "Right"
        return (self.column, "Images", *(("Groups",) if self.grouped else ()), share)

    def rows(self) -> Iterator[str | tuple[str, int, Any]]:
        """A row per part, below the name of what is compared where that are several."""
        for name, of in self.shares.items():
            if len(self.shares) > 1 and of.parts:
                yield name
            for part in of.parts:
                units = (part.units,) if self.grouped else ()
                yield part.name, part.images, *units, Cell(SHARE.text(part.share), SHARE.between(part.interval))

    @property
    def words(self) -> str:
        """What is shown, and what is left out."""
        unit = "group" if self.grouped else "image"
        return " ".join(
            (
                *self._differences(unit),
                *((f"Numbers are cut at the {self.cuts} of the test images.",) if self.cut else ()),
                *self._left_out(unit),
                *((f"Without a value: {plural(self.without, 'image')}.",) if self.without else ()),
            )
        )

    @property
    def cuts(self) -> str:
        return "quantiles" if self.computed else "quartiles"

    def _left_out(self, unit: str) -> Iterator[str]:
        """How many values have too few images; where that depends on what is compared, of what."""
        left = {name: of.left_out for name, of in self.shares.items()}
        if len(set(left.values())) > 1:
            of = ", ".join(f"{plural(count, 'value')} of {name}" for name, count in left.items() if count)
            yield f"Left out, with fewer than {LEAST_UNITS} {unit}s: {of}."
        elif count := next(iter(left.values())):
            yield f"Left out: {plural(count, 'value')} of fewer than {LEAST_UNITS} {unit}s."

    def _differences(self, unit: str) -> Iterator[str]:
        tested = {name: p for name, of in self.shares.items() if (p := of.p_value) is not None}
        if not tested:
            yield f"Fewer than two values have {LEAST_UNITS} {unit}s, so nothing is compared."
        elif not any(of.differ for of in self.shares.values()):
            yield f"No difference is shown ({p_words(min(tested.values()))})."
        for name, of in self.shares.items():
            if of.gap is not None:
                best, worst = of.gap
                without = "" if best.shrunk is None else f" Without chance it would be about {_points(best, worst)}."
                yield (
                    f"{name} differs by more than chance ({p_words(tested[name])}); the largest gap is between "
                    f"{best.name} ({best.share:.1%}) and {worst.name} ({worst.share:.1%}).{without}"
                )


@dataclass(frozen=True, eq=False)
class ByColumns(Record):
    """Scores by the values of columns.

    Attributes:
        columns: one by one, or factors computed of the images; p values are adjusted for the number of all their tests
            (Holm).
    """

    key: ClassVar[str] = "subgroups"
    axes: ClassVar = {"worst_group": "give --by COLUMN"}
    columns: Sequence[ByColumn]

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        def shares(of: Mapping[str, Any]) -> dict[str, Subgroups]:
            return {
                name: Subgroups(**{**each, "parts": tuple(Subgroup(**part) for part in each["parts"])})
                for name, each in of.items()
            }

        return cls([ByColumn(**{**each, "shares": shares(each["shares"])}) for each in metrics[cls.key]["columns"]])

    def axis_scores(self) -> Mapping[str, AxisScore | str]:
        parts = [part for each in self.columns for of in each.shares.values() for part in of.parts]
        if not parts:
            return {"worst_group": "no value of --by has enough images"}
        interval = [min(limits) for limits in zip(*(part.interval for part in parts))]
        share = min(part.share if part.shrunk is None else part.shrunk for part in parts)
        before = [worst for each in self.columns for of in each.shares.values() for worst in _worst_of_zero_shot(of)]
        zero_shot = min(before, default=None)
        begins = "the lowest of the 95 % intervals"
        return {"worst_group": AxisScore("Worst group", share, interval, zero_shot, begins, SHRUNK)}

    def pictured(self) -> tuple[str, list[tuple[int, str]]] | None:
        rows = [(row, words) for each in self.columns for row, words in each.worst]
        return ("Most confident mistakes in the worst group", rows) if rows else None

    def section(self) -> list[TableSection]:
        tests = sum(of.p_value is not None for each in self.columns for of in each.shares.values())
        adjusted = f" p values are adjusted for {tests} tests (Holm)." if tests > 1 else ""
        return [
            TableSection(each.title, each.header, list(each.rows()), f"{each.words} {INTERVALS}{adjusted}")
            for each in self.columns
        ]

    def table(self) -> Group:
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table

        tables = []
        for each in self.columns:
            table = Table(title=each.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
            for name in (*each.header, "95 % interval"):
                table.add_column(name, justify="left" if name == each.column else "right")
            for row in each.rows():
                cells = [row] if isinstance(row, str) else [*map(str, row[:-1]), row[-1].text, row[-1].small]
                table.add_row(*cells)
            tables += [table, each.words] if table.row_count else [each.title, each.words]
        return Group(*tables)


@dataclass(eq=False, kw_only=True)
class BySubgroup(Judgement):
    """Accuracy by the values of a column, with two classes or several labels also the recall of each."""

    record: ClassVar = ByColumns
    asked_by: ClassVar = ("by",)
    place: ClassVar = Place.DETAILS
    refits: ClassVar = True  # it fits nothing, but the thresholds of several labels are those of the calibration
    by: tuple[str, ...] | None = option(
        None,
        "also show scores by the values of a column of the data's table (site, sex, age), or by brightness, sharpness, "
        "aspect or object-size of the images, and whether they differ by more than chance; repeatable",
        metavar="COLUMN",
    )

    def check_read(self, data: DomainData) -> None:
        """Refuse columns that the data lack, and those that hold the image or its label."""
        if not any(item.target is not None for item in data.items):
            raise ConfigError("--by: no image has a label, so there are no scores; omit it")
        self._columns(data)

    def compute(self, fit: JudgedClassifier) -> ByColumns:
        columns, names, factors = self._columns(fit.prepared.data)
        values = _of_images(fit, factors)
        made, parts = [], []
        for name in names:
            if name not in factors:
                of_table = _columns_of(columns, fit.prepared.data, name)
                values[name] = column_cells(of_table, name, fit.test.ids or ())
            column, part_of = _by_values(fit, name, values[name], computed=name in factors)
            made.append(column)
            parts.append(part_of)
        return ByColumns(_with_worst(fit, _adjusted(made), parts))

    def _columns(self, data: DomainData) -> tuple[Columns | None, list[str], list[str]]:
        """The table, the names of all that is asked for, each once, and those that are computed of images. A column
        goes before a factor of its name."""
        asked = dict.fromkeys(self.by or ())
        columns = None if data.columns is None else data.columns()
        listed = {} if columns is None else {name.casefold() for name in columns.names}
        lower = dict.fromkeys(name.lower() for name in asked)
        factors = [name for name in lower if name in FACTORS and name not in listed]
        check_factors(factors, data)
        names = [
            name.lower()
            if name.lower() in factors
            else _column_named(_columns_of(columns, data, name), name, FACTORS if data.has_images else ())
            for name in asked
        ]
        return columns, list(dict.fromkeys(names)), factors


def _columns_of(columns: Columns | None, data: DomainData, name: str) -> Columns:
    if columns is None:
        raise ConfigError(
            f"--by {shortened(name)}: {data.name} has no columns; give a table with a row per image, also beside class "
            f"folders, or a features file with an array of that name; of the images: {', '.join(FACTORS)}"
        )
    return columns


def _column_named(columns: Columns, name: str, factors: Sequence[str]) -> str:
    """The column that is meant, in any case.

    Args:
        factors: that may be asked for besides.

    Raises:
        UnknownNameError: there is none. ConfigError: it holds the image or its label.
    """
    column = next((each for each in columns.names if each.casefold() == name.casefold()), None)
    if column is None:
        near = did_you_mean(name, [*(each for each in columns.names if each not in columns.taken), *factors])
        raise UnknownNameError(f"--by {shortened(name)}: {columns.place} has no such column; {near}")
    if column in columns.taken:
        raise ConfigError(f"--by {shortened(name)}: holds the image or its label; give another column")
    return column


def column_cells(columns: Columns, name: str, ids: Iterable[str]) -> list[str]:
    """The cell of each sample, or of the picture that it is a window of; "" where it says nothing. -1 is a number where
    the column has others below 0, and else says nothing."""
    cells = columns.cells(name)
    texts = [cells.get(id_) or cells.get(id_.rpartition("#")[0], "") for id_ in ids]
    unknown = UNKNOWN - {"-1"} if any(map(_is_negative, cells.values())) else UNKNOWN
    return ["" if text.lower() in unknown else text for text in texts]


def _is_negative(text: str) -> bool:
    """Whether it is a number below 0 other than -1."""
    try:
        return text.startswith("-") and float(text) != -1
    except ValueError:
        return False


def _of_images(fit: JudgedClassifier, factors: Sequence[str]) -> dict[str, list[str]]:
    """Factor -> its value of each test image, as texts."""
    if not factors:
        return {}
    items = items_of(fit.test.ids, fit.prepared.data.items)
    with fit.reporter.task("Measuring test images") as progress:
        values = factor_values(factors, fit.prepared.data, items, progress)
    return {name: ["" if isnan(value) else f"{value:.4g}" for value in of] for name, of in values.items()}


def _by_values(
    fit: JudgedClassifier, name: str, values: Sequence[str], computed: bool
) -> tuple[ByColumn, Sequence[str]]:
    """What a column shows, and the part of each test image."""
    shares: dict[str, Subgroups] = {}
    if computed:  # in as many parts as have enough images
        units = units_of(fit.scores.groups, len(values))[1]
        quarters = quartiles(values, QUARTERS, parts=min(QUARTERS, units // LEAST_UNITS))
    else:
        quarters = quartiles(values)
    parts, order = quarters or (values, [value for value, _ in Counter(values).most_common()])
    before = _zero_shot_right(fit)
    for title, (right, rows, _) in _shares(fit).items():
        of = [parts[row] for row in rows]
        groups = None if fit.scores.groups is None else [fit.scores.groups[row] for row in rows]
        made = subgroups(right[rows], of, groups, seed=fit.seed)
        made_of = sorted(made.parts, key=lambda part: order.index(part.name))
        if before is not None:
            right_before = before[rows].double()
            inside = {part.name: torch.tensor([value == part.name for value in of]) for part in made_of}
            made_of = [replace(part, zero_shot=float(right_before[inside[part.name]].mean())) for part in made_of]
        shares[title] = replace(made, parts=tuple(made_of))
    grouped = fit.scores.groups is not None
    return ByColumn(name, quarters is not None, values.count(""), grouped, shares, computed), parts


def _with_worst(fit: JudgedClassifier, columns: Sequence[ByColumn], parts: Sequence[Sequence[str]]) -> list[ByColumn]:
    """With the most confident mistakes of each column's worst part, of all together at most `WORST`."""
    gaps = [(title, of.gap[1].name) for each in columns for title, of in each.shares.items() if of.gap is not None]
    most = max(1, WORST // max(1, len(gaps)))
    compared, made, shown = _shares(fit), [], set[int]()
    for column, part_of in zip(columns, parts):
        worst: list[tuple[int, str]] = []
        for title, of in column.shares.items():
            if of.gap is None:
                continue
            right, rows, wrongness = compared[title]
            inside = [row for row in rows if part_of[row] == of.gap[1].name and not right[row] and row not in shown]
            chosen = sorted(inside, key=lambda row: -float(wrongness[row]))[: min(most, WORST - len(shown))]
            worst += [(row, f"{column.column}: {of.gap[1].name}") for row in chosen]
            shown.update(chosen)
        made.append(replace(column, worst=worst))
    return made


def _zero_shot_right(fit: JudgedClassifier) -> Tensor | None:
    """(N,) bool of zero-shot; None where there is none, and of several labels, of which it has no thresholds."""
    logits, labels = fit.scores.zero_shot_logits, fit.labels
    return None if logits is None or labels is None or labels.ndim == 2 else logits.argmax(dim=1) == labels


def _worst_of_zero_shot(of: Subgroups) -> list[float]:
    """The lowest share of zero-shot, drawn towards that of all parts; none where that is not there."""
    shares = [(part.zero_shot, part.units) for part in of.parts if part.zero_shot is not None]
    return [min(shrunk_shares(*map(list, zip(*shares))))] if shares else []


def _points(best: Subgroup, worst: Subgroup) -> str:
    """The gap between shrunken shares."""
    assert best.shrunk is not None and worst.shrunk is not None
    return f"{100 * (best.shrunk - worst.shrunk):.1f} points"


def _shares(fit: JudgedClassifier) -> dict[str, tuple[Tensor, list[int], Tensor]]:
    """Name -> (N,) bool which images are right, the rows that count, and (N,) how sure the model is of a mistake."""
    logits, labels, names = fit.scores.adapted_logits, fit.labels, fit.class_names
    assert labels is not None  # as `check_read` asks for
    if labels.ndim == 2:
        calibrated = fit.calibration
        answers = logits.sigmoid() >= HALF if calibrated is None else calibrated.answers(logits)
        return {
            f"Recall of {name}": (answers[:, c], _rows(labels[:, c] == 1), -logits[:, c])
            for c, name in enumerate(names)
        }
    right = logits.argmax(dim=1) == labels
    above = logits.amax(dim=1) - logits.gather(1, labels[:, None])[:, 0]
    of_classes = enumerate(names) if len(names) == 2 else ()
    recalls = {f"Recall of {name}": (right, _rows(labels == c), above) for c, name in of_classes}
    return {ACCURACY: (right, list(range(len(labels))), above), **recalls}


def _rows(chosen: Tensor) -> list[int]:
    return chosen.nonzero().flatten().tolist()


def _adjusted(columns: Sequence[ByColumn]) -> list[ByColumn]:
    """With p values adjusted for the number of all tests."""
    tested = [of.p_value for each in columns for of in each.shares.values() if of.p_value is not None]
    adjusted = iter(holm(tested))
    return [
        replace(
            each,
            shares={
                name: of if of.p_value is None else replace(of, p_value=next(adjusted))
                for name, of in each.shares.items()
            },
        )
        for each in columns
    ]
