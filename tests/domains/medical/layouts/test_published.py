"""Published sets of radiographs: a drawn copy of each, with the real names and headers."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parity_checks.radiographs import radiographs
from PIL import Image

import vladapt
from vladapt.core.contracts import Boxes
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.core.errors import CapabilityError, ConfigError, DataError, UnknownNameError
from vladapt.core.features.store import FeatureStore
from vladapt.domains.medical import Medical
from vladapt.domains.medical.layouts.certainty import BLANKS, POLICIES, SOFT, UNCERTAIN, settled
from vladapt.domains.medical.layouts.chexpert_columns import DEVICES, FINDINGS
from vladapt.domains.medical.layouts.published import LAYOUTS, published_layout, read_layout
from vladapt.domains.medical.layouts.run_lengths import counts_of, mask_of
from vladapt.domains.medical.reading import MedicalReading

NAN = float("nan")
CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
)
MIMIC_HEADER = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices\n"
)
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)
MS_CXR_HEADER = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split\n"
SETS = {
    "CheXpert": {
        "train.csv": CHEXPERT_HEADER
        + "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Male,68,Frontal,AP,,,1.0,,,-1.0,,,,,0.0,,,\n"
        + "CheXpert-v1.0-small/train/patient00001/study1/view2_lateral.jpg,Male,68,Lateral,,,,1.0,,,-1.0,,,,,0.0,,,\n"
        + "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,Female,50,Frontal,PA,1.0,,,,,,,,,,,,,1.0\n",
        "valid.csv": CHEXPERT_HEADER
        + "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP"
        + ",0.0" * 7
        + ",1.0,0.0,0.0,0.0,0.0,0.0,0.0\n",
    },
    "MIMIC-CXR-JPG": {
        "mimic-cxr-2.0.0-chexpert.csv.gz": MIMIC_HEADER
        + "10000000,50000000,1.0,-1.0,,,,,,,,0.0,,,,\n10000000,50000001,,,,,,,,,1.0,,,,,1.0\n"
        + "10000001,50000002,,1.0,,,,,,,,,,,,\n",
        "mimic-cxr-2.0.0-metadata.csv.gz": "dicom_id,subject_id,study_id,ViewPosition,Rows,StudyDate,StudyTime\n"
        "aa-1,10000000,50000000,PA,9,2180,1.5\naa-2,10000000,50000000,LATERAL,9,2180,1.5\n"
        "aa-3,10000000,50000001,AP,9,2180,1.5\nbb-1,10000001,50000002,AP,9,2180,1.5\ncc-1,10000002,50000003,AP,9,2180,1.5\n",
        "mimic-cxr-2.0.0-split.csv.gz": "dicom_id,study_id,subject_id,split\naa-1,50000000,10000000,train\n"
        "aa-2,50000000,10000000,train\naa-3,50000001,10000000,train\nbb-1,50000002,10000001,validate\n",
    },
    "ChestX-ray14": {
        "Data_Entry_2017_v2020.csv": NIH_HEADER
        + "00000001_000.png,Edema|Pneumonia,0,1,48,M,PA,2682,2749,0.143,0.143\n"
        + "00000001_001.png,No Finding,1,1,48,M,AP,2682,2749,0.143,0.143\n"
        + "00000002_000.png,Infiltration|Mass,0,2,81,F,PA,2682,2749,0.143,0.143\n",
        "BBox_List_2017.csv": "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "00000002_000.png,Infiltrate,2.5,1.5,3.0,4.0,,,\n00000001_000.png,Pneumonia,1.0,1.0,2.0,2.0,,,\n",
        "train_val_list.txt": "00000001_000.png\n00000001_001.png\n",
        "test_list.txt": "00000002_000.png\n",
    },
    "PadChest": {
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,"
        "PatientBirth,PatientSex_DICOM,Projection,Labels\n"
        "0,a.png,0,20140915,s1,p1,1930,M,PA,\"['pulmonary fibrosis', 'nodule', ' nodule']\"\n"
        "1,b.png,0,20140915,s1,p1,1930,M,L,\"['pulmonary fibrosis', 'nodule', ' nodule']\"\n"
        "2,c.png,0,20140915,s2,p2,1930,F,PA,\"['normal', 'unchanged']\"\n"
        "3,d.png,0,20140915,s3,p3,1930,F,AP_horizontal,\"['nodule', 'suboptimal study']\"\n"
        "4,e.png,0,20140915,s4,p4,1930,F,PA,\n",
    },
    "VinDr-CXR": {
        "annotations/annotations_train.csv": "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
        "v1,R1,Cardiomegaly,1,2,5,6\nv1,R2,Cardiomegaly,1,2,6,6\nv1,R3,ILD,0,0,3,3\nv2,R1,No finding,,,,\n"
        "v2,R2,No finding,,,,\nv2,R3,No finding,,,,\n",
        "annotations/annotations_test.csv": "image_id,class_name,x_min,y_min,x_max,y_max\nv3,ILD,1,1,4,4\n",
    },
    "RSNA Pneumonia": {
        "stage_2_train_labels.csv": "patientId,x,y,width,height,Target\n"
        "r1,1.0,2.0,3.0,4.0,1\nr1,4.0,1.0,2.0,2.0,1\nr2,,,,,0\n",
    },
    "SIIM-ACR Pneumothorax": {"train-rle.csv": "ImageId, EncodedPixels\n1.2.1,1025 2 1022 2\n1.2.2, -1\n1.2.1,0 1\n"},
    "MS-CXR": {
        "MS_CXR_Local_Alignment_v1.1.0.csv": MS_CXR_HEADER
        + "m1,Pneumonia,left lower opacity,files/p10/p10000001/s50000001/m1.jpg,1,2,3,4,9,8,test\n"
        + "m1,Pneumonia,left lower opacity,files/p10/p10000001/s50000001/m1.jpg,5,5,2,2,9,8,test\n"
        + "m1,Edema,mild edema,files/p10/p10000001/s50000001/m1.jpg,0,0,9,8,9,8,test\n"
        + "m2,Edema,moderate edema,files/p11/p11000001/s50000002/m2.jpg,0,0,4,4,9,8,val\n",
    },
    "phrases with boxes": {
        "phrases.csv": "image,phrase,x,y,w,h,finding,patient\na.png,mild edema,0,0,9,8,Edema,7\n"
        + "b.png,a strange shadow,1,2,3,4,,7\nb.png,a strange shadow,5,5,2,2,,7\n",
    },
}
IMAGES = {
    "CheXpert": [
        *(f"train/patient00001/study1/view{view}.jpg" for view in ("1_frontal", "2_lateral")),
        *("train/patient00002/study1/view1_frontal.jpg", "valid/patient64541/study1/view1_frontal.jpg"),
    ],
    "MIMIC-CXR-JPG": [
        *(f"files/p10/p10000000/s50000000/aa-{n}.jpg" for n in (1, 2)),
        *("files/p10/p10000000/s50000001/aa-3.jpg", "files/p10/p10000001/s50000002/bb-1.jpg"),
    ],
    "ChestX-ray14": [f"images_00{n}/images/0000000{n}_00{m}.png" for n, m in ((1, 0), (1, 1), (2, 0))],
    "PadChest": [f"0/{name}.png" for name in "abcde"],
    "VinDr-CXR": ["train/v1.png", "train/v2.png", "test/v3.png"],
    "RSNA Pneumonia": ["stage_2_train_images/r1.png", "stage_2_train_images/r2.png"],
    "SIIM-ACR Pneumothorax": ["dicom-images-train/1.2.1/1.2.9/1.2.1.png", "dicom-images-train/1.2.2/1.2.8/1.2.2.png"],
    "MS-CXR": ["files/p10/p10000001/s50000001/m1.jpg", "files/p11/p11000001/s50000002/m2.jpg"],
    "phrases with boxes": ["a.png", "b.png"],
}
MIMIC = {"Atelectasis": 1.0, "Cardiomegaly": NAN, "Pleural Effusion": 0.0, DEVICES: NAN}
READ = {
    "CheXpert": (
        {"Cardiomegaly": 1.0, "Edema": NAN, "Pleural Effusion": 0.0, "Fracture": NAN},
        ["train"] * 3 + ["val"],
        3,
    ),
    "MIMIC-CXR-JPG": (MIMIC, ["train"] * 3 + ["val"], 2),
    "ChestX-ray14": ({"Edema": 1.0, "Pneumonia": 1.0, "Mass": 0.0}, ["train", "train", "test"], 2),
    "PadChest": ({"nodule": 1.0, "pulmonary fibrosis": 1.0}, [""] * 3, 2),
    "VinDr-CXR": ({"Cardiomegaly": 1.0, "ILD": 1.0}, ["train", "train", "test"], 1),
    "RSNA Pneumonia": ({"Lung Opacity": 1.0}, ["", ""], 2),
    "SIIM-ACR Pneumothorax": ({"Pneumothorax": 1.0}, ["", ""], 1),
}
"""Set -> findings of its first image, the splits of all, and groups; `None` is one."""


def write(folder, files: dict[str, str], images=()):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        packed = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
        (folder / name).write_bytes(packed)
    for seed, name in enumerate(images):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 9), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Set -> its folder."""
    place = tmp_path_factory.mktemp("radiographs")
    return {name: write(place / str(n), files, IMAGES[name]) for n, (name, files) in enumerate(SETS.items())}


