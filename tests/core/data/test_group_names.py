"""Sub-folders, parts of file names, and copies by name."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt.core.data import group_names
from vladapt.core.data.group_names import GroupNames, copies_by_name, parts_of_stems, stem_of, sub_folders
from vladapt.core.errors import ConfigError


def classes_of(names):
    order = sorted({name.split("/")[0] for name in names})
    return [(order.index(name.split("/")[0]),) for name in names]


@pytest.mark.parametrize(
    "layout, values",
    [
        (["a/p1/x.png", "a/p2/y.png", "b/p1/z.png"], ["p1", "p2", "p1"]),
        (["a/x.png", "a/p2/y.png", "b/z.png"], [None, "p2", None]),
        (["a/site 1/pat3/visit1/x.png", "b/site 2/pat3/visit2/y.png"], ["site 1/pat3", "site 2/pat3"]),
        (["a/fold1/x.png", "b/fold2/y.png"], [None, None]),
        (["a/x.png", "b/y.png"], [None, None]),
    ],
)
def test_the_folder_below_the_class(layout, values):
    assert sub_folders(layout, classes_of(layout)) == values
    inside = [f"images/{name}" for name in layout]
    assert sub_folders(inside, classes_of(layout)) == values
    divided = [f"{('train', 'test')[n % 2]}/{name}" for n, name in enumerate(layout)]
    assert sub_folders(divided, classes_of(layout)) == values


def test_folders_of_patients_in_a_table_of_images_of_either_class():
    names = [f"scans/pat{n // 2}/{n % 2}.png" for n in range(8)]
    assert sub_folders(names, [(n % 2,) for n in range(8)]) == [f"pat{n // 2}" for n in range(8)]


def test_a_pattern_finds_groups_in_the_stem():
    names = ["a/x12_1.png", "a/x12_2.jpg", "b/x3_1.png#2", "b/other.png"]
    assert GroupNames(r"stem:^x(\d+)").values(names, classes_of(names)) == ["12", "12", "3", None]
    assert GroupNames(r"stem:x\d+").values(names, classes_of(names)) == ["x12", "x12", "x3", None]
    assert GroupNames(r"stem:(x)(\d+)").values(names, classes_of(names)) == ["x/12", "x/12", "x/3", None]


@pytest.mark.parametrize(
    "named, message",
    [
        ("stem:(", r"stem:\(: not a regular expression"),
        ("stem:" + "x" * 201, "longer than 200 characters"),
        ("stem:x{99999999999999999999}", "not a regular expression"),
        ("stem:nowhere", "no part of the file names"),
        ("folder", "no sub-folder of a class folder"),
    ],
)
def test_what_groups_nothing_is_refused_in_a_line(named, message):
    names = ["a/1.png", "a/2.png", "b/3.png"]
    with pytest.raises(ConfigError, match=message) as error:
        GroupNames(named).values(names, classes_of(names))
    assert "; give" in str(error.value)


def test_a_pattern_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(group_names, "SECONDS", 0.5)
    names, started = ["a/" + "a" * 60 + "!.png"] * 2, time.monotonic()
    with pytest.raises(ConfigError, match="repeats inside repeats"):
        GroupNames("stem:(a+)+$").values(names, [(0,), (0,)])
    assert time.monotonic() - started < 30


def test_copies_by_their_names():
    names = [
        *("a/x.png", "a/x_flip.png", "a/x (1).png", "a/x_aug_3.png", "b/x.png"),
        *("a/y_jpg.rf.0123456789abcdef.jpg", "a/y_jpg.rf.fedcba9876543210.jpg", "a/z-hflip.png", "a/z_rot90.png"),
        *("a/alone.png", "a/alone_flipper.png"),
    ]
    copies = copies_by_name(names)
    assert copies[:5] == ["a/x"] * 4 + [None]
    assert copies[5:] == ["a/y_jpg"] * 2 + ["a/z"] * 2 + [None] * 2


def test_numbers_in_brackets_without_an_original_count_images():
    assert copies_by_name([f"a/cat ({n}).png" for n in range(1, 9)]) == [None] * 8
    assert copies_by_name([f"a/cat_aug_{n}.png" for n in range(group_names.MOST_COPIES + 1)]) == [None] * 33


@pytest.mark.parametrize(
    "form, called, values",
    [
        ("person{0}_{1}", True, "person{0}"),
        ("P-{0:03}_{1}", True, "P-{0:03}"),
        ("pat{0}img{1}", True, "pat{0}"),
        ("train_case_{0}_{1}", True, "case_{0}"),
        ("2021_patient_{0}_{1}", True, "{0}"),
        ("ab{0}-{1}", False, "ab{0}"),
    ],
)
def test_patterns_of_parts_find_what_varies(form, called, values):
    stems = [form.format(n // 3, n % 3) for n in range(30)]
    found = {
        tuple(group_names.values_by_pattern(pattern, stems)): subject for pattern, subject in parts_of_stems(stems)
    }
    assert found[tuple(values.format(n // 3) for n in range(30))] is called


@given(st.lists(st.text(min_size=1, max_size=30), max_size=12))
def test_whatever_names_are_patterns_are_typed_as_they_are_found(names):
    """What a note says to type gives the groups that were judged."""
    for pattern, _ in parts_of_stems([stem_of(name) for name in names]):
        assert len(pattern) <= group_names.LONGEST_PATTERN
        assert len(group_names.values_by_pattern(pattern, names)) == len(names)
    assert len(copies_by_name(names)) == len(sub_folders(names, [()] * len(names))) == len(names)
