"""Studies as samples: the views of one examination are the parts of one item."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vladapt.core.contracts import UnequalParts
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.verify import content_key
from vladapt.core.errors import ConfigError, DataError, UnknownNameError
from vladapt.domains.medical import Medical

SIZES = {"lat": (9, 7), "pa": (8, 12)}
ROWS = [  # image, label, split, patient, study, view, side
    "images/a-lat.png,ill,train,p1,s1,LATERAL,",
    "images/a-pa.png,ill,train,p1,s1,PA,R",
    "images/b-pa.png,well,train,p2,s1,PA,L",
    "images/c-lat.png,well,test,p3,s3,LL,",
    "images/c-pa.png,well,test,p3,s3,AP,",
    "images/d-pa.png,ill,test,p4,,PA,",
]
HEADER = "image,label,split,patient,study_id,view_position,laterality"


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = SIZES.get(path.stem[2:], (8, 8))
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)).save(path)
    return path


def table(folder: Path, rows=ROWS, header=HEADER) -> Path:
    for seed, row in enumerate(rows):
        picture(folder / row.split(",")[0], seed)
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def read(path, **options):
    return Medical().read(path, unit="study", **options)


def views(data, folder) -> list[list[str]]:
    """Names of the images of each study, in the order of its parts: told by their pixels."""
    images = {path.stem: np.asarray(Image.open(path)) for path in folder.rglob("*.png")}
    found = []
    for item in data.items:
        parts = UnequalParts.each(data.load(item))
        found.append(
            [next(name for name, pixels in images.items() if np.array_equal(part[..., 0], pixels)) for part in parts]
        )
    return found


def test_a_study_is_one_sample_whose_frontal_view_comes_first(tmp_path):
    data = read(table(tmp_path))
    assert views(data, tmp_path) == [["a-pa", "a-lat"], ["b-pa"], ["c-pa", "c-lat"], ["d-pa"]]
    assert [item.id for item in data.items] == [f"images/{name}-pa.png" for name in "abcd"]
    assert [item.target.about() for item in data.items] == [
        *({"view": "PA, LATERAL", "laterality": "R"}, {"view": "PA", "laterality": "L"}),
        *({"view": "AP, LL"}, {"view": "PA"}),
    ]
    assert [data.class_names[item.class_label()] for item in data.items] == ["ill", "well", "well", "ill"]
    assert [item.split for item in data.items] == ["train", "train", "test", "test"]
    assert len({item.group for item in data.items}) == 4
    assert "Studies: 4, of 6 views; with a single view: 2." in data.notes
    assert list(data.columns().cells("laterality").values())[:2] == ["", "R"]


def test_a_sample_is_known_by_the_bytes_of_all_views_in_their_order(tmp_path):
    def key(folder):
        return content_key(read(folder).items[0], FileHashes())

    first = table(tmp_path / "set")
    shutil.copytree(first, tmp_path / "moved")
    assert key(tmp_path / "moved") == key(first)
    changed = shutil.copytree(first, tmp_path / "changed")
    picture(changed / "images" / "a-lat.png", seed=99)
    more = table(tmp_path / "more", [*ROWS, "images/a-obl.png,ill,train,p1,s1,OBLIQUE,"])
    swapped = table(tmp_path / "swapped", [row.replace("PA,R", "LL,R").replace("LATERAL", "AP") for row in ROWS])
    fewer = table(tmp_path / "fewer", ROWS[1:])
    assert len({key(folder) for folder in (first, changed, more, swapped, fewer)}) == 5


def test_features_of_a_part_are_those_of_its_image_alone(tmp_path, small_clip):
    study, images = read(table(tmp_path)), Medical().read(tmp_path)
    transform = Medical().transforms(small_clip, train=False)
    with torch.no_grad():
        parts = small_clip.encode_image(transform(study.load(study.items[0])))
        alone = [small_clip.encode_image(transform(images.load(images.items[place]))[None]) for place in (1, 0)]
    torch.testing.assert_close(parts, torch.cat(alone))


def test_studies_are_told_by_a_column_by_folders_and_by_names(tmp_path):
    header = HEADER.replace("study_id", "visit")
    folder = table(tmp_path, header=header)
    with pytest.raises(ConfigError, match=r"nothing says which images of .* are of one study; name a column"):
        read(folder)
    assert len(read(folder, study_column="Visit").items) == 4
    assert len(read(folder, study_column=r"stem:^(\w)-").items) == 4
    with pytest.raises(UnknownNameError, match=r"--study-column exam: labels.csv has no such column; it has: image, "):
        read(folder, study_column="exam")
    for name in ("ill/1/x-pa", "ill/1/x-lat", "well/2/y-pa", "well/2/y-lat"):
        picture(tmp_path / "folders" / f"{name}.png", len(name))
    folder = tmp_path / "folders"
    assert views(read(folder, study_column="folder"), folder) == [["x-pa", "x-lat"], ["y-pa", "y-lat"]]


def test_dicom_files_tell_their_study_and_their_view(write_dicom, tmp_path):
    rng = np.random.default_rng(0)
    for label in ("ill", "well"):
        for name, view, side in (("1", "LL", "L"), ("2", "PA", "R")):
            pixels, study = rng.integers(0, 999, (6, 6 + int(name))).astype(np.uint16), f"1.2.{len(label)}"
            shown = {"ViewPosition": view, "ImageLaterality": side, "StudyInstanceUID": study}
            write_dicom(tmp_path / label / f"{name}.dcm", pixels, PatientID=label, **shown)
    data = read(tmp_path)
    assert [item.id for item in data.items] == ["ill/2.dcm", "well/2.dcm"]
    assert data.items[0].target.about() == {"view": "PA, LL", "laterality": "R, L"}
    window = read(tmp_path, window="minmax")
    assert content_key(window.items[0], FileHashes()) != content_key(data.items[0], FileHashes())
    new = Medical().read_images([tmp_path / "ill"], unit="study")
    assert len(new.items) == 1 and new.items[0].target.about()["view"] == "PA, LL" and new.load(new.items[0]).ndim == 4


@pytest.mark.parametrize("folder", ["valid/patient00101/study1", "files/p10/p10000032/s50414267"])
def test_new_studies_are_told_by_the_folders_of_published_sets(tmp_path, monkeypatch, folder):
    place = tmp_path / folder
    for other, seed in ((place, 0), (place.with_name("study2" if "study" in folder else "s7"), 5)):
        for view in ("view1_frontal", "view2_lateral"):
            picture(other / f"{view}.png", seed + len(view))
    data = Medical().read_images([tmp_path / folder.split("/")[0]], unit="study")
    assert [len(data.load(item)) for item in data.items] == [2, 2]
    monkeypatch.chdir(place)
    assert len(Medical().read_images(["."], unit="study").items) == 1


def test_labels_of_the_views_are_joined_and_classes_must_agree(tmp_path):
    rows = [
        "images/a-pa.png,s1,1,,0",
        "images/a-lat.png,s1,0,,1",
        "images/b-pa.png,s2,,1,0",
        "images/c-pa.png,s3,0,0,1",
    ]
    data = read(table(tmp_path / "several", rows, "image,study,edema,mass,nodule"))
    labels = [item.class_label() for item in data.items]
    assert labels[0][0] == 1.0 and math.isnan(labels[0][1]) and labels[0][2] == 1.0
    assert "Studies whose views have different labels, which are joined: 1." in data.notes
    for fault, change in {
        "'images/a-lat.png' are of one study, and of different classes; correct one": ("LATERAL", "ill", "well"),
        "are of one study, and in the splits train and test; correct one": ("LATERAL", "train", "test"),
    }.items():
        faulty = [row.replace(*change[1:]) if change[0] in row else row for row in ROWS]
        with pytest.raises(DataError, match=fault):
            read(table(tmp_path / change[2], faulty))


def test_a_view_that_is_gone_is_listed_and_the_study_stays(tmp_path):
    folder = table(tmp_path)
    (folder / "images" / "a-lat.png").unlink()
    data = read(folder)
    assert views(data, folder)[0] == ["a-pa"] and [name for name, _ in data.skipped] == ["images/a-lat.png"]


def test_new_images_are_joined_by_their_table_by_folders_or_stand_alone(tmp_path):
    def names(*paths, **options):
        data = Medical().read_images(paths, unit="study", **options)
        return [[Path(item.id).name, len(item.decode["views"])] for item in data.items]

    folder = table(tmp_path / "new")
    assert names(folder) == [["a-pa.png", 2], ["b-pa.png", 1], ["c-pa.png", 2], ["d-pa.png", 1]]
    assert names(folder / "images" / "a-pa.png") == [["a-pa.png", 1]]
    assert [count for _, count in names(folder / "images")] == [1] * 6
    assert names(folder / "images", study_column="folder") == [["a-pa.png", 6]]
    assert [count for _, count in names(folder / "images", study_column=r"stem:^(\w)-")] == [2, 1, 2, 1]


def test_options_of_studies_are_told_where_images_are_samples(tmp_path):
    notes = Medical().read(table(tmp_path), study_column="study_id").notes
    assert "Option study_column has no effect here: it is for --unit study." in notes
    assert not [note for note in read(tmp_path).notes if "no effect" in note]


def test_parts_are_called_by_their_view(tmp_path):
    items = {item.id: item for item in read(table(tmp_path)).items}
    names = [Medical().part_names(items[f"images/{name}-pa.png"], count) for name, count in (("a", 2), ("d", 1))]
    assert names == [["PA", "LATERAL"], ["PA"]]
    assert Medical().part_names(new_item := items["images/a-pa.png"].with_(target=None), 2) == ["view 1", "view 2"]
    assert not Medical().part_names(new_item.with_(decode={}), 1)


@pytest.mark.parametrize(("unit", "one", "several"), [("study", "study", "studies"), ("volume", "volume", "volumes")])
def test_messages_speak_of_what_a_sample_is(unit, one, several):
    words = Medical().words_of({"unit": unit})
    assert (words["image"], words["images"]) == (one, several) and "image" not in Medical().words_of({})