def read(path, task=None, **options):
    return Medical().read(path, task, **options)


def objects(path, **options):
    return read_layout(published_layout(path), path, MedicalReading(**options), "detection")


def findings(data, place=0):
    return dict(zip(data.class_names, data.items[place].class_label(), strict=True))


def same(one, other):
    return all(math.isnan(value) if math.isnan(other[name]) else value == other[name] for name, value in one.items())


def test_findings_agree_with_the_public_code(agrees):
    agrees(radiographs)


def test_every_layout_is_drawn():
    assert {layout.name for layout in LAYOUTS} == set(SETS)


@pytest.mark.parametrize("name", READ)
def test_a_published_set_is_read(name, drawn):
    data, (first, splits, groups) = read(drawn[name]), READ[name]
    assert data.kind == "multilabel" and not data.skipped and data.name == name
    assert same(first, findings(data))
    assert [item.split for item in data.items] == splits and len({item.group for item in data.items}) == groups
    assert data.load(data.items[-1]).shape == (8, 9, 3)
    assert data.notes[0].startswith(f"Recognised as {name} by") and data.domain.modality == "radiology"


def test_labels_of_a_study_are_those_of_each_of_its_views(drawn):
    data = read(drawn["MIMIC-CXR-JPG"])
    assert [item.id for item in data.items] == ["aa-1", "aa-2", "aa-3", "bb-1"]
    assert same(findings(data, 0), findings(data, 1)) and not same(MIMIC, findings(data, 2))
    assert [item.target.about() for item in data.items[:2]] == [{"view": "PA"}, {"view": "LATERAL"}]
    assert "Images whose study has no labels, left out: 1." in data.notes


