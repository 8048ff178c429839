"""`--by`: what a table of parts says of the worst of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vladapt import UnknownNameError
from vladapt.core.contracts.items import Columns, DomainData, Item, Label
from vladapt.core.judgements import subgroups as module
from vladapt.core.judgements.subgroups import ByColumn, ByColumns, BySubgroup
from vladapt.core.metrics.subgroups import Subgroup, Subgroups, shrunk_shares
from vladapt.core.runtime.progress import Reporter


def of_parts(*parts: Subgroup, p_value: float = 0.3) -> ByColumns:
    return ByColumns([ByColumn("site", False, 0, False, {"Accuracy": Subgroups(parts, 0, p_value)})])


NORTH = Subgroup("north", 80, 80, 0.9, [0.8, 0.96], 0.87, 0.8)
SOUTH = Subgroup("south", 20, 20, 0.6, [0.3, 0.8], 0.82, 0.5)


def test_the_worst_group_is_drawn_towards_the_mean_and_its_limit_is_the_lowest():
    worst = of_parts(NORTH, SOUTH).axis_scores()["worst_group"]
    assert worst.score == 0.82 and list(worst.interval) == [0.3, 0.8]
    assert worst.zero_shot == pytest.approx(min(shrunk_shares([0.8, 0.5], [80, 20])))
    plain = of_parts(Subgroup("a", 80, 80, 0.9, [0.8, 0.96]), Subgroup("b", 20, 20, 0.6, [0.3, 0.8]))
    before = plain.axis_scores()["worst_group"]
    assert before.score == 0.6 and before.zero_shot is None  # of an earlier version


def test_a_gap_is_named_with_what_is_left_of_it_without_chance():
    named = of_parts(NORTH, SOUTH, p_value=0.001).columns[0].words
    assert "north (90.0%) and south (60.0%). Without chance it would be about 5.0 points." in named
    assert "Without chance" not in of_parts(NORTH, SOUTH).columns[0].words


def test_zero_shot_is_counted_in_the_same_parts():
    labels = torch.arange(80) % 2
    right = torch.nn.functional.one_hot(labels, 2).float()
    site = ["north"] * 50 + ["south"] * 30
    flipped = torch.cat((right[:50], right[50:].flip(1)))
    scores = SimpleNamespace(adapted_logits=right, zero_shot_logits=flipped, groups=None)
    fit = SimpleNamespace(scores=scores, labels=labels, class_names=("a", "b", "c"), seed=0)
    (of,) = module._by_values(fit, "site", site, False)[0].shares.values()
    assert [(part.name, part.share, part.zero_shot) for part in of.parts] == [("north", 1, 1), ("south", 1, 0)]
    scores.zero_shot_logits = None
    assert {part.zero_shot for part in module._by_values(fit, "site", site, False)[0].shares["Accuracy"].parts} == {
        None
    }


def test_the_surest_mistakes_of_the_worst_part_are_pictured_where_parts_differ():
    labels, site = torch.arange(80) % 2, ["north"] * 50 + ["south"] * 30
    logits = torch.nn.functional.one_hot(labels, 2).float()
    wrong = torch.arange(50, 72)  # of the south
    logits[wrong] = logits[wrong].flip(1) * (1 + torch.arange(22.0))[:, None]
    logits[3] = logits[3].flip(0) * 100  # surer, and of the north
    columns = Columns("table.csv", ("site",), (), lambda name: {str(n): site[n] for n in range(80)})
    items = [Item(str(n), Path(str(n)), target=Label(int(labels[n]))) for n in range(80)]
    data = DomainData(items, ("a", "b", "c"), lambda item: None, columns=lambda: columns)
    scores = SimpleNamespace(adapted_logits=logits, zero_shot_logits=None, groups=None)
    fit = SimpleNamespace(scores=scores, labels=labels, class_names=data.class_names, seed=0)
    fit.test, fit.prepared = SimpleNamespace(ids=tuple(map(str, range(80)))), SimpleNamespace(data=data)
    made = BySubgroup(by=("site",)).compute(fit)
    title, rows = made.pictured()
    assert title == "Most confident mistakes in the worst group"
    assert rows == [(row, "site: south") for row in range(71, 61, -1)]
    again = ByColumns.from_json(json.loads(json.dumps(made.to_json())))
    assert [(row, words) for row, words in again.pictured()[1]] == rows
    scores.adapted_logits = torch.nn.functional.one_hot(labels, 2).float()
    assert BySubgroup(by=("site",)).compute(fit).pictured() is None


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["-1", "3", "NA"], ["", "3", ""]),
        (["-1", "-2.5", "nan"], ["-1", "-2.5", ""]),
        (["-1", "-", "-x"], ["", "", "-x"]),
    ],
)
def test_minus_one_is_a_number_among_others_below_zero(texts, values):
    cells = {f"{n}.png": text for n, text in enumerate(texts)}
    assert module.column_cells(Columns("table.csv", ("angle",), (), lambda name: cells), "angle", cells) == values


def test_only_what_can_be_given_is_proposed():
    columns = Columns("table.csv", ("labels", "site"), ("labels",), lambda name: {})
    items = [Item("0", Path("0"), target=Label(0))]
    rows = DomainData(items, ("a",), None, columns=lambda: columns, has_images=False)
    pictures = DomainData(items, ("a",), lambda item: None, columns=lambda: columns)
    for data, there in ((rows, False), (pictures, True)):
        with pytest.raises(UnknownNameError) as error:
            BySubgroup(by=("nothing",)).check_read(data)
        assert "site" in str(error.value) and "labels" not in str(error.value)
        assert ("brightness" in str(error.value)) == there


def test_a_factor_is_computed_once_and_a_column_of_its_name_goes_before_it():
    items = [Item(str(n), Path(str(n)), target=Label(n % 2)) for n in range(8)]
    data = DomainData(items, ("a", "b"), lambda item: torch.full((4, 8, 3), int(item.id) / 10).numpy())
    labels = torch.arange(8) % 2
    scores = SimpleNamespace(adapted_logits=torch.eye(2)[labels], zero_shot_logits=None, groups=None)
    fit = SimpleNamespace(
        scores=scores, labels=labels, class_names=("a", "b", "c"), seed=0, reporter=Reporter(quiet=True)
    )
    fit.test, fit.prepared = SimpleNamespace(ids=tuple(map(str, range(8)))), SimpleNamespace(data=data)
    made = BySubgroup(by=("brightness", "Brightness", "aspect")).compute(fit)
    assert [(of.column, of.computed, of.without) for of in made.columns] == [
        ("brightness", True, 0),
        ("aspect", True, 0),
    ]
    assert next(iter(made.columns[0].shares.values())).left_out == 2  # halves of four images
    table = Columns("table.csv", ("Brightness",), (), lambda name: {str(n): "dim" for n in range(8)})
    data.columns = lambda: table
    (listed,) = BySubgroup(by=("brightness",)).compute(fit).columns
    assert (listed.column, listed.computed) == ("Brightness", False)
