"""Single images that cannot be read are skipped and listed; strange but valid ones are read."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BAD = {
    "zero_byte.png": b"",
    "text.png": b"this is a text file",
    "wrongly_named.jpg": b"%PDF-1.4 and no image",
}


def png_bytes(array: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 40000 x 40000 pixels."""
    header = b"IHDR" + (40000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    whole = png_bytes(np.zeros((2, 2, 3), np.uint8))
    start = whole.index(b"IHDR")
    return whole[:start] + header + zlib.crc32(header).to_bytes(4, "big") + whole[start + 4 + 13 + 4 :]


@pytest.fixture
def bad_files(picture) -> dict[str, bytes]:
    return {**BAD, "truncated.png": png_bytes(picture("red", 99))[:-300], "bomb.png": bomb()}


@pytest.fixture
def with_bad_files(class_folders, bad_files):
    """Three classes of 40 images, five of them besides unreadable: 4 %."""
    folder = class_folders(each=40)
    for name, content in bad_files.items():
        (folder / "red" / name).write_bytes(content)
    return folder


def test_unreadable_images_are_skipped_and_listed_everywhere(fit, with_bad_files, bad_files):
    outcome = fit("--data", with_bad_files)
    assert outcome.code == 0, outcome.err
    run = next(Path("runs").iterdir())
    skipped = dict(json.loads((run / "run.json").read_text())["skipped"])
    assert set(skipped) == {f"red/{name}" for name in bad_files}
    log, page = (run / "log.txt").read_text(), (run / "report.html").read_text()
    for name, word in {
        "zero_byte.png": "empty file",
        "text.png": "not an image",
        "wrongly_named.jpg": "not an image",
        "truncated.png": "damaged",
        "bomb.png": "decompression bomb",
    }.items():
        assert word in skipped[f"red/{name}"]
        assert f"skipped: red/{name}" in log and f"red/{name}" in page
        assert sum(line.startswith(f"Skipped: red/{name}: ") for line in outcome.out.splitlines()) == 1
    used = json.loads((run / "run.json").read_text())["splits"]
    assert not {i for ids in used.values() for i in ids} & set(skipped)


def test_the_verdict_is_remembered_and_does_not_stop_a_second_fit(fit, with_bad_files):
    first, second = (fit("--data", with_bad_files, "--json").json for _ in range(2))
    assert first["adapted"] == second["adapted"]
    listed = [json.loads((Path(made["run"]) / "run.json").read_text())["skipped"] for made in (first, second)]
    assert listed[0] == listed[1] and len(listed[0]) == 5


def test_over_one_in_twenty_the_run_stops_before_training(fit, with_bad_files):
    (with_bad_files / "blue" / "00.png").write_bytes(b"x")
    (with_bad_files / "blue" / "01.png").write_bytes(b"x")
    outcome = fit("--data", with_bad_files)  # 7 of 125: 5.6 %
    assert outcome.code == 1 and "7 of 125 images cannot be read" in outcome.error
    assert not Path("runs").exists()


def test_embed_and_predict_list_what_they_skip(fit, vladapt, with_bad_files, small_clip_spec):
    base = ["--domain", "medical", "--backbone", small_clip_spec]
    written = vladapt("embed", *base, "--data", with_bad_files, "--out", "f.npz", "--json").json
    assert written["images"] == 120 and len(written["skipped"]) == 5
    run = fit("--data", with_bad_files, "--json").json["run"]
    found = vladapt("predict", run, with_bad_files / "red", "--json").json
    assert len(found["predictions"]) == 40 and len(found["skipped"]) == 5


@pytest.fixture
def strange(class_folders, picture, tmp_path):
    """Red and green pictures, of which each class has one of every strange but valid kind."""
    folder = class_folders("red", "green")
    for colour in ("red", "green"):
        image = Image.fromarray(picture(colour, 50))
        image.convert("CMYK").save(folder / colour / "cmyk.jpg")
        image.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / colour / "palette.png")
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(folder / colour / "deep.png")
        turned = Image.Exif()
        turned[0x0112] = 6
        image.save(folder / colour / "turned.jpg", exif=turned)
        other = Image.fromarray(picture(colour, 51))
        image.save(folder / colour / "moving.gif", save_all=True, append_images=[other], duration=50)
        image.resize((1, 1)).save(folder / colour / "dot.png")
        image.convert("RGBA").save(folder / colour / "clear.webp")
    return folder


