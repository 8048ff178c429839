"""Groups that nobody named: used where names and pixels agree, asked about where the pixels alone say so."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.contracts.groups import OpenGroups
from vladapt.core.contracts.items import DomainData, Item, Label
from vladapt.core.data import group_candidates, group_witness
from vladapt.core.data.class_folders import read_class_folders
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.group_candidates import NOTHING, settle_groups
from vladapt.core.data.group_names import stem_of, values_by_pattern
from vladapt.core.data.group_witness import nearness_test
from vladapt.core.data.manifests import read_manifest

GROUPS, EACH = 16, 4
OF = np.repeat(np.arange(GROUPS), EACH)


def drawn(seed=0, alike=0.6):
    """Blurred noise of groups, whose images share some of it."""
    draw = np.random.default_rng(seed)
    coarse = np.sqrt(alike) * draw.standard_normal((GROUPS, 8, 8))[OF]
    coarse = coarse + np.sqrt(1 - alike) * draw.standard_normal((len(OF), 8, 8))
    pixels = np.clip(128 + 40 * coarse, 0, 255).astype(np.uint8)
    return [np.asarray(Image.fromarray(each).resize((32, 32))) for each in pixels]


def data_of(form, alike=0.6, columns=None, order=None, classes=2, named=None):
    """A set as a reader leaves it: names by form with class, group, number in the group."""
    shown = drawn(alike=alike)
    labels = OF % classes
    names = [f"{'ab'[label]}/{form.format(g, n % EACH, n)}.png" for n, (g, label) in enumerate(zip(OF, labels))]
    names = names if named is None else named(names)
    pixels = {name: np.repeat(each[:, :, None], 3, axis=2) for name, each in zip(names, shown)}
    items = [
        Item(name, Path(name), {"digest": hashlib.sha256(pixels[name].tobytes()).hexdigest()}, Label(int(label)))
        for name, label in zip(names, labels)
    ]
    columns = {title: dict(zip(names, values)) for title, values in (columns or {}).items()}
    items = items if order is None else [items[n] for n in order]
    return DomainData(items, ("a", "b"), lambda item: pixels[item.id], open_groups=OpenGroups(columns))


@pytest.fixture
def hashes(tmp_path):
    return FileHashes(tmp_path / "cache")


def divided_as(data, values):
    pairs = {(item.group, value) for item, value in zip(data.items, values)}
    return None not in {item.group for item in data.items} and len(pairs) == len(set(values))


@pytest.mark.parametrize(
    "form", ["pat{0:03}/img{1}", "person{0}_{1}", "P-{0:03}_{1}", "pat{0}img{1}", "x/case {0}/{1}"]
)
def test_what_is_called_as_a_subject_and_looks_alike_groups_the_images(form, hashes):
    data = settle_groups(data_of(form), hashes)
    assert divided_as(data, OF.tolist()) and data.possible_groups.used and data.open_groups is None
    assert re.search(rf"{GROUPS} groups, whose images look alike \(p < 0\.00\d\)", data.notes[-1])  # as none is nearer
    assert "--group-column none" in data.notes[-1]


@pytest.mark.parametrize("form", ["{0:03}/img{1}", "ab{0}_{1}", "kind {0}/{1}"])
def test_what_looks_alike_alone_is_asked_about(form, hashes):
    data = settle_groups(data_of(form), hashes)
    assert {item.group for item in data.items} == {None}
    assert not data.possible_groups.used and data.possible_groups.count == GROUPS
    assert len(set(data.possible_groups.groups.values())) == GROUPS
    assert data.notes[-1].startswith("Warning: ") and "--group-column none" in data.notes[-1]


def test_what_the_note_says_to_type_gives_these_groups(hashes):
    data = settle_groups(data_of("ab{0}_{1}"), hashes)
    typed = data.notes[-1].partition("--group-column '")[2].partition("'")[0]
    assert typed == data.possible_groups.option
    values = values_by_pattern(typed.removeprefix("stem:"), [stem_of(item.id) for item in data.items])
    assert len(set(zip(values, data.possible_groups.groups.values()))) == GROUPS == len(set(values))


def test_a_column_that_repeats_is_asked_about(hashes):
    columns = {"ward code": [str(g) for g in OF], "side": [str(n % 2) for n in range(len(OF))]}
    data = settle_groups(data_of("{2:04}", columns=columns), hashes)
    assert data.possible_groups.option == '"ward code"' and not data.possible_groups.used


def test_a_subject_whose_images_do_not_look_alike_is_told_and_not_used(hashes):
    data = settle_groups(data_of("pat{0}/{1}", alike=0.0), hashes)
    assert not data.possible_groups.count and {item.group for item in data.items} == {None}
    assert "look no more alike than others" in data.notes[-1] and "--group-column folder" in data.notes[-1]


def test_names_that_say_nothing_get_a_line(hashes):
    assert settle_groups(data_of("{2:04}"), hashes).notes == [NOTHING]
    told = data_of("{2:04}")
    told.notes, told.open_groups = ["No column."], OpenGroups(note="No column.")
    assert settle_groups(told, hashes).notes == ["No column."]


@pytest.mark.parametrize("form", ["fold{0}/{1}", "train_{2}", "fold_{0}/val_{2}", "split{0}_{1}"])
def test_words_of_splits_are_no_groups(form, hashes):
    data = settle_groups(data_of(form), hashes)
    assert not data.possible_groups.count


def test_one_group_per_class_is_no_group(hashes):
    data = data_of("{2:04}", named=lambda names: [f"{name[0]}/case {'ab'.index(name[0])}/{name[2:]}" for name in names])
    assert not settle_groups(data, hashes).possible_groups.count


def test_copies_by_name_belong_together(hashes):
    names = ["x", "x_flip", "x (1)", "y.rf.0123456789abcdef", "y.rf.aaaaaaaaaaaaaaaa"]
    data = data_of("{2:04}", named=lambda old: [*(f"a/{name}.png" for name in names), *old[5:]])
    done = settle_groups(data, hashes)
    groups = [item.group for item in done.items]
    assert len(set(groups[:3])) == len(set(groups[3:5])) == 1 and set(groups[5:]) == {None}
    assert done.notes[0] == "Images that are copies of others by their names: 3; copies are never in two splits."


def test_copies_stay_together_beside_groups(hashes):
    data = data_of("pat{0}/{1}", named=lambda names: ["a/y.png", "a/y_flip.png", *names[2:]])
    groups = [item.group for item in settle_groups(data, hashes).items]
    assert groups[0] == groups[1] is not None and groups[0] not in groups[2:] and len(set(groups)) == GROUPS + 1


def test_the_order_of_files_and_what_is_stored_change_nothing(hashes, tmp_path, monkeypatch):
    first = settle_groups(data_of("ab{0}_{1}", alike=0.1), hashes).possible_groups
    order = np.random.default_rng(3).permutation(len(OF))
    again = settle_groups(data_of("ab{0}_{1}", alike=0.1, order=order), FileHashes(tmp_path / "other")).possible_groups
    assert first is not None and again.p_value == first.p_value and again.groups == first.groups
    monkeypatch.setattr(group_witness, "nearness_test", None)
    assert settle_groups(data_of("ab{0}_{1}", alike=0.1), hashes).possible_groups == first


@pytest.mark.parametrize("damage", ["", "[", "[2.0]", "[0.001, 0.001, 0.1, 0.1]", "{}", "[NaN]"])
def test_a_damaged_file_of_answers_is_made_anew(damage, hashes):
    first = settle_groups(data_of("ab{0}_{1}"), hashes).possible_groups
    (file,) = (hashes.root / "groups").iterdir()
    kept = file.read_text()
    file.write_text(damage)
    assert settle_groups(data_of("ab{0}_{1}"), hashes).possible_groups == first and file.read_text() == kept


def test_no_name_of_a_patient_is_told(hashes):
    data = settle_groups(data_of("patient_{0}_mueller/{1}"), hashes)
    assert "mueller" not in repr(data.notes) + repr(data.possible_groups) + repr([item.group for item in data.items])
    assert "mueller" not in "".join(file.read_text() for file in (hashes.root / "groups").iterdir())


def test_at_most_so_many_images_are_looked_at(hashes, monkeypatch):
    looked_at = []
    monkeypatch.setattr(group_witness, "MOST_IMAGES", 24)
    data = data_of("pat{0}/{1}")
    load = data.load
    data.load = lambda item: looked_at.append(item.id) or load(item)
    assert settle_groups(data, hashes).possible_groups.used and 20 <= len(looked_at) <= 24


def test_the_test_keeps_its_level_where_groups_mean_nothing(monkeypatch):
    monkeypatch.setattr(group_witness, "PERMUTATIONS", 199)
    draw, classes, groups = np.random.default_rng(0), np.arange(40) % 2, np.arange(40) // 4
    p_values = [nearness_test(draw.standard_normal((40, 20)), classes, groups) for _ in range(100)]
    assert np.mean(np.array(p_values) <= 0.05) < 0.12 and 0.3 < np.mean(p_values) < 0.7


def test_only_images_of_one_class_are_compared():
    """Groups of one class each, where classes alone differ: the permutation stays within classes."""
    classes, groups = np.arange(40) // 20, np.arange(40) // 4
    rows = np.random.default_rng(1).standard_normal((40, 20)) + 5 * classes[:, None]
    assert nearness_test(rows, classes, groups) > 0.05


def write(folder, form, alike=0.6):
    for n, (group, pixels) in enumerate(zip(OF, drawn(alike=alike))):
        file = folder / "ab"[group % 2] / f"{form.format(group, n % EACH)}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)


def test_readers_leave_open_what_no_table_says(tmp_path, hashes):
    write(tmp_path / "set", "pat{0:03}/{1}")
    data = settle_groups(read_class_folders(tmp_path / "set"), hashes)
    assert data.possible_groups.option == "folder" and data.possible_groups.used
    for named in ("none", "folder", r"stem:^(\d)"):
        assert read_class_folders(tmp_path / "set", group_column=named).open_groups is None


def test_a_table_without_a_known_column_leaves_it_open(tmp_path, hashes):
    write(tmp_path / "set", "{0}-{1}")
    rows = [f"{'ab'[g % 2]}/{g}-{n % EACH}.png,{'ab'[g % 2]},{g * 7},{n * 0.5}" for n, g in enumerate(OF)]
    table = tmp_path / "set/labels.csv"
    table.write_text("file,label,ward,dose\n" + "\n".join(rows))
    data = read_manifest(table)
    assert list(data.open_groups.columns) == ["ward"] and data.open_groups.note in data.notes
    done = settle_groups(data, hashes)
    assert done.possible_groups.count == GROUPS and data.open_groups.note in done.notes
    table.write_text(table.read_text().replace("ward", "MRN"))
    assert read_manifest(table).open_groups is None
    assert len({item.group for item in read_manifest(table, group_column=r"stem:^(\d)").items}) == 10
    table.write_text(table.read_text().replace("MRN", "folder"))
    assert len({item.group for item in read_manifest(table, group_column="column:folder").items}) == GROUPS


def test_of_several_that_look_alike_the_folder_is_asked_about(hashes, monkeypatch):
    """Slices of patients: those of one number look alike as well."""
    monkeypatch.setattr(group_candidates, "LEAST_UNNAMED", 3)
    monkeypatch.setattr(group_candidates, "witnessed", lambda data, candidates, hashes: [0.001] * len(candidates))
    data = settle_groups(data_of("{0}/img_{1}"), hashes)
    assert data.possible_groups.option == "folder" and not data.possible_groups.used


def test_numbers_that_run_within_classes_warn_only_where_the_pixels_are_sure(hashes, monkeypatch):
    """As those of most photos do: one user in twenty would be warned of nothing."""
    monkeypatch.setattr(group_candidates, "witnessed", lambda data, candidates, hashes: [0.03] * len(candidates))

    class TwoWords(str):
        def format(self, *values):
            return f"{values[2] % 2}/{('ab', 'traffic-light')[values[2] % 2]}-{values[1]}.png"

    def settled(form):
        data = data_of(form)
        numbers = {label: iter(range(len(OF))) for label in range(2)}
        items = [item.with_(id=form.format(n // 2, next(numbers[n % 2]), n)) for n, item in enumerate(data.items)]
        items = [replace(item, target=Label(n % 2)) for n, item in enumerate(items)]
        return settle_groups(replace(data, items=items), hashes)

    assert settled("{2}/ab-{1}.png").notes[-1] == NOTHING
    assert settled(TwoWords()).notes[-1] == NOTHING  # "light" is a word of one class, not a number twice in it
    assert settled("{2}/case-{1}.png").possible_groups.used  # called as a subject
    assert settle_groups(data_of("ab-{0}_{1}"), hashes).notes[-1].startswith("Warning: ")  # two of a class