@pytest.mark.parametrize(
    ("name", "ids", "view"),
    [
        ("CheXpert", [IMAGES["CheXpert"][place] for place in (0, 2, 3)], "AP, Lateral"),
        ("MIMIC-CXR-JPG", ["aa-1", "aa-3", "bb-1"], "PA, LATERAL"),
        ("PadChest", ["a.png", "c.png"], "PA, L"),
    ],
)
def test_studies_keep_their_labels_and_their_views(name, ids, view, drawn):
    data, images = read(drawn[name], unit="study"), read(drawn[name])
    assert [item.id for item in data.items] == ids and data.load(data.items[0]).shape == (2, 8, 9, 3)
    assert same(findings(data), findings(images)) and data.items[0].target.about() == {"view": view}
    assert [item.group for item in data.items][:2] == [images.items[0].group, images.items[2].group]


def test_a_set_that_tells_no_studies_has_none(drawn):
    with pytest.raises(ConfigError, match="--unit study: ChestX-ray14 does not say which images are of one study"):
        read(drawn["ChestX-ray14"], unit="study")


def test_no_finding_makes_the_others_negative_but_not_devices_of_chexpert(drawn):
    without = dict.fromkeys(FINDINGS, 0.0)
    assert same({**without, DEVICES: 1.0}, findings(read(drawn["CheXpert"]), 2))
    assert same(without, findings(read(drawn["MIMIC-CXR-JPG"]), 2))


@pytest.mark.parametrize(
    ("options", "edema", "fracture"),
    [({}, NAN, NAN), ({"uncertain": "positive"}, 1.0, NAN), ({"uncertain": "negative", "blank": "negative"}, 0.0, 0.0)],
)
def test_uncertain_and_blank_findings_count_as_the_options_say(options, edema, fracture, drawn):
    data = read(drawn["CheXpert"], **options)
    assert same({"Edema": edema, "Fracture": fracture}, findings(data))
    uncertain, blank = options.get("uncertain", "ignore"), options.get("blank", "unknown")
    assert data.notes[1] == (
        f"Uncertain findings: 2, read as {uncertain} (--uncertain); not mentioned: 20, read as {blank} (--blank); made "
        "negative by 'No Finding': 12."
    )