def test_strange_but_valid_images_are_read_rightly(fit, vladapt, strange):
    made = fit("--data", strange, "--adapter", "linear-probe", "--shots", 16, "--json")
    assert made.code == 0, made.err
    assert json.loads((Path(made.json["run"]) / "run.json").read_text())["skipped"] == []
    rows = vladapt("predict", made.json["run"], strange / "red", strange / "green", "--json").json["predictions"]
    assert len(rows) == 2 * 19
    coloured = [row for row in rows if "deep" not in row["id"]]
    assert [row for row in coloured if row["label"] != Path(row["id"]).parent.name] == []


def test_a_nan_in_a_volume_and_a_dicom_without_pixels_are_skipped(fit, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    pytest.importorskip("pydicom")
    rng = np.random.default_rng(0)
    for name, level in {"dark": 0, "light": 200}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(6):
            volume = rng.integers(0, 50, (12, 12, 8)).astype(np.float32)
            volume[:, : 6 if level else 2] += 150
            if (name, i) == ("dark", 3):
                volume[6, 6, 4] = np.nan
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "data" / name / f"{i}.nii.gz")
    for i in range(30):
        write_dicom(tmp_path / "data" / "light" / f"{i}.dcm", rng.integers(0, 255, (16, 16)), patient=f"L{i}")
    write_dicom(tmp_path / "data" / "light" / "report.dcm", None, patient="L99")
    outcome = fit("--data", tmp_path / "data")
    assert outcome.code == 0, outcome.err
    skipped = json.loads((next(Path("runs").iterdir()) / "run.json").read_text())["skipped"]
    reasons = {name.partition("#")[0]: reason for name, reason in skipped}
    assert set(reasons) == {"dark/3.nii.gz", "light/report.dcm"}
    assert "NaN" in reasons["dark/3.nii.gz"] and "pixel" in reasons["light/report.dcm"].lower()


NAMES = {"name": "Zebrowski^Quentin", "id": "MRN7718293", "birth": "19530417"}


def test_nobodys_name_is_printed_logged_or_reported(fit, vladapt, tmp_path):
    pytest.importorskip("pydicom")
    rng = np.random.default_rng(1)
    for colour, level in {"dark": 20, "light": 200}.items():
        (tmp_path / "data" / colour).mkdir(parents=True)
        for i in range(30):
            pixels = np.clip(level + rng.integers(-20, 20, (16, 16)), 0, 255)
            write_dicom(tmp_path / "data" / colour / f"{i}.dcm", pixels, patient=f"{NAMES['id']}{i}")
    broken = tmp_path / "data" / "dark" / "0.dcm"
    broken.write_bytes(broken.read_bytes()[:-100])
    write_dicom(tmp_path / "data" / "light" / "30.dcm", None, patient=NAMES["id"])
    heard = []
    outcome = fit("--data", tmp_path / "data", "--adapter", "linear-probe", "--shots", 4)
    assert outcome.code == 0, outcome.err
    run = next(Path("runs").iterdir())
    skipped = json.loads((run / "run.json").read_text())["skipped"]
    assert {name for name, _ in skipped} == {"dark/0.dcm", "light/30.dcm"}
    heard += [outcome, vladapt("predict", run, tmp_path / "data" / "light"), vladapt("predict", run, broken)]
    heard += [vladapt("eval", run), vladapt("predict", run, broken, "--debug")]
    texts = [text for outcome in heard for text in (outcome.out, outcome.err)]
    files = [*Path("runs").rglob("*"), *(tmp_path / "vladapt-cache").rglob("*")]
    texts += [path.read_bytes().decode("latin-1") for path in files if path.is_file()]
    assert len(files) > 8
    for word in ("Zebrowski", "Quentin", NAMES["id"], NAMES["birth"]):
        assert not [text for text in texts if word.lower() in text.lower()]


