"""`predict --as`: kinds of output, what they refuse before anything is read, and what they write."""

from __future__ import annotations

import csv
import json

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

SHADES = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
STUDY = "1.2.826.0.1.3680043.8.498.7"


@pytest.fixture
def scans(tmp_path):
    """Two studies of two and one colour photographs as DICOM, and the folder they lie in."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, (name, study) in enumerate((("red", 1), ("green", 1), ("blue", 2))):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = f"{STUDY}.{study}.1.{number}"
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        one = Dataset()
        one.file_meta = meta
        one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID = f"{STUDY}.{study}", f"{STUDY}.{study}.1"
        one.PatientID, one.PatientName, one.Modality = f"MRN-{study}", "Doe^Jane", "OT"
        one.Rows, one.Columns, one.SamplesPerPixel, one.PlanarConfiguration = 40, 60, 3, 0
        one.PhotometricInterpretation, one.PixelRepresentation = "RGB", 0
        one.BitsAllocated, one.BitsStored, one.HighBit = 8, 8, 7
        one.PixelData = np.tile(np.uint8(SHADES[name]), (40, 60, 1)).tobytes()
        one["PixelData"].VR = "OB"
        one.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    return folder


def test_each_kind_is_written_and_only_dicom_names_the_patient(vladapt, run, scans, tmp_path):
    kinds = ("--as", "dicom-sr,worklist:urgent=green,csv", "--as", "dicom-sc")
    told = vladapt("predict", run, scans, "--out", tmp_path / "out", *kinds, "--json").json
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    expected = {"predictions.csv", "worklist.csv", *(f"dicom-sr/000{n}.dcm" for n in (1, 2))}
    assert names == expected | {f"dicom-sc/000{n}.dcm" for n in (1, 2, 3)}
    assert {str(tmp_path / "out" / name) for name in names} == set(told["files"])
    assert any("files of dicom-sr and dicom-sc name the patients" in note for note in told["notes"])
    for name in names:
        assert (b"Doe^Jane" in (tmp_path / "out" / name).read_bytes()) == name.endswith(".dcm")

    with (tmp_path / "out" / "worklist.csv").open() as file:
        first, second = csv.DictReader(file)
    probability = {
        row["id"]: {each["class"]: each["probability"] for each in row["top"]} for row in told["predictions"]
    }
    urgencies = [of["green"] for of in probability.values()]
    assert float(first["urgency"]) == pytest.approx(max(urgencies), abs=1e-6)
    assert first["images"] == "2" and first["answer"] == "yes" and first["finding"] == "green"
    assert second["answer"] == "no" and first["study"].startswith("study-") and first["patient"].startswith("patient-")
    assert "MRN" not in (tmp_path / "out" / "worklist.csv").read_text()

    image = pydicom.dcmread(tmp_path / "out" / "dicom-sc" / "0001.dcm")
    assert image.pixel_array.shape == (40, 60, 3)
    # the tower saw the central square alone
    assert (image.pixel_array[:, :8] == image.pixel_array[0, 0]).all() and image.pixel_array[:, 12:48].std() > 0


@pytest.mark.parametrize(
    "asked, code, words",
    [
        (("--as", "dicom-rs", "--out", "o"), 2, "unknown kind of output 'dicom-rs'; did you mean dicom-sr"),
        (("--as", "dicom-sr"), 2, "--as dicom-sr: writes into a folder; give one with --out DIR"),
        (("--as", "dicom-seg", "--out", "o"), 2, "--as dicom-seg: is made of masks, which classification of domain"),
        (("--as", "csv,csv", "--out", "o"), 2, "--as csv: given twice; omit one"),
        (("--as", "csv:top=3", "--out", "o"), 2, "--as csv has no option 'top'"),
        (("--as", "worklist", "--out", "o"), 2, "this run tells 3 classes; name the urgent ones"),
        (
            ("--as", "worklist:urgent=green,rde", "--out", "o"),
            2,
            "urgent=rde: is no class of this run; did you mean red",
        ),
        (("--as", "dicom-sr", "--out", "o"), 1, "--as dicom-sr: none of the 12 images is a DICOM file"),
        (("--as", "dicom-sc", "--out", "o", "--per-patient", "mean"), 2, "--as dicom-sc: heat maps are of images"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(vladapt, run, colours, tmp_path, asked, code, words):
    outcome = vladapt("predict", run, colours / "red", *asked)
    assert outcome.code == code and words in outcome.error and outcome.out == ""
    assert not (tmp_path / "o").exists()


def test_a_kind_whose_package_is_missing_says_how_to_get_it(vladapt, run, scans, monkeypatch):
    import vladapt.core.runtime.process as process

    plain = process.find_spec
    monkeypatch.setattr(process, "find_spec", lambda name: None if name == "highdicom" else plain(name))
    outcome = vladapt("predict", run, scans, "--as", "dicom-sr", "--out", "o")
    assert (
        "--as dicom-sr needs the package 'highdicom'; install it with: pip install 'vladapt[medical]'" in outcome.error
    )


def test_another_package_brings_a_kind(vladapt, run, colours, tmp_path, monkeypatch):
    folder = tmp_path / "another"
    info = folder / "counts-0.1.dist-info"
    info.mkdir(parents=True)
    (folder / "a_count.py").write_text(
        """
from vladapt.api import OutputKind, option
from dataclasses import dataclass

@dataclass(eq=False, kw_only=True)
class Count(OutputKind):
    \"\"\"How many rows there are.\"\"\"
    times: int = option(1, "factor")

    def write(self, predicted, use, task, folder):
        (folder / "count.txt").write_text(str(self.times * len(predicted.rows())))
        return [folder / "count.txt"]
"""
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counts\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[vladapt.outputs]\ncount = a_count:Count\n")
    monkeypatch.syspath_prepend(folder)
    vladapt("predict", run, colours / "red", "--as", "count:times=2", "--out", tmp_path / "out", "--json")
    assert (tmp_path / "out" / "count.txt").read_text() == "24"
    assert "count" in {row["name"] for row in vladapt("list", "outputs", "--json").json["outputs"]}
    assert json.loads(vladapt("show", "output", "worklist", "--json").out)["options"][0]["name"] == "urgent"