def test_soft_findings_are_learned_and_never_scored(drawn):
    data = read(drawn["CheXpert"], uncertain="soft")
    edema, target = data.class_names.index("Edema"), data.items[0].target
    assert math.isnan(target.class_label()[edema]) and target.training_label()[edema] == SOFT
    assert target.restricted({edema: 0}).training_label() == (SOFT,) and target.restricted({5: 0}) is None
    assert data.items[3].training_label() == data.items[3].class_label()


@pytest.mark.parametrize(("readers", "ild", "boxes"), [("any", 1.0, 3), ("majority", 0.0, 2)])
def test_readers_of_vindr_agree_as_the_option_says(readers, ild, boxes, drawn):
    data = read(drawn["VinDr-CXR"], readers=readers)
    assert findings(data) == {"Cardiomegaly": 1.0, "ILD": ild}
    assert f"Images whose readers disagree, read by the rule '{readers}' (--readers): 1." in data.notes
    first, second, _ = objects(drawn["VinDr-CXR"], readers=readers).items
    assert first.target.boxes[0] == (1, 2, 5, 6) and len(first.target.boxes) == boxes and not second.target.boxes


def test_vindr_takes_findings_of_whole_images_and_kaggles_table(drawn, tmp_path):
    whole = {
        "annotations/image_labels_train.csv": "image_id,rad_id,ILD,Tuberculosis,No finding\n"
        "v1,R1,0,1,0\nv1,R2,0,0,1\nv2,R1,0,0,1\n",
        "annotations/image_labels_test.csv": "image_id,ILD,Tuberculosis,No finding\nv3,1,0,0\n",
    }
    folder = write(tmp_path / "whole", {**SETS["VinDr-CXR"], **whole}, IMAGES["VinDr-CXR"])
    assert findings(read(folder)) == {"ILD": 0.0, "Tuberculosis": 1.0}
    kaggle = {
        "train.csv": "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
        "v1,ILD,5,R8,1,1,2,2\nv1,ILD,5,R9,1,1,2,2\nv1,No finding,14,R10,,,,\nv2,No finding,14,R8,,,,\n"
    }
    data = read(write(tmp_path / "kaggle", kaggle, IMAGES["VinDr-CXR"]))
    assert "Images whose readers disagree, read by the rule 'any' (--readers): 1." in data.notes  # two of three see it
    assert data.name == "VinDr-CXR" and [item.class_label() for item in data.items] == [(1.0,), (0.0,)]


def test_padchest_leaves_out_what_cannot_be_used(drawn):
    data = read(drawn["PadChest"])
    assert data.class_names == ("nodule", "pulmonary fibrosis") and findings(data, 2) == dict.fromkeys(
        data.class_names, 0
    )
    assert "Images without labels, left out: 1; marked exclude or suboptimal study: 1." in data.notes


def test_boxes_are_read_for_detection(drawn):
    data = objects(drawn["ChestX-ray14"])
    assert data.kind == "boxes" and [item.id for item in data.items] == ["00000001_000.png", "00000002_000.png"]
    assert data.items[1].target.boxes == ((2.5, 1.5, 5.5, 5.5),)
    assert data.class_names[data.items[1].target.labels[0]] == "Infiltration"
    assert data.class_names.index("Mass") not in data.items[1].target.facts["absent"]  # seen, and not drawn
    assert objects(drawn["RSNA Pneumonia"]).items[0].target == Boxes(((1, 2, 4, 6), (4, 1, 6, 3)), (0, 0))
    with pytest.raises(DataError, match="PadChest has no boxes or outlines"):
        objects(drawn["PadChest"])


def test_run_lengths_are_outlines(drawn):
    target = objects(drawn["SIIM-ACR Pneumothorax"]).items[0].target
    assert target.boxes == ((1.0, 1.0, 3.0, 3.0), (0.0, 0.0, 1.0, 1.0))
    assert target.segments[0]["counts"] == [1025, 2, 1022, 2, 1024**2 - 2051]


def test_outlines_of_a_published_set_are_masks_to_segment(drawn):
    data = read(drawn["SIIM-ACR Pneumothorax"], "segmentation")
    assert data.kind == "masks" and data.class_names == ("background", "Pneumothorax")
    masks = {item.source.stem: data.load_mask(item) for item in data.items}
    marked = np.zeros((1024, 1024), bool)
    marked[0, 0] = marked[1:3, 1:3] = True
    assert np.array_equal(masks["1.2.1"] == 1, marked) and not masks["1.2.2"].any()
    with pytest.raises(DataError, match="has boxes but no outlines, so no masks"):
        read(drawn["RSNA Pneumonia"], "segmentation")