def write_dicom(path: Path, pixels: np.ndarray | None, patient: str) -> None:
    """A small CT slice; without pixels a structured report."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    report = pydicom.uid.BasicTextSRStorage
    meta.MediaStorageSOPClassUID = report if pixels is None else pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[path.name, patient])
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.PatientBirthDate = NAMES["name"], patient, NAMES["birth"]
    data.Modality = "SR" if pixels is None else "CT"
    if pixels is not None:
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.PixelData = pixels.astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)


# One damaged file of every kind, in every command


def noise(level: int, seed: int) -> np.ndarray:
    return np.clip(level + np.random.default_rng(seed).integers(-30, 30, (24, 24, 3)), 0, 255).astype(np.uint8)


def write_image(path: Path, level: int, seed: int) -> Path:
    Image.fromarray(noise(level, seed)).save(path)
    return path


def write_slice(path: Path, level: int, seed: int) -> Path:
    pytest.importorskip("pydicom")
    write_dicom(path, noise(level, seed)[..., 0], patient=f"{level}-{seed}")
    return path


def write_volume(path: Path, level: int, seed: int) -> Path:
    nibabel = pytest.importorskip("nibabel")
    volume = np.stack([noise(level, 10 * seed + n)[..., 0] for n in range(4)], axis=2).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    return path


def write_raster(path: Path, level: int, seed: int) -> Path:
    rasterio = pytest.importorskip("rasterio")
    values = noise(level, seed).transpose(2, 0, 1).astype(np.uint16) * 10
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(5e5 + 1e4 * seed, 5e6, 10, 10)}
    with rasterio.open(path, "w", driver="GTiff", count=3, height=24, width=24, dtype="uint16", **place) as raster:
        raster.write(values)
    return path


def write_clip(path: Path, level: int, seed: int) -> Path:
    pytest.importorskip("av")
    from video_writing import write_video

    return write_video(path, [noise(level, 100 * seed + n) for n in range(12)], codec="mpeg4")


def write_frames(path: Path, level: int, seed: int) -> Path:
    path.mkdir()
    frames = [write_image(path / f"{n}.jpg", level, 100 * seed + n) for n in range(3)]
    return frames[0]


KINDS = {
    "jpeg": ("natural", "{}.jpg", write_image),
    "png": ("natural", "{}.png", write_image),
    "tiff": ("natural", "{}.tif", write_image),
    "dicom": ("medical", "{}.dcm", write_slice),
    "nifti": ("medical", "{}.nii", write_volume),
    "raster": ("remote-sensing", "{}.tif", write_raster),
    "mp4": ("video", "{}.mp4", write_clip),
    "frames": ("video", "clip{}", write_frames),
}
"""Kind of file -> domain, name by number, and what writes one and gives the file that can be damaged."""
DAMAGE = {"cut": lambda content: content[: len(content) // 2], "noise": lambda content: b"\x00\xff" * 200}


@pytest.fixture
def damaged(tmp_path):
    """damaged(kind, how, files=1): (two folders of six files, so many of the last ones damaged; their domain, names)"""

    def make(kind, how, files=1):
        domain, name, write = KINDS[kind]
        for label in ("dark", "light"):
            (tmp_path / "data" / label).mkdir(parents=True)
        written = [
            write(tmp_path / "data" / label / name.format(number), level, number)
            for label, level, numbers in (("dark", 40, range(6)), ("light", 200, range(6, 12)))
            for number in numbers
        ]
        for file in written[-files:]:
            file.write_bytes(DAMAGE[how](file.read_bytes()))
        return tmp_path / "data", domain, {name.format(number) for number in range(12 - files, 12)}

    return make


@pytest.mark.thorough(but=("png", "dicom", "raster-noise"))
@pytest.mark.parametrize(("kind", "how"), [*((kind, "cut") for kind in KINDS), ("dicom", "noise"), ("raster", "noise")])
def test_one_damaged_file_is_skipped_and_listed_by_every_command(kind, how, damaged, vladapt, small_clip_spec):
    folder, domain, names = damaged(kind, how)
    base = ["--domain", domain, "--backbone", small_clip_spec, "--json"]
    of_set = [*base, "--data", folder, "--shots", 2]
    made = {
        "index": vladapt("index", folder, *base, "--out", "i"),
        "embed": vladapt("embed", folder, *base, "--out", "e.npz"),
        "fit": vladapt("fit", *of_set, "--adapter", "zero-shot"),
        "compare": vladapt("compare", *of_set, "--adapters", "nearest-mean", "--seeds", 1, "--splits", 1),
    }
    run = made["fit"].json["run"]
    made["predict"] = vladapt("predict", run, folder, "--json")
    skipped = {command: outcome.json.get("skipped") for command, outcome in made.items()}
    skipped["fit"] = json.loads((Path(run) / "run.json").read_text())["skipped"]
    for command, listed in skipped.items():
        assert made[command].code == 0 and len(listed) == 1, (command, listed, made[command].err)
        ((name, reason),) = listed
        assert Path(name.partition("#")[0]).name in names and reason, (command, name)


def test_none_is_tolerated_where_the_user_says_so(damaged, vladapt, small_clip_spec):
    folder, _, _ = damaged("png", "cut")
    base = ["--domain", "natural", "--backbone", small_clip_spec]
    run = vladapt("fit", *base, "--data", folder, "--adapter", "zero-shot", "--json").json["run"]
    for command in (
        ["fit", *base, "--data", folder, "--adapter", "zero-shot"],
        ["compare", *base, "--data", folder, "--adapters", "nearest-mean", "--out", "c"],
        ["embed", *base, folder, "--out", "e.npz"],
        ["index", *base, folder, "--out", "i"],
        ["predict", run, folder, "--out", "rows.csv"],
    ):
        stopped = vladapt(*command, "--tolerate", 0)
        assert stopped.code == 1, command
        assert "1 of 12 images cannot be read, more than 0%; the first is " in stopped.error
        assert "11.png (damaged image" in stopped.error and "or raise --tolerate" in stopped.error
    assert not Path("e.npz").exists() and not Path("i").exists() and len(list(Path("runs").iterdir())) == 1
    assert (
        "Written: rows.csv" in stopped.out and len(Path("rows.csv").read_text().splitlines()) == 12
    )  # answers are kept
    assert vladapt("index", *base, folder, "--out", "i", "--json").json["encoded"] == 0  # and so are features


def test_a_larger_share_is_tolerated_where_the_user_says_so(damaged, vladapt, small_clip_spec):
    folder, _, names = damaged("png", "cut", files=3)
    fit = ["fit", "--domain", "natural", "--backbone", small_clip_spec, "--data", folder, "--adapter", "zero-shot"]
    stopped = vladapt(*fit, "--tolerate", 0.2)
    assert stopped.code == 1 and "3 of 12 images cannot be read, more than 20%" in stopped.error
    made = vladapt(*fit, "--tolerate", 0.25, "--json").json
    info = json.loads((Path(made["run"]) / "run.json").read_text())
    assert {Path(name).name for name, _ in info["skipped"]} == names and info["recipe"]["tolerate"] == 0.25
    assert vladapt("eval", made["run"]).code == 0  # by the share of the fit
    refused = vladapt(*fit, "--tolerate", 1.5)
    assert refused.code == 2 and "--tolerate 1.5: give a number" in refused.error


def test_where_nothing_can_be_read_every_command_fails(damaged, vladapt, small_clip_spec):
    folder, _, _ = damaged("png", "cut", files=12)
    base = ["--domain", "natural", "--backbone", small_clip_spec]
    for command in (
        ["fit", *base, "--data", folder, "--adapter", "zero-shot"],
        ["embed", *base, folder, "--out", "e.npz"],
        ["embed", *base, "--data", folder, "--out", "e.npz"],
        ["index", *base, folder, "--out", "i"],
    ):
        stopped = vladapt(*command, "--tolerate", 1)
        assert stopped.code == 1 and "12 of 12 images cannot be read; the first is" in stopped.error, command
