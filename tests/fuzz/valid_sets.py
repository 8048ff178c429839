"""Small valid sets of every kind that is read, made in a folder."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = (20, 16)
"""Width and height of all images."""


def picture(seed: int = 0) -> np.ndarray:
    """(16, 20, 3) uint8 of noise."""
    return np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


def put_image(path: Path, seed: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path, **options)
    return path


def put_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def put_text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def four_images(folder: Path) -> list[str]:
    return [put_image(folder / "images" / f"{n}.png", n).relative_to(folder).as_posix() for n in range(4)]


def class_folders(folder: Path) -> list[Path]:
    """Two classes; each image in another format."""
    suffixes = (".png", ".jpg", ".gif", ".tif", ".webp", ".bmp", ".jp2", ".ppm")
    files = [put_image(folder / "data" / ("a", "b")[n % 2] / f"{n}{suffix}", n) for n, suffix in enumerate(suffixes)]
    frames = [Image.fromarray(picture(n)) for n in range(3)]
    frames[0].save(folder / "data" / "a" / "pages.tif", save_all=True, append_images=frames[1:])
    for n in range(2):
        put_image(folder / "data" / "ab"[n] / "whole.png", 90 + n)
    return [*files, folder / "data" / "a" / "pages.tif"]


def manifest_csv(folder: Path) -> list[Path]:
    rows = [f"{name},{('x', 'y')[n % 2]},train,p{n}" for n, name in enumerate(four_images(folder))]
    return [put_text(folder / "labels.csv", "image,label,split,patient", *rows)]


def numbers_parquet(folder: Path) -> list[Path]:
    pytest.importorskip("pyarrow", reason="extra shards is not installed")
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(four_images(folder))
    pq.write_table(pa.table({"image": names, "age": [float(n) for n in range(len(names))]}), folder / "ages.parquet")
    return [folder / "ages.parquet"]


def manifest_indicators(folder: Path) -> list[Path]:
    rows = [f"{name}\t{n % 2}\t{n // 2}" for n, name in enumerate(four_images(folder))]
    return [put_text(folder / "labels.tsv", "image\tx\ty", *rows)]


def manifest_json(folder: Path) -> list[Path]:
    rows = [
        {"image": name, "label": ["x"] if n % 2 else "y", "split": "test"} for n, name in enumerate(four_images(folder))
    ]
    return [put_json(folder / "labels.json", rows)]


def manifest_jsonl(folder: Path) -> list[Path]:
    rows = [json.dumps({"image": name, "label": f"c{n % 2}"}) for n, name in enumerate(four_images(folder))]
    return [put_text(folder / "labels.jsonl", *rows)]


def coco(folder: Path) -> list[Path]:
    """Boxes, polygons and both kinds of run lengths."""
    width, height = SIZE
    from pycocotools import mask

    drawn = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    drawn[2:9, 3:8] = 1
    outlines = [
        [[1, 1, 9, 1, 9, 9, 1, 9]],
        {"size": [height, width], "counts": [20, 30, width * height - 50]},
        {"size": [height, width], "counts": mask.encode(np.asfortranarray(drawn))["counts"].decode()},
        None,
    ]
    annotations = [
        {"id": n, "image_id": n % 4, "category_id": n % 2, "bbox": [1, 1, 8, 8], "iscrowd": 0}
        | ({} if outline is None else {"segmentation": outline})
        for n, outline in enumerate(outlines * 2)
    ]
    images = [
        {"id": n, "file_name": name, "width": width, "height": height} for n, name in enumerate(four_images(folder))
    ]
    categories = [{"id": n, "name": name, "frequency": "c"} for n, name in enumerate(("cat", "dog"))]
    return [
        put_json(folder / "instances.json", {"images": images, "annotations": annotations, "categories": categories})
    ]


def zhou(folder: Path) -> list[Path]:
    names = four_images(folder)
    content = {
        "train": [[names[0], 0, "x"], [names[1], 1, "y"]],
        "val": [],
        "test": [[names[2], 0, "x"], [names[3], 1, "y"]],
    }
    return [put_json(folder / "split_zhou_set.json", content)]


def voc(folder: Path) -> list[Path]:
    files = []
    for n in range(4):
        put_image(folder / "JPEGImages" / f"{n}.png", n)
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        files.append(
            put_text(
                folder / "Annotations" / f"{n}.xml",
                f"<annotation><filename>{n}.png</filename><size><width>20</width><height>16</height></size>",
                f"<object><name>{'ab'[n % 2]}</name>{box}</object></annotation>",
            )
        )
    return [*files, put_text(folder / "ImageSets" / "Main" / "train.txt", "0", "1")]


def yolo(folder: Path) -> list[Path]:
    files = [put_text(folder / "data.yaml", "names: [cat, dog]", "train: images", "nc: 2")]
    for n in range(4):
        put_image(folder / "images" / f"{n}.png", n)
        files.append(put_text(folder / "labels" / f"{n}.txt", f"{n % 2} 0.5 0.5 0.4 0.4", "1 0.1 0.1 0.5 0.1 0.5 0.5"))
    return files


def masks(folder: Path) -> list[Path]:
    files = [put_json(folder / "classes.json", {"sky": 0, "road": 1})]
    for n in range(3):
        put_image(folder / "images" / f"{n}.png", n)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray((picture(n)[..., 0] % 2).astype(np.uint8)).save(folder / "masks" / f"{n}.png")
        files.append(folder / "masks" / f"{n}.png")
    return files


def coloured_masks(folder: Path) -> list[Path]:
    masks(folder)
    (folder / "classes.json").unlink()
    for n in range(3):
        drawn = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        drawn[:8] = (9, 20, 30)
        Image.fromarray(drawn).save(folder / "masks" / f"{n}.png")
    return [put_text(folder / "labelmap.txt", "sky:0,0,0::", "road:9,20,30::")]


def dicom(folder: Path) -> list[Path]:
    files = [_dicom(folder / "data" / "ab"[n % 2] / f"{n}.dcm", n) for n in range(4)]
    return files[:2]


def compressed_dicom(folder: Path) -> list[Path]:
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless

    files = []
    for n, syntax in enumerate((JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit)):
        path = _dicom(folder / "data" / "ab"[n % 2] / f"{n}.dcm", n, repeat=4)
        files.append(path)
        data_set = pydicom.dcmread(path)
        if syntax == JPEGBaseline8Bit:
            encoded = io.BytesIO()
            Image.fromarray(data_set.pixel_array).save(encoded, "JPEG")
            data_set.PixelData = encapsulate([encoded.getvalue()])
            data_set["PixelData"].is_undefined_length = True
            data_set.file_meta.TransferSyntaxUID = syntax
        else:
            data_set.compress(syntax)
        data_set.save_as(path)
    return files


def _dicom(path: Path, seed: int, repeat: int = 1) -> Path:
    grey = np.kron(picture(seed)[..., 0], np.ones((repeat, repeat), np.uint8))  # encoders want some size
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(seed)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set = Dataset()
    data_set.file_meta = meta
    data_set.SOPClassUID, data_set.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data_set.Modality, data_set.PatientID = "CT", f"patient {seed}"
    data_set.Rows, data_set.Columns, data_set.SamplesPerPixel = *grey.shape, 1
    data_set.PhotometricInterpretation = "MONOCHROME2"
    data_set.BitsAllocated = data_set.BitsStored = 8
    data_set.HighBit, data_set.PixelRepresentation = 7, 0
    data_set.WindowCenter, data_set.WindowWidth, data_set.RescaleSlope, data_set.RescaleIntercept = 100, 50, 1, 0
    data_set.PixelData = grey.tobytes()
    data_set["PixelData"].VR = "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    data_set.save_as(path, enforce_file_format=True)
    return path


def nifti(folder: Path) -> list[Path]:
    import nibabel

    files = []
    for n, suffix in enumerate((".nii", ".nii.gz", ".nii", ".nii.gz")):
        voxels = np.random.default_rng(n).integers(0, 500, (6, 5, 4)).astype(np.int16 if n < 2 else np.float32)
        path = folder / "data" / "ab"[n % 2] / f"{n}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), path)
        files.append(path)
    return files


def slides(folder: Path) -> list[Path]:
    """Slides first, the GeoJSON of their regions last."""
    from vladapt.domains.medical.slides.drawn import deflated, write_pyramid

    files = []
    for n in range(4):
        pixels = np.random.default_rng(n).integers(100, 220, (320, 320, 3)).astype(np.uint8)
        pixels[..., 1] = 60
        path = folder / "data" / "ab"[n % 2] / f"{n}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_pyramid(path, [(320, 320), (160, 160)], [deflated(pixels), deflated(pixels[::2, ::2])], 0.5)
        files.append(path)
    (folder / "regions").mkdir()
    square = {"type": "Polygon", "coordinates": [[[0, 0], [200, 0], [200, 200], [0, 200], [0, 0]]]}
    for n in range(4):
        files.append(folder / "regions" / f"{n}.geojson")
        files[-1].write_text(json.dumps({"type": "FeatureCollection", "features": [{"geometry": square}]}))
    return files


def medmnist(folder: Path) -> list[Path]:
    images = np.stack([picture(n) for n in range(4)])
    labels = np.array([[0], [1], [0], [1]], np.uint8)
    arrays = {f"{split}_images": images for split in ("train", "val", "test")}
    arrays |= {f"{split}_labels": labels for split in ("train", "val", "test")}
    np.savez(folder / "set.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    return [folder / "set.npz", folder / "packed.npz"]


def radiographs(folder: Path) -> list[Path]:
    """Published sets with degrees of certainty, lists as Python writes them, run lengths, boxes and phrases."""
    from vladapt.domains.medical.layouts.chexpert_columns import FINDINGS, NO_FINDING

    tables = {
        "mimic-cxr-2.0.0-chexpert.csv": (
            ",".join(("subject_id", "study_id", NO_FINDING, *FINDINGS)),
            "10,1,," + ",".join(["1.0", "-1.0", "0.0"] + [""] * 10),
            "11,2,1.0," + "," * 12,
        ),
        "mimic-cxr-2.0.0-metadata.csv": ("dicom_id,subject_id,study_id,ViewPosition", "0,10,1,PA", "1,11,2,LL"),
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": (
            "ImageID,PatientID,StudyID,Projection,Labels",
            "0.png,p,s,PA,\"['nodule', ' mass']\"",
            "1.png,q,s,PA,['normal']",
        ),
        "train-rle.csv": ("ImageId, EncodedPixels", "0,5 2 1020 3", "1, -1"),
        "MS_CXR_Local_Alignment_v1.1.0.csv": (
            "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split",
            "0,Edema,mild edema,files/p10/p100/s1/0.jpg,1,2,3,4,20,16,train",
            "1,Edema,edema,files/p10/p101/s2/1.jpg,1,2,3,4,20,16,test",
        ),
        "stage_2_train_labels.csv": ("patientId,x,y,width,height,Target", "0,1.0,2.0,3.0,4.0,1", "1,,,,,0"),
    }
    for name in tables:
        for n in range(2):
            put_image(folder / name[:5] / "images" / f"{n}.png", n)
    return [put_text(folder / name[:5] / name, *lines) for name, lines in tables.items()]


def bag(folder: Path) -> list[Path]:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    arrays = {"features": rng.normal(size=(6, 4)).astype(np.float16), "coords": rng.integers(0, 9000, (6, 2))}
    np.savez(folder / "bag.npz", **arrays)
    save_file(arrays, folder / "bag.safetensors")
    return [folder / "bag.npz", folder / "bag.safetensors"]


def features(folder: Path) -> list[Path]:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    arrays = {
        "image_features": rng.normal(size=(6, 4)).astype(np.float32),
        "text_features": rng.normal(size=(2, 4)).astype(np.float32),
        "labels": np.array([0, 1, 0, 1, 0, 1]),
    }
    np.savez(folder / "features.npz", class_names=np.array(["a", "b"]), **arrays)
    words = {"class_names": '["a", "b"]', "split": json.dumps(["train"] * 3 + ["test"] * 3)}
    save_file(arrays, folder / "features.safetensors", metadata=words)
    return [folder / "features.npz", folder / "features.safetensors"]


def pair_table(folder: Path) -> list[Path]:
    rows = [f"{name},a caption of {n},x,train" for n, name in enumerate(four_images(folder))]
    return [put_text(folder / "pairs.csv", "image,caption,label,split", *rows)]


def pair_lines(folder: Path) -> list[Path]:
    rows = [json.dumps({"image": name, "captions": ["one", f"two {n}"]}) for n, name in enumerate(four_images(folder))]
    return [put_text(folder / "pairs.jsonl", *rows)]


def coco_captions(folder: Path) -> list[Path]:
    images = [{"id": n, "file_name": name} for n, name in enumerate(four_images(folder))]
    annotations = [{"image_id": n, "caption": f"caption {n}"} for n in range(4)]
    return [put_json(folder / "captions.json", {"images": images, "annotations": annotations})]


def karpathy(folder: Path) -> list[Path]:
    images = [
        {"filename": name, "split": "train", "sentences": [{"raw": "a"}, {"tokens": ["b", "c"]}]}
        for name in four_images(folder)
    ]
    return [put_json(folder / "dataset_set.json", {"images": images})]


def person_search(folder: Path) -> list[Path]:
    entries = [
        {"id": n, "file_path": name, "captions": ["a man"], "split": "train"}
        for n, name in enumerate(four_images(folder))
    ]
    return [put_json(folder / "reid_raw.json", entries)]


def shards(folder: Path) -> list[Path]:
    with tarfile.open(folder / "shard-000.tar", "w") as archive:
        for n in range(3):
            encoded = io.BytesIO()
            Image.fromarray(picture(n)).save(encoded, "PNG")
            record = json.dumps({"caption": f"caption {n}", "label": "x"}).encode()
            for suffix, content in ((".png", encoded.getvalue()), (".txt", b"text"), (".json", record)):
                info = tarfile.TarInfo(f"{n}{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return [folder / "shard-000.tar"]


def texts_beside(folder: Path) -> list[Path]:
    files = []
    for n in range(3):
        put_image(folder / f"{n}.png", n)
        files += [folder / f"{n}.png", put_text(folder / f"{n}.txt", f"caption {n}", "another")]
    return files


def captions(folder: Path) -> list[Path]:
    return [put_text(folder / "captions.txt", "a dog", "a cat", "a small car")]


def detections(folder: Path) -> list[Path]:
    found = [{"image_id": n, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5} for n in range(3)]
    return [put_json(folder / "found.json", found)]


def words(folder: Path) -> list[Path]:
    return [put_json(folder / "words.json", {"cat": ["a furry animal", "kitten"], "dog": ["a loyal animal"]})]


def vocabulary(folder: Path) -> list[Path]:
    described = {"cat": {"synonyms": ["kitten"], "descriptions": ["it purrs"]}, "dog": ["it barks"]}
    return [put_json(folder / "classes.json", described), put_text(folder / "classes.txt", "cat, kitten", "dog")]


def recipes(folder: Path) -> list[Path]:
    content = {"domain": "medical", "shots": 4, "adapter": {"name": "tip-adapter", "alpha": 1.0}, "data": {"path": "x"}}
    text = ("domain: medical", "shots: 4", "adapter:", "  name: tip-adapter", "  alpha: 1.0", "data:", "  path: x")
    return [put_json(folder / "recipe.json", content), put_text(folder / "recipe.yaml", *text)]