def test_phrases_teach_no_classes_and_that_is_told_before_encoding(drawn, small_clip_spec, tmp_path, monkeypatch):
    monkeypatch.setattr(FeatureStore, "get_or_compute", lambda *a, **k: pytest.fail("images were encoded"))
    how = {"domain": "medical", "adapter": "linear-probe", "backbone": small_clip_spec, "out": str(tmp_path)}
    with pytest.raises(CapabilityError, match=r"MS-CXR: no training image has a class .*captions.*another --task"):
        vladapt.fit(**how, data=str(drawn["MS-CXR"]))


@given(st.integers(2, 9).flatmap(lambda side: st.lists(st.booleans(), min_size=side**2, max_size=side**2)).filter(any))
def test_run_lengths_give_back_the_mask(flat):
    """As the challenge writes them: down the columns, starts from the end of the run before."""
    side = math.isqrt(len(flat))
    mask = np.array(flat).reshape(side, side)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [0]]).astype(int)))
    runs = np.diff(edges, prepend=0).tolist()
    counts = counts_of(" ".join(map(str, runs)), "line 2", side)
    assert sum(counts) == side**2 and np.array_equal(mask_of(counts, side), mask)


@given(
    st.lists(st.sampled_from([1.0, 0.0, UNCERTAIN, NAN]), min_size=4, max_size=4),
    st.booleans(),
    st.sampled_from(list(POLICIES)),
    st.sampled_from(list(BLANKS)),
)
def test_a_policy_changes_what_it_names_alone(written, healthy, uncertain, blank):
    names, reading = ["Edema", "Cardiomegaly", "Mass", DEVICES], MedicalReading(uncertain=uncertain, blank=blank)
    (target,), _ = settled(np.array([written]), names, np.array([healthy]), reading, {DEVICES})
    for name, before, after in zip(names, written, target.values, strict=True):
        if healthy and name != DEVICES:
            assert after == 0
        elif before == UNCERTAIN:
            assert same({name: POLICIES[uncertain](name)}, {name: after})
        else:
            assert same({name: BLANKS[blank] if math.isnan(before) else before}, {name: after})


def test_phrases_have_their_boxes_and_their_findings(drawn):
    data = read(drawn["MS-CXR"])
    assert data.kind == "captions" and data.class_names == ("Edema", "Pneumonia")
    target = data.items[0].target
    assert target.captions() == ("left lower opacity", "mild edema") and target.labels == (1, 0)
    assert target.boxes == (((1, 2, 4, 6), (5, 5, 7, 7)), ((0, 0, 9, 8),)) and target.size == (9, 8)
    assert [item.split for item in data.items] == ["test", "val"] and target.classes() == (0, 1)
    assert target.restricted({1: 0}).captions() == ("left lower opacity",) and target.restricted({5: 0}) is None


def test_phrases_of_ones_own_may_be_findings(drawn):
    data = read(drawn["phrases with boxes"])
    assert data.class_names == ("Edema", "a strange shadow") and len({item.group for item in data.items}) == 1
    target = data.items[1].target
    assert target.boxes == (((1, 2, 4, 6), (5, 5, 7, 7)),) and target.labels == (1,) and target.size is None


def test_a_table_alone_is_its_part_of_the_set(drawn):
    data = read(drawn["CheXpert"] / "valid.csv")
    assert [item.id for item in data.items] == ["valid/patient64541/study1/view1_frontal.jpg"]


def test_some_findings_may_be_chosen(drawn):
    data = read(drawn["CheXpert"], class_names=("Pleural Effusion", "Cardiomegaly"))
    assert data.class_names == ("Pleural Effusion", "Cardiomegaly") and data.items[0].class_label() == (0.0, 1.0)
    assert data.items[0].target.about() == {"view": "AP"}
    with pytest.raises(UnknownNameError, match="no finding 'Edemas' in CheXpert; did you mean Edema"):
        read(drawn["CheXpert"], class_names=("Edemas",))


def test_columns_of_the_table_are_kept_for_scores_by_them(drawn):
    columns = read(drawn["CheXpert"]).columns()
    assert list(columns.cells("Sex").values()) == ["Male", "Male", "Female", "Male"] and "Edema" in columns.taken


