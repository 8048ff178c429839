"""The medical domain as a whole: what it reads, its options, its words, its sample and its recipes."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.core.data.verify import content_key
from vladapt.core.errors import ConfigError, DataError, UnknownNameError
from vladapt.core.registry import load_domain
from vladapt.domains.medical import Medical
from vladapt.domains.medical.intensity import PRESETS, check_window
from vladapt.domains.medical.reading import prompts
from vladapt.testing import check_domain

MODALITIES = {"radiology", "histology", "dermatology", "ophthalmology", "haematology", "microscopy", "general"}
RAMP = np.arange(0, 4000, 10, dtype=np.uint16).reshape(20, 20)


def read(path, **options):
    return Medical().read(path, "classification", **options)


def test_it_is_found_by_name_without_heavy_imports():
    assert load_domain("medical").name == "medical"
    code = "import sys, vladapt.domains.medical; sys.exit(any(m in sys.modules for m in ('torch', 'pydicom', 'monai')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def mixed_folder(write_dicom, write_nifti, tmp_path):
    for i, label in enumerate(("healthy", "ill")):
        for k in range(3):
            pixels = np.random.default_rng(10 * i + k).integers(0, 4000, (16, 16)).astype(np.uint16)
            write_dicom(tmp_path / "set" / label / f"{k}.dcm", pixels, PatientID=f"{i}-{k // 2}", Modality="CT")
            Image.fromarray((pixels // 16).astype(np.uint8)).save(tmp_path / "set" / label / f"{k}.png")
        voxels = np.random.default_rng(i).normal(size=(8, 8, 8)).astype(np.float32)
        write_nifti(tmp_path / "set" / label / "volume.nii.gz", voxels)
    return tmp_path / "set"


def test_class_folders_may_mix_images_dicom_and_nifti(mixed_folder):
    data = read(mixed_folder)
    assert data.class_names == ("healthy", "ill") and len(data.items) == 2 * (3 + 3 + 4)
    assert all(data.load(item).shape[2] == 3 for item in data.items)
    groups = {item.id: item.group for item in data.items}
    assert groups["ill/0.dcm"] == groups["ill/1.dcm"] != groups["ill/2.dcm"]
    assert groups["ill/volume.nii.gz#1"] == groups["ill/volume.nii.gz#4"] != groups["healthy/volume.nii.gz#1"]


@pytest.mark.thorough
def test_a_set_that_it_reads_keeps_the_contract(mixed_folder):
    check_domain(Medical(), data=mixed_folder, reading={"window": "bone"}, task="classification", sample=False)


def test_no_patient_and_no_volume_is_on_two_sides(mixed_folder, tmp_path):
    split = assign_splits(read(mixed_folder), seed=3, hashes=FileHashes(tmp_path / "hashes"))
    sides = {}
    for item in split.items:
        sides.setdefault(item.group or item.id, set()).add(item.split)
    assert all(len(side) == 1 for side in sides.values())
    assert {item.split for item in split.items} == {"train", "val", "test"}


def test_options_reach_what_is_decoded(mixed_folder):
    def pixels(name, **options):
        data = read(mixed_folder, **options)
        return data.load(next(item for item in data.items if item.id.startswith(name)))

    assert not np.array_equal(pixels("ill/0.dcm"), pixels("ill/0.dcm", window="lung"))
    assert not np.array_equal(pixels("ill/volume"), pixels("ill/volume", window=(0, 2)))
    assert not np.array_equal(pixels("ill/volume"), pixels("ill/volume", axis="sagittal"))
    assert len(read(mixed_folder, every=2, central=1.0).items) == 2 * (3 + 3 + 4)
    assert len(read(mixed_folder, central=1.0).items) == 2 * (3 + 3 + 8)


def test_a_window_is_part_of_a_samples_identity(mixed_folder, tmp_path):
    hashes = FileHashes(tmp_path / "hashes")
    windows = (None, "lung", "bone")
    keys = {content_key(read(mixed_folder, window=window).items[0], hashes) for window in windows}
    assert len(keys) == 3


def test_manifests_name_dicom_files_with_several_labels(write_dicom, tmp_path):
    for i in range(5):
        write_dicom(tmp_path / "scans" / f"{i}.dcm", RAMP + i, PatientID=str(i))
    rows = ["0.dcm,mass|edema,one", "1.dcm,mass,one", "2.dcm,edema,two", "3.dcm,,two", "4.dcm,edema,three"]
    (tmp_path / "labels.csv").write_text("image,labels,patient\n" + "\n".join(f"scans/{row}" for row in rows))
    data = read(tmp_path)
    assert data.kind == "multilabel" and data.class_names == ("edema", "mass")
    assert data.items[0].target.values == (1.0, 1.0)
    assert data.items[0].group == data.items[1].group != data.items[2].group  # the table's patients win


def test_a_dicom_folder_is_labelled_by_its_headers(write_dicom, tmp_path):
    for i, modality in enumerate(["CT", "MR", "MR", None]):
        write_dicom(tmp_path / "study" / f"IM{i}", RAMP + i, **({"Modality": modality} if modality else {}))
    with pytest.raises(DataError, match=r"nothing names their classes.*label_tag"):
        read(tmp_path)
    data = read(tmp_path, label_tag="Modality")
    assert data.class_names == ("computed tomography", "magnetic resonance imaging")
    assert [item.target.index for item in data.items] == [0, 1, 1]
    assert data.skipped == [("study/IM3", "its header has no Modality, which names the class")]
    with pytest.raises(UnknownNameError, match="did you mean Modality"):
        read(tmp_path, label_tag="modality")


def test_unreadable_files_are_skipped_and_listed(write_dicom, write_nifti, tmp_path):
    for label in ("a", "b"):
        write_dicom(tmp_path / label / "good.dcm", RAMP)
        write_dicom(tmp_path / label / "report.dcm", Modality="SR")
        (tmp_path / label / "empty.dcm").write_bytes(b"")
        write_nifti(tmp_path / label / "nan.nii", np.full((3, 3, 3), np.nan, dtype=np.float32))
    data = read(tmp_path)
    assert [item.id for item in data.items] == ["a/good.dcm", "b/good.dcm"]
    reasons = dict(data.skipped)
    assert "without pixels" in reasons["a/report.dcm"]
    assert "0 bytes" in reasons["a/empty.dcm"] and "NaN" in reasons["a/nan.nii"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windw": "lung"}, "domain 'medical' has no option 'windw'; did you mean window"),
        ({"window": "lnug"}, "no preset 'lnug'; did you mean lung"),
        ({"axis": "axal"}, r"option axis=axal of domain 'medical' .* axial\W.*did you mean axial\?"),
        ({"modality": "radiolgy"}, r"option modality=radiolgy of domain 'medical' .*did you mean radiology\?"),
    ],
)
def test_wrong_names_are_answered_with_the_nearest(tmp_path, options, message):
    """Before anything is looked at: the folder does not exist."""
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "none", **options)


@pytest.mark.parametrize(
    "options",
    [{"window": "40,0"}, {"window": "40,x"}, {"every": 0}, {"central": 0}, {"central": 1.5}, {"volume": -1}],
)
def test_values_out_of_range_name_the_option(tmp_path, options):
    with pytest.raises(ConfigError, match=f"option {next(iter(options))}"):
        read(tmp_path / "none", **options)


def test_an_option_that_does_nothing_is_said(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / label / "one.png")
    assert read(tmp_path).notes == []
    notes = read(tmp_path, window="lung", every=2).notes
    assert [note.split()[1] for note in notes] == ["window", "every"]
    with pytest.raises(ConfigError, match="min_side"):
        read(tmp_path, min_side=3)


def test_windows_have_one_spelling():
    assert {check_window(w) for w in ("Soft Tissue", "soft_tissue", "soft-tissue")} == {"soft-tissue"}
    assert {check_window(w) for w in ((40, 400), [40.0, 400], "40,400", " 40 , 400 ")} == {"40,400"}
    assert check_window(None) is None and check_window("MinMax") == "minmax"
    assert {"lung", "bone", "brain", "soft-tissue", "mediastinum", "abdomen", "liver"} <= set(PRESETS)


def test_images_to_predict_are_read_as_the_training_images_were(mixed_folder):
    data = Medical().read_images([mixed_folder], window="bone", axis="coronal", label_tag=None)
    trained = {item.id: item for item in read(mixed_folder, window="bone", axis="coronal").items}
    assert len(data.items) == len(trained)
    for item in data.items:
        twin = trained[item.id.removeprefix(f"{mixed_folder.as_posix()}/")]
        assert item.target is None and np.array_equal(data.load(item), data.load(twin))


def test_modality_chooses_the_words(tmp_path):
    assert set(prompts()) >= MODALITIES
    firsts = [Medical(modality=m).templates("classification")[0] for m in prompts()]
    assert len(set(firsts)) == len(firsts)
    for texts in prompts().values():
        for template in (*texts["templates"], *texts["negative"]):
            assert template.count("{}") == 1
        assert not set(texts["templates"]) & set(texts["negative"])
    assert "no evidence of {}." in Medical(modality="radiology").negative_templates("classification")


def test_the_sample_is_synthetic_and_says_so():
    domain = Medical()
    data = domain.sample("classification")
    assert "Synthetic data" in data.notes[0]
    assert len(data.class_names) == 5 and len(data.items) == 300 and len(data.split("test")) >= 100
    for label in range(5):
        assert sum(item.target.index == label for item in data.split("train")) >= 16
    assert "microscop" in domain.of(data).templates("classification")[0]


def test_sample_images_are_drawn_alike_each_time_and_all_differ(tmp_path):
    data, again = Medical().sample("classification"), Medical().sample("classification")
    picked = data.items[::30]
    images = [data.load(item) for item in picked]
    assert all(np.array_equal(image, again.load(item)) for image, item in zip(images, again.items[::30]))
    assert all(image.shape == (80, 80, 3) and image.dtype == np.uint8 and image.std() > 10 for image in images)
    assert len({image.tobytes() for image in images}) == len(images)
    hashes = FileHashes(tmp_path / "hashes")
    assert len({content_key(item, hashes) for item in data.items}) == 300


def test_sample_images_and_their_identity_are_those_of_the_documented_figures():
    """Identity seeds the augmented views: were it to follow the text of the code, an edit of a word would move figures.
    Whoever changes the drawing changes `DRAWING` and both numbers here."""
    data = Medical().sample("classification")
    digests = "".join(item.decode["digest"] for item in data.items)
    assert hashlib.sha256(digests.encode()).hexdigest()[:16] == "db83d7d1a3061477"
    means = [np.mean([data.load(item) for item in data.items[start::60]]) for start in (0, 59)]
    assert means == pytest.approx([215.335, 211.998], abs=0.01)


def test_no_sample_image_leaves_its_split():
    data = Medical().sample("classification")
    split = assign_splits(data, seed=0, hashes=FileHashes())
    assert [item.split for item in split.items] == [item.split for item in data.items]


def test_colour_alone_does_not_tell_the_sample_kinds_apart():
    """Otherwise the sample would be a test of stains, not of shapes."""
    from sklearn.neighbors import KNeighborsClassifier

    data = Medical().sample("classification")

    def features(split):
        items = data.split(split)[::2]
        return [data.load(item).reshape(-1, 3).mean(axis=0) for item in items], [item.target.index for item in items]

    model = KNeighborsClassifier(3).fit(*features("train"))
    assert model.score(*features("test")) < 0.65


def test_its_recipes_are_named_for_what_they_are_for():
    assert {"default", "chest-xray", "blood-cells", "ct-lung"} <= set(Medical().recipes)


def test_a_task_that_it_lacks_is_refused():
    with pytest.raises(ConfigError, match="moments"):
        Medical().sample("moments")


# real data ------------------------------------------------------------------------------------------------------


def test_real_blood_cells_pneumonia_and_boxes(data_dir):
    cells = read(data_dir / "medical" / "wbc_classification")
    assert cells.class_names == ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")
    assert len(cells.items) == 212 and not cells.skipped
    assert len(read(data_dir / "medical" / "pneumoniamnist").items) == 600
    boxes = read(data_dir / "medical" / "bccd_detection")
    assert set(boxes.class_names) == {"RBC", "WBC", "Platelets"} and len(boxes.items) > 2500
    for data in (cells, boxes):
        assert data.load(data.items[0]).dtype == np.uint8


def test_real_dicom_and_nifti_files_decode(data_dir):
    """All but a structured report, and a resampled volume with NaN at its border."""
    folder = data_dir / "medical" / "dicom_nifti"
    data = Medical().read_images([folder])
    left_out = {re.sub(r".*/", "", name): reason for name, reason in data.skipped}
    assert set(left_out) == {"test-SR.dcm", "resampled_anat_moved.nii"}
    assert "without pixels" in left_out["test-SR.dcm"] and "NaN" in left_out["resampled_anat_moved.nii"]
    for item in data.items:
        image = data.load(item)
        assert image.ndim == 3 and image.shape[2] == 3 and image.max() > 0
        assert image.dtype == np.uint8 or (image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1)
    assert len({item.source for item in data.items}) == 13


def test_findings_have_the_published_pair_and_no_finding_sentences_of_its_own(tmp_path):
    for name in ("Edema", "No Finding"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("L", (8, 8), 40 * number).save(tmp_path / name / f"{number}.png")
    plain = Medical().read(tmp_path, modality="radiology").domain
    assert plain.sentences("Edema") is None and "no evidence of {}." in plain.negative_templates()
    there, absent = plain.sentences("No Finding")
    assert "a normal radiograph." in there and "an abnormal radiograph." in absent
    pair = Medical().read(tmp_path, modality="radiology", prompts="pair").domain
    assert (pair.templates(), pair.negative_templates()) == (["{}"], ["no {}"]) and pair.sentences("no finding") == (
        there,
        absent,
    )
    assert Medical().read(tmp_path).domain.sentences("No Finding") is None
    assert Medical().read_images([tmp_path], modality="radiology", prompts="pair").domain.templates() == ["{}"]
