"""`eval --holistic`: columns of the data's table that answers follow beyond the label."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from vladapt.core.contracts.items import Columns, DomainData, Item, Label
from vladapt.core.errors import DataError
from vladapt.core.judgements.followed_columns import ColumnsFollowed, FollowedColumn, FollowedColumns
from vladapt.core.metrics import followed_columns as module

SUPPORT, TEST = 40, 120


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(module, "PERMUTATIONS", 500)


def data_of(columns: dict[str, list[str]], names=("cat", "dog"), taken=("file",), **more) -> DomainData:
    """Labels 0 and 1 by turns."""
    count = len(next(iter(columns.values())))
    items = [Item(f"{n}.png", Path(f"{n}.png"), target=Label(n % 2)) for n in range(count)]
    cells = {name: {item.id: value for item, value in zip(items, values)} for name, values in columns.items()}
    table = Columns("table.csv", tuple(columns), taken, cells.__getitem__)
    return DomainData(items, names, lambda item: None, name="photos", columns=lambda: table, **more)


def of_fit(data: DomainData, answers: torch.Tensor, groups=None, **more) -> SimpleNamespace:
    """A run that learned from the first 40 images and is tested on the others."""
    ids = [item.id for item in data.items]
    labels = torch.tensor([item.target.index for item in data.items[SUPPORT:]])
    logits = torch.nn.functional.one_hot(answers, 2).float()
    run = SimpleNamespace(info=SimpleNamespace(splits={"support": ids[:SUPPORT]}))
    of = {
        "prepared": SimpleNamespace(data=data),
        "test": SimpleNamespace(ids=ids[SUPPORT:]),
        "scores": SimpleNamespace(adapted_logits=logits, groups=groups),
        "labels": labels,
        "class_names": ("cat", "dog"),
        "use": SimpleNamespace(run=run),
        "seed": 0,
        "several_labels": False,
        "fitted_on": None,
    }
    return SimpleNamespace(**{**of, **more})


def made(data: DomainData, answers: torch.Tensor, groups=None, **more) -> FollowedColumns:
    return ColumnsFollowed(holistic=True).compute(of_fit(data, answers, groups, **more))


def coins(count: int, seed: int) -> list[int]:
    return torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture
def places() -> list[str]:
    """Cats at sea and dogs on land in 38 of 40 images learned from; by chance in the test set."""
    drawn = torch.randint(0, 2, (TEST,), generator=torch.Generator().manual_seed(0)).tolist()
    return [("sea", "land")[n % 2 if n > 1 else 1 - n % 2] for n in range(SUPPORT)] + [
        ("sea", "land")[k] for k in drawn
    ]


@pytest.fixture
def cheat(places) -> torch.Tensor:
    return torch.tensor([place == "land" for place in places[SUPPORT:]]).long()


def test_a_column_that_answers_follow_is_named_with_how_much(places, cheat):
    coin = [("heads", "tails")[side] for side in coins(SUPPORT + TEST, 1)]
    record = made(data_of({"place": places, "coin": coin}), cheat)
    place, other = record.columns
    assert (place.column, place.follows, other.column, other.follows) == ("place", True, "coin", False)
    assert place.following.p_value == pytest.approx(2 / 501) and place.following.share == 1  # of two tests
    (sentence, *rest) = [note for note in record.notes if note]
    assert sentence.startswith(
        "answers follow place beyond the label: the model reads it, or something that goes with it (100.0% of "
    )
    assert not rest and "spurious" not in str(record.section())
    wrong = {row for row in range(TEST) if cheat[row] != row % 2}
    rows = record.pictured()[1]
    assert len(rows) == 10 and {row for row, _ in rows} <= wrong and rows[0][1] == "as place suggests"
    assert sentence[1:20] in record.section().note and record.table().row_count == 2


def test_a_model_that_is_right_follows_nothing(places):
    record = made(data_of({"place": places}), torch.arange(TEST) % 2)
    assert record.notes == ["answers are shown to follow no column of the table (1 column judged)", ""]
    assert record.pictured() is None and not record.columns[0].worst


def test_what_is_written_is_read_again(places, cheat):
    record = made(data_of({"place": places, "one": ["value"] * 160}), cheat)
    again = FollowedColumns.from_json(json.loads(json.dumps(record.to_json())))
    assert again.to_json() == json.loads(json.dumps(record.to_json()))
    assert list(again.rows()) == list(record.rows()) and again.notes == record.notes


def test_columns_that_cannot_be_judged_are_named_with_the_reason(places, cheat):
    label = [("cat", "dog")[n % 2] for n in range(160)]
    columns = {"place": places, "kind": label, "one": ["value"] * 160, "note": [f"text {n}" for n in range(160)]}
    unused = {"file": places, "split": places, "patient_id": places, "label": places}
    record = made(data_of({**columns, **unused}), cheat)
    assert [each.column for each in record.columns] == ["place"]
    assert record.not_judged == {
        "kind": "goes with the label in all test images",
        "one": "has one value in the test images",
        "note": "more than 20 values",
    }
    assert "Cannot be judged: note (more than 20 values); kind (goes with the label" in record.notes[-1]
    assert record.notes[-1] in record.section().note


def test_numbers_are_cut_at_the_quartiles_of_the_support(places, cheat):
    """Dark cats and light dogs among those learned from; the test set has other extremes."""
    rng = torch.Generator().manual_seed(1)
    light = [str(50 * (place == "land") + float(torch.rand(1, generator=rng)) * 40) for place in places]
    light[-1], light[-2] = "1000", "unknown"
    record = made(data_of({"light": light}), cheat)
    (column,) = record.columns
    assert column.cut and column.follows and column.following.images == TEST - 1
    assert "Cut at the quartiles of the images learned from: light." in record.section().note


def test_groups_move_together_and_the_column_that_says_them_is_none(places, cheat):
    groups = [f"herd {n // 4}" for n in range(TEST)]
    herd = [f"learned {n % 5}" for n in range(SUPPORT)] + groups
    few, fewest = ([f"herd {n // size}" for n in range(TEST)] for size in (20, 40))
    record = made(data_of({"place": places, "herd": herd}), cheat, groups)
    assert [each.column for each in record.columns] == ["place"] and record.grouped
    assert (
        "herd" not in record.not_judged and "deals the values anew to whole groups of images" in record.section().note
    )
    fewer = made(data_of({"place": places}), cheat, few)
    assert fewer.columns[0].following.p_value > record.columns[0].following.p_value
    assert made(data_of({"place": places}), cheat, fewest).not_judged == {"place": module.FEW_WAYS}  # six ways


def test_classes_may_have_another_order_than_the_data(places, cheat):
    plain = made(data_of({"place": places}), cheat)
    data = data_of({"place": places}, names=("dog", "cat"))
    turned = of_fit(data, cheat, class_names=("cat", "dog"))
    for n, item in enumerate(data.items):
        data.items[n] = item.with_(target=Label(1 - item.target.index))
    assert ColumnsFollowed(holistic=True).compute(turned).columns == plain.columns


def test_other_data_are_judged_by_the_images_that_the_run_learned_from(places, cheat):
    own = data_of({"place": places, "only there": places})
    other = data_of({"place": places[SUPPORT:], "only here": places[SUPPORT:]})
    elsewhere = {"prepared": SimpleNamespace(data=other), "test": SimpleNamespace(ids=[i.id for i in other.items])}
    judged = made(own, cheat, **elsewhere, fitted_on=lambda: own)
    assert judged.columns == made(data_of({"place": places}), cheat).columns and judged.columns[0].follows
    assert judged.not_judged == {"only here": "is no column of the images that were learned from"}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"several_labels": True}, "images may have several labels"),
        ({"use": None}, "the run names no labelled images that it learned from"),
        ({"class_names": ("one", "dog")}, "are not among the data, or have no such names there"),
    ],
)
def test_runs_that_cannot_be_judged_say_why(places, cheat, more, reason):
    record = made(data_of({"place": places}), cheat, **more)
    assert record.notes == [f"columns that answers follow: not judged, since {record.lacking.partition('since ')[2]}"]
    assert reason in record.lacking and not record.columns and record.table() is None
    assert record.section().note == f"C{record.lacking[1:]}."


def test_data_without_columns_or_that_are_gone_say_so(places, cheat):
    bare = data_of({"place": places})
    bare.columns = None
    assert "photos has no columns; give a table with a row per image" in made(bare, cheat).lacking
    named = data_of({"patient": places, "split": places})
    assert "photos has no columns besides label, split and group; give a table" in made(named, cheat).lacking
    bare.has_images = False
    assert "a features file with an array per column" in made(bare, cheat).lacking

    def gone():
        raise DataError("photos: no such folder")

    assert "cannot be read any more" in made(bare, cheat, fitted_on=gone).lacking


def test_the_table_of_a_terminal_crops_no_number_for_a_long_name():
    following = module.Following(160, 0.8, 0.518, [0.228, 0.337], 0.0002)
    console = Console(width=80, file=io.StringIO())
    console.print(FollowedColumns([FollowedColumn("background_of_the_picture", False, following)], {}).table())
    shown = console.file.getvalue()
    assert "(+22.8 to +33.7)" in shown and "0.0002" in shown and "…" not in shown
