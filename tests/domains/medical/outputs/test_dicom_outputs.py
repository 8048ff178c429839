"""DICOM objects of predictions: valid by the checkers of other projects, with UIDs and geometry of their sources."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import torch

from vladapt.core.contracts import HeatMap, Item, LabelMap
from vladapt.core.errors import DataError
from vladapt.core.registry.build import outputs_of


class OfMasks:
    """What a task gives that outlines structures."""

    def __init__(self, sources, values, names):
        self.sources = {name: [item] for name, item in sources.items()}
        self.ids, self.notes, self._of = list(sources), [], LabelMap(values, names)

    def label_map(self, name):
        return self._of


def written(kind, predicted, use, folder):
    return outputs_of(kind)[0].write(predicted, use, None, folder)


def nodes(report):
    """(name, value) of all content items."""
    found = []

    def walk(item):
        name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        if item.ValueType == "CODE":
            found.append((name, item.ConceptCodeSequence[0].CodeMeaning))
        elif item.ValueType == "NUM":
            found.append((name, float(item.MeasuredValueSequence[0].NumericValue)))
        elif item.ValueType == "IMAGE":
            found.append(("image", item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID))
        for child in item.get("ContentSequence") or ():
            walk(child)

    walk(report)
    return found


def test_a_report_per_study_holds_each_finding_with_its_certainty(
    predicted, use, radiograph, series, tmp_path, dciodvfy, dsrdump
):
    picture = radiograph("a.dcm")
    made = predicted(
        {"a": [picture], "ct0": [series[0]], "ct1": [series[1]]},
        [[0.2, 0.8], [0.9, 0.1], [0.7, 0.3]],
        called=torch.tensor([1, 0, 1]),
        columns={"threshold": [0.25] * 3, "unlike": [False, True, False]},
    )
    files = written("dicom-sr", made, use, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in files] == [
        "dicom-sr/0001.dcm",
        "dicom-sr/0002.dcm",
    ]
    for path in files:
        assert dciodvfy(path) == []
    assert "Pneumothorax" in dsrdump(files[0])
    first, second = map(pydicom.dcmread, files)
    source = pydicom.dcmread(picture)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
        assert first[keyword].value == source[keyword].value
    assert first.VerificationFlag == "UNVERIFIED" and first.PreliminaryFlag == "PRELIMINARY"
    of_first = nodes(first)
    assert ("Finding", "Pneumothorax") in of_first and ("Certainty of Finding", 80.0) in of_first
    assert ("threshold of the answer", 25.0) in of_first and ("unlike", "No") in of_first
    assert ("image", source.SOPInstanceUID) in of_first
    of_second = nodes(second)
    assert [value for name, value in of_second if name == "Certainty of Finding"] == [90.0, 30.0]
    assert [value for name, value in of_second if name == "Finding"] == ["Normal", "Pneumothorax"]
    assert first.SOPInstanceUID != second.SOPInstanceUID and first.SeriesInstanceUID != source.SeriesInstanceUID
    assert first.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID == source.StudyInstanceUID


def test_of_several_labels_a_report_says_which_are_absent(predicted, use, radiograph, tmp_path, dciodvfy):
    names = ("pneumothorax", "x" * 100, "pleural effusion")
    made = predicted(
        {"a": [radiograph("a.dcm")]}, [[0.9, 0.2, 0.6]], names, answers=torch.tensor([[True, False, True]])
    )
    (path,) = written("dicom-sr", made, use, tmp_path)
    assert dciodvfy(path) == []
    of = nodes(pydicom.dcmread(path))
    assert [value for name, value in of if name == "presence"] == ["Present", "Absent", "Present"]
    assert [value for name, value in of if name == "Finding"] == ["Pneumothorax", "x" * 64, "Pleural effusion"]


def test_a_volume_refers_to_all_files_of_its_series_and_a_frame_to_itself(
    predicted, use, radiograph, series, tmp_path, dciodvfy
):
    frames = radiograph("f.dcm", NumberOfFrames=1)
    made = predicted(
        {"v": [Item("v", series[0], {"slices": 4})], "f": [Item("f", frames, {"frame": 0})]}, [[0.2, 0.8], [0.9, 0.1]]
    )
    of_series, of_frame = map(pydicom.dcmread, written("dicom-sr", made, use, tmp_path))
    referred = {value for name, value in nodes(of_series) if name == "image"}
    assert referred == {pydicom.dcmread(path).SOPInstanceUID for path in series}
    assert "ReferencedFrameNumber" in str(of_frame) or "Referenced Frame Number" in str(of_frame)


def test_a_heat_map_stands_where_its_image_stands(predicted, use, series, tmp_path, dciodvfy):
    overlay = np.random.default_rng(0).integers(0, 255, (12, 14, 3)).astype(np.uint8)
    made = predicted({"a": [series[2]], "b": [series[3]], "c": [series[4]]}, [[0.2, 0.8]] * 3)
    made.heat_map = lambda name: (
        None if name == "b" else HeatMap(overlay[..., 0] / 255, overlay, "pneumothorax", "rollout")
    )
    files = written("dicom-sc", made, use, tmp_path)
    assert len(files) == 2
    assert [error for path in files for error in dciodvfy(path)] == []
    image, source = pydicom.dcmread(files[1]), pydicom.dcmread(series[4])
    assert np.array_equal(image.pixel_array, overlay)
    for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
        assert np.all(image[keyword].value == source[keyword].value)
    assert image.StudyInstanceUID == source.StudyInstanceUID and image.PatientID == "MRN-77"
    assert list(image.PatientOrientation) == ["L", "P"]
    assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert image.SeriesInstanceUID == pydicom.dcmread(files[0]).SeriesInstanceUID
    assert image.DerivationDescription == "rollout of pneumothorax"


@pytest.fixture
def ball():
    """(14, 12, 6) labels 1 and 2."""
    grid = np.stack(np.meshgrid(*map(np.arange, (14, 12, 6)), indexing="ij"), axis=-1)
    return (np.linalg.norm(grid - [5, 6, 3], axis=-1) < 3).astype(np.uint8) + (grid[..., 0] == 11) * np.uint8(2)


NAMES = {"liver tumour": (1,), "liver": (2,), "spleen": (7,)}


def test_masks_of_a_volume_come_back_in_its_geometry(use, series, ball, tmp_path, dciodvfy):
    from vladapt.domains.medical.volumes import read_structures, read_volume

    made = OfMasks({"v": Item("v", series[3], {"slices": 4})}, ball, NAMES)
    (path,) = written("dicom-seg", made, use, tmp_path)
    assert dciodvfy(path) == []
    structures = read_structures(path, series)
    assert structures.names == ("liver tumour", "liver")
    assert np.array_equal(structures.masks.numpy(), np.stack([ball == 1, ball == 2]))
    segmentation = pydicom.dcmread(path)
    assert (
        segmentation.PatientID == "MRN-77"
        and segmentation.FrameOfReferenceUID == pydicom.dcmread(series[0]).FrameOfReferenceUID
    )
    categories = [each.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning for each in segmentation.SegmentSequence]
    assert categories == ["Morphologically Abnormal Structure", "Anatomical Structure"]
    types = [each.SegmentedPropertyTypeCodeSequence[0] for each in segmentation.SegmentSequence]
    assert [each.CodingSchemeDesignator for each in types] == ["99VLADAPT", "SCT"]

    (nifti, names) = written("nifti", made, use, tmp_path)
    labels = read_volume(nifti)
    assert np.array_equal(labels.numpy()[0], ball)
    assert np.allclose(labels.affine, read_volume(series[0].parent).affine)
    assert "spleen" in names.read_text() and nifti.name.startswith("image-") and "v" not in nifti.name.split(".")[0][6:]


def test_regions_that_contain_each_other_are_segments_that_overlap(use, series, ball, tmp_path, dciodvfy):
    from vladapt.domains.medical.volumes import read_structures

    made = OfMasks({"v": Item("v", series[3], {"slices": 4})}, ball, {"whole": (1, 2), "core": (1,)})
    (path,) = written("dicom-seg", made, use, tmp_path)
    assert dciodvfy(path) == []
    structures = read_structures(path, series)
    assert structures.names == ("whole", "core")
    assert np.array_equal(structures.masks.numpy(), np.stack([ball > 0, ball == 1]))


def test_masks_of_an_image_without_a_place_are_a_segmentation_of_its_pixels(use, radiograph, tmp_path, dciodvfy):
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[3:9, 10:25] = 2
    path = radiograph("a.dcm")
    made = OfMasks({"a": Item("a", path)}, mask, NAMES)
    (file,) = written("dicom-seg", made, use, tmp_path)
    assert dciodvfy(file) == []
    segmentation = pydicom.dcmread(file)
    assert np.array_equal(segmentation.pixel_array.reshape(20, 30), mask == 2)
    made = OfMasks({"a": Item("a", path), "b": Item("b", tmp_path / "b.png")}, mask.T, NAMES)
    with pytest.raises(DataError, match="its masks have 30x20 pixels, and its image 20x30"):
        written("dicom-seg", made, use, tmp_path)
    with pytest.raises(DataError, match="--as nifti: none of the 1 images is a volume"):
        outputs_of("nifti")[0].check_sources([Item("a", path)])
    nothing = OfMasks({"a": Item("a", path)}, np.zeros((20, 30)), NAMES)
    assert written("dicom-seg", nothing, use, tmp_path / "n") == []
    assert "nothing was outlined in 1 of 1 images" in nothing.notes[0]


def test_a_mask_of_one_slice_lies_in_it(use, series, tmp_path):
    import nibabel

    mask = np.zeros((12, 14), dtype=np.uint8)
    mask[2, 5:9] = 1
    made = OfMasks({"a": Item("a", series[2])}, mask, NAMES)
    nifti = nibabel.load(written("nifti", made, use, tmp_path)[0])
    assert np.array_equal(np.asarray(nifti.dataobj)[..., 0], mask.T)
    position = [float(value) for value in pydicom.dcmread(series[2]).ImagePositionPatient]
    assert np.allclose(nifti.affine[:3, 3], np.multiply(position, [-1, -1, 1]))


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_masks_of_a_volume_file_have_its_geometry_and_none_of_its_texts(use, write_volume, ball, tmp_path, suffix):
    import nibabel

    affine = np.array([[0, -1.5, 0, 20], [0.75, 0, 0, -10], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
    path = write_volume(tmp_path / f"v{suffix}", np.zeros((14, 12, 6), np.int16), affine)
    if suffix == ".nii.gz":
        image = nibabel.load(path)
        image.header["descrip"] = b"Doe^Jane"
        nibabel.save(image, path)
    made = OfMasks({"v": Item("v", path)}, ball, NAMES)
    first, second = (written("nifti", made, use, tmp_path / out)[0] for out in "ab")
    nifti = nibabel.load(first)
    assert np.allclose(nifti.affine, affine, atol=1e-6) and np.array_equal(np.asarray(nifti.dataobj), ball)
    assert b"Doe" not in nifti.header.binaryblock and nifti.get_data_dtype() == np.uint8
    assert first.read_bytes() == second.read_bytes()


def test_what_has_no_patient_or_no_uid_is_refused_before_anything_is_computed(radiograph, tmp_path):
    (kind,) = outputs_of("dicom-sr")
    png = Item("p.png", tmp_path / "p.png")
    with pytest.raises(DataError, match="--as dicom-sr: none of the 1 images is a DICOM file"):
        kind.check_sources([png])
    kind.check_sources([png, Item("a", radiograph("a.dcm"))])
    lacking = radiograph("b.dcm", StudyInstanceUID="")
    with pytest.raises(DataError, match=r"b\.dcm: has no StudyInstanceUID, so no DICOM file can refer to it"):
        kind.check_sources([Item("b", lacking)])


def test_what_a_header_holds_reaches_no_message(predicted, use, radiograph, tmp_path, recwarn):
    sexless = radiograph("b.dcm", PatientSex="SECRET", PatientName="Secret")  # of which highdicom warns
    recwarn.clear()
    (file,) = written("dicom-sr", predicted({"a": [sexless]}, [[0.2, 0.8]]), use, tmp_path)
    assert not [each for each in recwarn if "Secret" in str(each.message)]
    assert pydicom.dcmread(file).PatientSex == ""
    path = radiograph("a.dcm", StudyDate="Secret-77")
    recwarn.clear()
    with pytest.raises(DataError, match=r"a\.dcm: no DICOM file can be made of it: its header does not fit") as error:
        written("dicom-sr", predicted({"a": [path]}, [[0.2, 0.8]]), use, tmp_path)
    assert "Secret" not in str(error.value) and not [each for each in recwarn if "Secret" in str(each.message)]
