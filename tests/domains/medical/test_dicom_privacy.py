"""Nothing of a patient reaches ids, groups, messages, logs, warnings or the terminal."""

from __future__ import annotations

import io
import logging
import warnings

import numpy as np
import pytest
from pydicom.uid import RLELossless

import vladapt
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.core.errors import DataError
from vladapt.domains.medical import Medical
from vladapt.domains.medical.formats import dicom_format

SECRETS = ("Quixote", "MRN-99731", "19470229", "Rocinante Clinic")
PERSON = {"PatientName": "Quixote^Alonso", "PatientID": "MRN-99731", "InstitutionName": "Rocinante Clinic"}
MISUSED = "Quixote, born 19470229"  # in a field for a short code
NO_CHARSET = "Quixote"  # reading text makes pydicom warn of it and quote it


@pytest.fixture
def person_folder(write_dicom, tmp_path):
    rng = np.random.default_rng(0)
    for label in ("healthy", "ill"):
        for i in range(8):
            pixels = rng.integers(0, 4000, (12, 12)).astype(np.uint16)
            who = {**PERSON, "PatientID": f"MRN-99731-{label}-{i // 2}"}
            who |= {"Modality": MISUSED, "SpecificCharacterSet": "ISO_IR 100"}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                charset_as(NO_CHARSET, write_dicom(tmp_path / "set" / label / f"{i}.dcm", pixels, **who))
    return tmp_path / "set"


def charset_as(name: str, path) -> None:
    """Write a false name of a character set into a finished file, in place."""
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", name.ljust(10).encode()))


def assert_silent(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


@pytest.fixture
def everything_said(monkeypatch, capfd, recwarn):
    """Call it for all that was logged, warned and printed since the last call."""
    logged = io.StringIO()
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler(logged)])
    monkeypatch.setattr(logging.root, "level", logging.DEBUG)
    logging.root.manager._clear_cache()
    warnings.simplefilter("always")

    def said() -> str:
        captured = capfd.readouterr()
        text = "\n".join([captured.out, captured.err, logged.getvalue(), *[str(w.message) for w in recwarn.list]])
        logged.seek(0)
        logged.truncate()
        recwarn.clear()
        return text

    return said


def test_reading_and_decoding_tell_nothing(person_folder, everything_said):
    everything_said()
    data = Medical().read(person_folder, "classification")
    for item in data.items:
        data.load(item)
    assert len(data.items) == 16
    assert_silent(everything_said())
    assert_silent(repr(data))


def test_patients_stay_on_one_side_by_their_hash_alone(person_folder, tmp_path):
    data = Medical().read(person_folder, "classification")
    split = assign_splits(data, seed=0, hashes=FileHashes(tmp_path / "hashes"))
    sides = {}
    for item in split.items:
        sides.setdefault(item.group, set()).add(item.split)
    assert len(sides) == 8 and all(len(side) == 1 for side in sides.values())
    assert {item.split for item in split.items} >= {"train", "test"}


def test_errors_tell_nothing(write_dicom, tmp_path, everything_said):
    pixels = np.zeros((12, 12), dtype=np.uint16)
    damaged = {
        "slope.dcm": {"RescaleSlope": "1", "RescaleIntercept": "0", "WindowCenter": "5", "WindowWidth": "7"},
        "rows.dcm": {"Rows": 500},
        "bits.dcm": {"BitsAllocated": 12},
        "photometric.dcm": {"PhotometricInterpretation": "Quixote"},
        "window.dcm": {"Modality": "MR"},
        "frames.dcm": {"NumberOfFrames": 30},
    }
    paths = [write_dicom(tmp_path / name, pixels, **PERSON, **attributes) for name, attributes in damaged.items()]
    # a number replaced by a name, in place
    paths[0].write_bytes(paths[0].read_bytes().replace(b"DS\x02\x001 ", b"DS\x02\x00Qu"))
    said = said_of_damaged(paths, everything_said)
    assert len(said) >= 6
    assert_silent("\n".join(said) + everything_said())
    assert all("\n" not in line for line in said)


def said_of_damaged(paths, everything_said):
    everything_said()  # writing such files makes pydicom speak: that is not ours
    said = []
    for path in paths:
        for decode in ({}, {"window": "lung"}, {"frame": 20}):
            try:
                dicom_format().expand(path)
                dicom_format().load(path, decode)
            except DataError as error:
                said.append(str(error))
                assert error.__suppress_context__ or error.__context__ is None
    return said


def test_damaged_compressed_pixels_tell_nothing(write_dicom, tmp_path, everything_said):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((12, 12), dtype=np.uint16), **PERSON)
    old, new = b"1.2.840.10008.1.2.1\0", str(RLELossless).encode() + b"\0"
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(DataError, match=r"a\.dcm") as caught:
        dicom_format().load(path, {})
    assert_silent(str(caught.value) + everything_said())


def test_a_personal_attribute_is_no_class(person_folder):
    with pytest.raises(Exception, match="label_tag: 'PatientName' is not an attribute for classes"):
        Medical().read(person_folder, "classification", label_tag="PatientName")


def test_a_free_text_in_a_class_attribute_is_not_shown(write_dicom, tmp_path):
    pixels = np.zeros((12, 12), dtype=np.uint16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, part in enumerate(["CHEST", "CHEST", "HEAD", "HEAD", MISUSED]):
            write_dicom(tmp_path / f"{i}.dcm", pixels + i, BodyPartExamined=part)
    data = Medical().read(tmp_path, "classification", label_tag="BodyPartExamined")
    assert data.class_names == ("chest", "head") and len(data.skipped) == 1
    assert_silent(repr(data))


@pytest.mark.parametrize("unit", ["image", "study", "volume"])
def test_no_file_that_is_written_names_a_patient(write_volume, tmp_path, monkeypatch, everything_said, unit):
    """The run, its report, the cache, answers, a worklist and an index; DICOM that is asked for names whom it must."""
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    for number in range(8):
        uid = f"1.2.826.0.1.99731.{number}"
        whose = {**PERSON, "PatientID": f"MRN-99731-{number}", "StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1"}
        voxels = np.random.default_rng(number).integers(0, 400, (8, 8, 3)).astype(np.int16) + 600 * (number % 2)
        folder = tmp_path / "set" / ("healthy", "ill")[number % 2] / str(number)
        write_volume(folder, voxels, np.diag([-1.0, -1, 2, 1]), **whose)
    everything_said()
    fitted = vladapt.fit(
        domain="medical", data=str(tmp_path / "set"), unit=unit, adapter="nearest-mean", out=str(tmp_path / "runs")
    )
    (tmp_path / "out").mkdir()
    vladapt.predict(fitted.run, [tmp_path / "set"], out=str(tmp_path / "out"), outputs="worklist")
    vladapt.evaluate(fitted.run, data=str(tmp_path / "set"))
    written = [path for folder in ("runs", "cache", "out") for path in (tmp_path / folder).rglob("*")]
    assert len([path for path in written if path.is_file()]) > 10 and (tmp_path / "out" / "worklist.csv").is_file()
    for path in written:
        text = path.name + (path.read_bytes().decode("latin-1") if path.is_file() else "")
        assert not [secret for secret in (*SECRETS, "1.2.826.0.1.99731") if secret in text], path
    assert_silent(everything_said())
