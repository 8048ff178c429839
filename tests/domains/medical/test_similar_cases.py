"""Similar cases: a search by an image finds none of its own patient, where the domain is medical."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from vladapt.core.contracts import Recipe
from vladapt.core.engine.index import index as make_index
from vladapt.core.engine.search import search
from vladapt.core.errors import ConfigError
from vladapt.core.retrieval import RetrievalIndex
from vladapt.domains.medical import Medical

pytest.importorskip("faiss", reason="extra retrieval is not installed")
PATIENTS = ("Zwicky", "Zwicky", "Zwicky", "Quist", "Quist", "Oxley")


def indexed(folder, out, backbone, domain="medical"):
    return make_index(Recipe(domain=domain, backbone=backbone), out, images=[str(folder)]).index


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Six pictures of three patients; those of a patient look alike."""
    folder = tmp_path_factory.mktemp("cases")
    for number, patient in enumerate(PATIENTS):
        pixels = np.random.default_rng(PATIENTS.index(patient)).integers(0, 200, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels + np.uint8(number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def told(cases, tmp_path_factory, small_clip_spec):
    """An index whose images lie beside a table of patients."""
    folder = tmp_path_factory.mktemp("told")
    for path in cases.glob("*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    rows = [f"{number}.png,{patient}" for number, patient in enumerate(PATIENTS)]
    (folder / "table.csv").write_text("\n".join(["file,patient_id", *rows]))
    made = indexed(folder, folder / "an.index", small_clip_spec)
    return folder, made


def found(result):
    return {hit.entry.id.rpartition("/")[2] for hit in result.hits}


def test_no_result_is_of_the_patient_of_the_query(told):
    folder, index = told
    result = search(index, image=str(folder / "0.png"))
    assert found(result) == {"3.png", "4.png", "5.png"} and result.notes == []
    assert found(search(index, image=str(folder / "0.png"), own_group=True)) == {f"{n}.png" for n in range(6)}
    assert len(search(index, "a scan").hits) == 6, "words are of nobody"
    with pytest.raises(ConfigError, match="--own-group: is about the group of an image"):
        search(index, "a scan", own_group=False)


def test_no_patient_is_named_in_an_index_or_its_results(told):
    folder, index = told
    files = b"".join(path.read_bytes() for path in index.rglob("*") if path.is_file())
    assert b"entries" in files and not any(name.encode() in files for name in PATIENTS)
    assert len({RetrievalIndex.open(index).entries[row].group for row in range(6)}) == 3
    rows = search(index, image=str(folder / "0.png")).rows()
    assert "group" not in json.dumps(rows)


def test_a_query_from_elsewhere_is_known_by_its_own_table_and_else_told(told, cases, tmp_path):
    _, index = told
    (tmp_path / "q.png").write_bytes((cases / "1.png").read_bytes())
    unknown = search(index, image=str(tmp_path / "q.png"))
    assert len(unknown.hits) == 6 and "Nothing tells which patient" in unknown.notes[0]
    (tmp_path / "other.png").write_bytes((cases / "3.png").read_bytes())
    (tmp_path / "table.csv").write_text("file,patient_id\nq.png,Zwicky\nother.png,Quist\n")
    assert found(search(index, image=str(tmp_path / "q.png"))) == {"3.png", "4.png", "5.png"}


def test_without_groups_the_image_itself_is_left_out(cases, small_clip_spec, tmp_path):
    index = indexed(cases, tmp_path / "medical", small_clip_spec)
    result = search(index, image=str(cases / "0.png"))
    assert found(result) == {f"{n}.png" for n in range(1, 6)} and result.notes
    plain = indexed(cases, tmp_path / "plain", small_clip_spec, domain=None)
    assert len(search(plain, image=str(cases / "0.png")).hits) == 6
    assert len(search(plain, image=str(cases / "0.png"), own_group=False).hits) == 5


def test_dicom_files_say_their_patient(cases, write_dicom, small_clip_spec, tmp_path):
    for number, patient in enumerate(PATIENTS):
        pixels = np.asarray(Image.open(cases / f"{number}.png"))
        write_dicom(tmp_path / "files" / f"{number}.dcm", pixels, PatientID=patient)
    folder = tmp_path / "files"
    index = indexed(folder, tmp_path / "an.index", small_clip_spec)
    assert found(search(index, image=str(folder / "3.dcm"))) == {"0.dcm", "1.dcm", "2.dcm", "5.dcm"}


def test_patients_of_published_sets_are_those_of_their_tables(tmp_path):
    header = "image,phrase,x,y,w,h,patient\n"
    (tmp_path / "phrases.csv").write_text(header + "".join(f"{n}.png,x,1,1,2,2,p{n // 2}\n" for n in range(3)))
    for number in range(4):
        Image.new("L", (8, 8), 9 * number).save(tmp_path / f"{number}.png")
    groups = {item.source.stem: item.group for item in Medical().read_images([tmp_path]).items}
    assert groups["0"] == groups["1"] != groups["2"] and groups["2"] and groups["3"] is None