def test_official_splits_reach_the_fit(drawn, tmp_path):
    split = assign_splits(read(drawn["ChestX-ray14"]), seed=0, hashes=FileHashes(tmp_path / "hashes"))
    assert {item.id: item.split for item in split.items}["00000002_000.png"] == "test"


def test_other_tables_are_read_as_before(tmp_path):
    """A name alone, or a column alone, is no sign."""
    files = {"train.csv": "image,label\na.png,x\nb.png,y\n"}
    data = read(write(tmp_path, files, ["a.png", "b.png"]))
    assert data.kind == "labels" and published_layout(tmp_path) is None


def test_an_option_of_another_set_is_said_to_do_nothing(drawn):
    (note,) = [note for note in read(drawn["RSNA Pneumonia"], uncertain="positive").notes if "no effect" in note]
    assert note == "Option uncertain has no effect here: it is for CheXpert and MIMIC-CXR-JPG files."


BAD = {
    "a finding that is no degree of certainty": (
        "CheXpert",
        {"valid.csv": SETS["CheXpert"]["valid.csv"].replace("1.0", "2.0").replace("v2.0", "v1.0")},
        r"valid.csv line 2: '2.0' in column 'Pneumonia'; give 1, 0, -1 or nothing",
    ),
    "a path of another set": (
        "CheXpert",
        {"valid.csv": SETS["CheXpert"]["valid.csv"].replace("patient64541", "someone")},
        r"line 2: 'CheXpert-v1.0-small/valid/someone/.*' is no path of CheXpert",
    ),
    "a patient in two splits": (
        "ChestX-ray14",
        {"test_list.txt": "00000001_001.png\n"},
        "1 of its 1 patients are in more than one of the given splits .test and train.; give splits by patient",
    ),
    "a finding that the set lacks": (
        "ChestX-ray14",
        {"Data_Entry_2017_v2020.csv": SETS["ChestX-ray14"]["Data_Entry_2017_v2020.csv"].replace("|Mass", "|Masss")},
        "line 4: 'Masss' is no finding of ChestX-ray14; did you mean Mass",
    ),
    "an unknown split": (
        "MIMIC-CXR-JPG",
        {"mimic-cxr-2.0.0-split.csv.gz": "dicom_id,study_id,subject_id,split\naa-1,50000000,10000000,both\n"},
        "line 2: split 'both'; there are train, validate, test",
    ),
    "a file that is not packed": (
        "MIMIC-CXR-JPG",
        {"mimic-cxr-2.0.0-split.csv.gz": None},
        "split.csv.gz: cannot be unpacked .*; get the file again",
    ),
    "no list": (
        "PadChest",
        {
            "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": "ImageID,PatientID,Projection,Labels\n"
            "a.png,p,PA,nodule\n"
        },
        "line 2: 'nodule' in column 'Labels' is no list",
    ),
    "no run lengths": (
        "SIIM-ACR Pneumothorax",
        {"train-rle.csv": "ImageId, EncodedPixels\n1.2.1,5 2 1048576\n"},
        "line 2: '5 2 1048576' are no run lengths of 1024 x 1024 pixels",
    ),
    "no numbers": (
        "RSNA Pneumonia",
        {"stage_2_train_labels.csv": "patientId,x,y,width,height,Target\nr1,1.0,,3.0,4.0,1\n"},
        "line 2: x, y, width, height are not numbers",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_fault_is_told_in_one_line(fault, tmp_path):
    name, files, message = BAD[fault]
    write(tmp_path, {**SETS[name], **{file: text for file, text in files.items() if text is not None}}, IMAGES[name])
    for file in (file for file, text in files.items() if text is None):
        (tmp_path / file).write_text("plain")
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_images_that_are_absent_or_ambiguous_are_listed(tmp_path):
    write(tmp_path, SETS["RSNA Pneumonia"], ["a/r1.png", "b/r1.png", "b/r2.png"])
    data = read(tmp_path)
    assert data.skipped == [("r1", "several files are called so: a/r1.png and b/r1.png")]
    (tmp_path / "b" / "r2.png").unlink()
    with pytest.raises(DataError, match=r"none of the 2 images of RSNA Pneumonia can be read \(r1: several files"):
        read(tmp_path)


def test_options_of_other_tables_are_refused(drawn):
    with pytest.raises(ConfigError, match="'group_column' does not apply to the layout of CheXpert"):
        read(drawn["CheXpert"], group_column="Sex")
