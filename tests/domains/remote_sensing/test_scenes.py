"""The remote-sensing domain on scenes: names of published sets, splits beside the images, prompts, pixels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vladapt.core.errors import ConfigError, DataError, UnknownNameError
from vladapt.core.registry import load_domain
from vladapt.core.testing.towers import plain_towers as small_towers
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.reading import CORPORA
from vladapt.domains.remote_sensing.scene_sets import scene_sets, spoken_name
from vladapt.domains.remote_sensing.transforms import SceneAugment

SHARED = Path(__file__).resolve().parents[4] / "shared"


def read(path, **options):
    return RemoteSensing().read(path, "classification", **options)


@pytest.fixture
def folders(tmp_path):
    """folders("Forest", "River", each=2): class folders with small images, numbered through."""
    drawn = np.random.default_rng(0)

    def write(*names, each=2, place="set"):
        for name in names:
            for k in range(each):
                file = tmp_path / place / name / f"{name}_{k + 1}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(drawn.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(file)
        return tmp_path / place

    return write


def test_it_is_found_by_name_without_heavy_imports():
    assert load_domain("remote-sensing").name == "remote-sensing"
    code = (
        "import sys, vladapt.domains.remote_sensing;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'rasterio', 'albumentations')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# names of classes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("baseballField", "baseball field"),
        ("baseball_diamond", "baseball diamond"),
        ("BareLand", "bare land"),
        ("mobilehomepark", "mobile home park"),
        ("footballfield", "football field"),
        ("parkinglot", "parking lot"),
        ("My_ownThing", "my own thing"),
        ("Non-irrigated arable land", "Non-irrigated arable land"),
        ("NDVI", "NDVI"),
        ("class 3", "class 3"),
    ],
)
def test_names_of_folders_become_words(name, words):
    assert spoken_name(name) == words


def test_every_spelling_of_the_published_sets_is_known():
    table = SHARED / "parity" / "class_names.json"
    if not table.is_file():
        pytest.skip("the table of class names is not here")
    by_title = {each.title: each for each in scene_sets().values()}
    for title, facts in json.loads(table.read_text()).items():
        for key in ("folders", "display_list", "mirror"):
            if key in facts:
                words = by_title[title].words(facts[key])
                assert words is not None, (title, key)
                assert all(" " in word or word.islower() for word in words)
        if "display" in facts:
            assert by_title[title].words(list(facts["display"])) == tuple(facts["display"].values())


def test_a_set_is_recognised_by_its_classes_whatever_its_folder_is_called(folders):
    names = ("aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking")
    data = read(folders(*names))
    assert data.published == "rsscn7"
    assert data.class_names[:3] == ("grass land", "farm land", "industrial region")
    assert data.class_names[int(data.items[0].target.index)] == "grass land" and data.items[0].id.startswith("aGrass")
    assert read(folders(*names[:-1], place="other")).published is None


def test_one_domain_reads_several_sets_and_each_keeps_its_prompt_and_pixels(folders):
    towers, domain = small_towers(), RemoteSensing()
    eurosat = {words: name for name, words in scene_sets()["eurosat"].classes.items()}
    eurosat = domain.read(folders(*eurosat.values()), "classification", corpus="rs5m")
    other = domain.read(folders("Forest", "River", place="other"), "classification")
    drawn = domain.sample()
    prompts = [domain.of(data).one_template() for data in (eurosat, other, drawn)]
    assert prompts == ["a centered satellite photo of {}.", *["a satellite photo of a {}."] * 2]
    specs = [domain.of(data).transforms(towers, False).spec for data in (eurosat, other, drawn)]
    assert tuple(specs[0]["to"][0]) == CORPORA["rs5m"][0] and specs[1] == specs[2] == towers.preprocess(False).spec


def test_two_folders_that_would_be_called_the_same_keep_their_names(folders):
    assert read(folders("parkinglot", "parking_lot")).class_names == ("parking_lot", "parkinglot")


def test_prompts_and_settings_of_a_set_that_is_named():
    domain = RemoteSensing()
    assert domain.use_preset("UC-Merced") == "uc_merced" and domain.one_template() == "a satellite photo of a {}."
    assert domain.use_preset("EuroSAT") == "eurosat" and domain.one_template() == "a centered satellite photo of {}."
    assert domain.use_preset("none") is None
    with pytest.raises(UnknownNameError, match="did you mean resisc45"):
        domain.use_preset("resics45")


def test_the_templates_are_the_105_published_ones():
    templates = RemoteSensing().templates()
    assert len(templates) == len(set(templates)) == 105
    assert {"an aerial image of many {}.", "a bad satellite image of the {}."} < set(templates)
    assert "a jpeg corrupted remote sensing image of a {}." in templates


# splits ---------------------------------------------------------------------------------------------------------------


def test_lists_beside_the_class_folders_are_the_published_split(folders):
    root = folders("Forest", "River", each=4)
    for split, numbers in {"train": (1, 2), "val": (3,), "test": (4,)}.items():
        lines = [f"{name}_{n}.jpg" for name in ("Forest", "River") for n in numbers]  # other suffixes, as lists have
        (root / f"eurosat-{split}.txt").write_text("\n".join(lines) + "\n")
    data = read(root)
    assert {item.id[-5]: item.split for item in data.items} == {"1": "train", "2": "train", "3": "val", "4": "test"}
    assert any("published ones, from eurosat-test.txt" in note for note in data.notes)


def test_tables_of_eurosats_archive_are_its_split(folders):
    root = folders("Forest", "River", each=3)
    for split, number in {"train": 1, "validation": 2, "test": 3}.items():
        rows = [f"{name}/{name}_{number}.png,0,{name}" for name in ("Forest", "River")]
        (root / f"{split}.csv").write_text("Filename,Label,ClassName\n" + "\n".join(rows) + "\n")
    assert sorted({item.split for item in read(root).items}) == ["test", "train", "val"]


def test_images_that_no_list_names_are_left_out_and_counted(folders):
    root = folders("Forest", "River", each=3)
    (root / "x-train.txt").write_text("Forest_1.png\nRiver_1.png\n")
    (root / "x-test.txt").write_text("Forest_2.png\nRiver_2.png\nAirport_7.png\n")
    data = read(root)
    assert len(data.items) == 4 and "Images that no list names, left out: 2." in data.notes


@pytest.mark.parametrize(
    ("test_list", "words"),
    [("Airport_1.png\n", "another set"), ("Forest_1.png\n", "in the list of test too")],
)
def test_lists_that_do_not_fit_are_one_line(folders, test_list, words):
    root = folders("Forest", "River")
    (root / "train.txt").write_text("Forest_1.png\nRiver_1.png\n")
    (root / "test.txt").write_text(test_list)
    with pytest.raises(DataError, match=words):
        read(root)


def test_splits_by_folders_win_over_lists(folders):
    folders("Forest", "River", place="set/train")
    root = folders("Forest", "River", place="set/test").parent
    (root / "train.txt").write_text("nothing of this\n")
    (root / "test.txt").write_text("nor of this\n")
    assert {item.split for item in read(root).items} == {"train", "test"}


def test_several_labels_per_image_come_from_a_table(folders):
    root = folders("a", "b")
    lines = ["image,labels", "a/a_1.png,SeaLake|Pasture", "a/a_2.png,Pasture", "b/b_1.png,[]", "b/b_2.png,SeaLake"]
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    data = read(root / "labels.csv")
    assert data.kind == "multilabel" and data.class_names == ("pasture", "sea lake")
    assert [item.class_label() for item in data.items] == [(1, 1), (1, 0), (0, 0), (0, 1)]


# pixels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_augmentation_takes_any_number_of_bands_and_follows_the_seed(bands, kind):
    augment = SceneAugment(32, (0.4,) * bands, (0.2,) * bands)
    image = np.random.default_rng(0).random((40, 56, bands)).astype(np.float32)
    image = (image * 255).astype(np.uint8) if kind is np.uint8 else image
    seen = [augment(image, seed=seed) for seed in (1, 1, 2)]
    assert seen[0].shape == (bands, 32, 32) and seen[0].dtype == torch.float32
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    low, high = (0 - 0.4) / 0.2, (1 - 0.4) / 0.2
    assert all(low - 1e-5 <= one.min() and one.max() <= high + 1e-5 for one in seen)


def test_all_eight_symmetries_occur_and_nothing_else_where_all_else_is_off():
    image = np.random.default_rng(0).random((16, 16, 5)).astype(np.float32)
    turned = {np.rot90(side, k).tobytes() for side in (image, image[:, ::-1]) for k in range(4)}
    plain = SceneAugment(16, (0.0,) * 5, (1.0,) * 5, scale=(1.0, 1.0), haze=0.0, gain=0.0, drop=0.0)
    seen = {plain(image, seed=s).permute(1, 2, 0).contiguous().numpy().tobytes() for s in range(80)}
    assert seen == turned and len(turned) == 8


@pytest.mark.parametrize("what", ["haze", "gain", "drop"])
def test_each_part_of_the_augmentation_changes_pixels(what):
    off = {"scale": (1.0, 1.0), "haze": 0.0, "gain": 0.0, "drop": 0.0}
    image = np.random.default_rng(0).random((16, 16, 4)).astype(np.float32)
    without = SceneAugment(16, (0.0,) * 4, (1.0,) * 4, **off)
    with_it = SceneAugment(16, (0.0,) * 4, (1.0,) * 4, **{**off, what: 0.5})
    differ = [not torch.allclose(without(image, seed=s), with_it(image, seed=s)) for s in range(30)]
    assert any(differ)


def test_a_missing_band_is_zero_everywhere_and_the_others_stay():
    augment = SceneAugment(16, (0.0,) * 6, (1.0,) * 6, scale=(1.0, 1.0), haze=0.0, gain=0.0, drop=1.0)
    image = np.random.default_rng(0).uniform(0.2, 1, (16, 16, 6)).astype(np.float32)
    for seed in range(5):
        gone = (augment(image, seed=seed).flatten(1).max(dim=1).values == 0).sum()
        assert gone == 1


def test_a_corpus_replaces_the_towers_normalisation(folders):
    towers, domain = small_towers(), RemoteSensing()
    root, image = folders("Forest", "River"), np.full((8, 8, 3), 128, np.uint8)
    plain = domain.read(root, "classification")
    of_corpus = domain.of(domain.read(root, "classification", corpus="rs5m"))
    mean, std = CORPORA["rs5m"]
    seen = of_corpus.transforms(towers, False)(image)
    wanted = (128 / 255 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(seen[:, 0, 0], wanted)
    assert of_corpus.transforms(towers, True).spec["mean"] == list(mean)
    new = domain.of(domain.read_images([root], corpus="rs3"))
    assert tuple(new.transforms(towers, False).spec["to"][0]) == CORPORA["rs3"][0]
    assert domain.of(plain).transforms(towers, False).spec == towers.preprocess(False).spec
    with pytest.raises(ConfigError, match="corpus"):
        domain.read(root, "classification", corpus="imagenet")
