"""Damaged and hostile DICOM, NIfTI and MedMNIST files end in one line, cost no memory, and never end the process."""

from __future__ import annotations

import io
import os
import random
import struct
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless

from vladapt.core.contracts import Item
from vladapt.core.errors import DataError
from vladapt.domains.medical import Medical, dicom_header, guarded_decoder, nifti_slices
from vladapt.domains.medical.dicom_pixels import load_dicom
from vladapt.domains.medical.formats import dicom_format, nifti_format
from vladapt.domains.medical.guarded_decoder import NotDecoded, decode_guarded
from vladapt.domains.medical.medmnist import read_medmnist

GREY = (np.add.outer(np.arange(64), np.arange(64)) + np.random.default_rng(0).integers(0, 20, (64, 64))).astype(
    np.uint8
)


# Compressed pixels


@pytest.fixture
def compressed(write_dicom, tmp_path):
    """compressed(syntax, frame=None) -> a file of `GREY`, or of an encoded frame."""

    def write(syntax, frame: bytes | None = None, name: str = "a.dcm") -> Path:
        data_set = pydicom.dcmread(write_dicom(tmp_path / name, GREY))
        if frame is None and syntax != JPEGBaseline8Bit:
            data_set.compress(syntax)
        else:
            data_set.PixelData = encapsulate([jpeg() if frame is None else frame])
            data_set["PixelData"].is_undefined_length = True
            data_set["PixelData"].VR = "OB"
            data_set.file_meta.TransferSyntaxUID = syntax
        data_set.save_as(tmp_path / name)
        return tmp_path / name

    return write


def jpeg() -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(GREY).save(encoded, "JPEG")
    return encoded.getvalue()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit])
def test_the_other_process_decodes_what_pydicom_does(compressed, syntax):
    path = compressed(syntax)
    want = pixel_array(path, index=0)
    got = decode_guarded(path, 0, GREY.size)
    assert got.dtype == want.dtype and np.array_equal(got, want)
    assert load_dicom(path, {}).shape == (64, 64, 3)


def test_damaged_jpegs_end_in_one_line_and_good_ones_are_read_afterwards(compressed):
    good, chance = compressed(JPEGBaseline8Bit, name="good.dcm"), random.Random(1)
    before = load_dicom(good, {})
    refused = 0
    for n in range(25):  # some of these abort gdcm
        frame = bytearray(jpeg())
        for _ in range(chance.choice((1, 2, 30))):
            frame[chance.randrange(200)] = chance.choice((0, 255, chance.randrange(256)))
        try:
            load_dicom(compressed(JPEGBaseline8Bit, bytes(frame), f"{n}.dcm"), {})
        except DataError as error:
            refused += 1
            assert "pixels cannot be decoded, encoded as JPEG Baseline" in str(error)
    assert refused > 3
    assert np.array_equal(load_dicom(good, {}), before)


@pytest.fixture
def alone():
    """Decoders of a test's own."""
    for decoder in guarded_decoder._idle:
        decoder.end()
    guarded_decoder._idle.clear()
    yield guarded_decoder._idle
    for decoder in guarded_decoder._idle:
        decoder.end()
    guarded_decoder._idle.clear()


def test_one_process_is_kept_and_started_again_if_it_ended(compressed, alone):
    path = compressed(JPEG2000Lossless)
    decode_guarded(path, 0, GREY.size)
    (decoder,) = alone
    first = decoder._process.pid
    decode_guarded(path, 0, GREY.size)
    assert [each._process.pid for each in alone] == [first]
    decoder._process.kill()
    decoder._process.wait()
    assert np.array_equal(decode_guarded(path, 0, GREY.size), GREY)


def test_a_decoder_that_dies_or_hangs_costs_one_frame(compressed, alone, monkeypatch):
    path = compressed(JPEG2000Lossless)
    decode_guarded(path, 0, GREY.size)
    os.kill(alone[0]._process.pid, 19)  # stopped: it answers nothing
    monkeypatch.setattr(guarded_decoder, "PATIENCE_S", 0.2)
    with pytest.raises(NotDecoded, match="took too long"):
        decode_guarded(path, 0, GREY.size)
    monkeypatch.undo()
    assert np.array_equal(decode_guarded(path, 0, GREY.size), GREY)
    os.kill(alone[0]._process.pid, 19)
    killer = threading.Timer(0.3, lambda pid: os.kill(pid, 9), [alone[0]._process.pid])
    killer.start()
    with pytest.raises(NotDecoded, match="crashed"):
        decode_guarded(path, 0, GREY.size)
    assert np.array_equal(decode_guarded(path, 0, GREY.size), GREY)


def test_threads_get_their_own_frames(compressed, alone):
    paths = [compressed(JPEGLSLossless, name=f"{n}.dcm") for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        frames = list(pool.map(lambda path: decode_guarded(path, 0, GREY.size), paths * 5))
    assert all(np.array_equal(frame, GREY) for frame in frames) and len(alone) <= 3


def test_more_memory_than_the_header_promises_is_not_given(compressed, alone):
    path = compressed(JPEG2000Lossless)
    content = bytearray(path.read_bytes())
    place = content.index(b"\xff\x4f\xff\x51") + 8  # the size of the picture inside
    content[place : place + 8] = struct.pack(">II", 60_000, 60_000)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="pixels cannot be decoded"):
        load_dicom(path, {})


# Headers of DICOM


def test_more_frames_than_the_file_has_room_for(write_dicom, compressed, tmp_path):
    plain = write_dicom(tmp_path / "plain.dcm", GREY, NumberOfFrames=2**31 - 1)
    packed = pydicom.dcmread(compressed(JPEG2000Lossless, name="packed.dcm"))
    packed.NumberOfFrames = 2**31 - 1
    packed.save_as(tmp_path / "packed.dcm")
    for path in (plain, tmp_path / "packed.dcm"):
        with pytest.raises(DataError, match=r"claims 2147483647 frames of 4096 pixels, more than it can hold"):
            dicom_format().expand(path)


def test_colour_in_jpeg_2000_has_a_lower_limit_for_its_decoder_takes_more(compressed, monkeypatch):
    path = compressed(JPEG2000Lossless)
    data_set = pydicom.dcmread(path)
    data_set.SamplesPerPixel = 3
    data_set.save_as(path)
    monkeypatch.setitem(Item.DECODER_LIMITS, "JPEG2000", 4095)
    with pytest.raises(DataError, match=r"4096 pixels, the limit is 4095 .*raise --max-pixels above 200000000"):
        dicom_format().expand(path)
    assert len(dicom_format(max_pixels=300_000_000).expand(path)) == 1


def test_more_pixels_than_are_decoded(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY)
    assert len(dicom_format(max_pixels=4096).expand(path)) == 1
    with pytest.raises(DataError, match="4096 pixels, the limit is 4095"):
        dicom_format(max_pixels=4095).expand(path)
    with pytest.raises(DataError, match="the limit is 4095"):
        load_dicom(path, {"max_pixels": 4095})
    data_set = pydicom.dcmread(path)
    data_set.Rows = data_set.Columns = 65535
    data_set.save_as(tmp_path / "b.dcm")
    with pytest.raises(DataError, match=r"more than it can hold|the limit is 200000000"):
        dicom_format().expand(tmp_path / "b.dcm")


def test_a_deflated_file_that_would_fill_the_memory(write_dicom, tmp_path, monkeypatch):
    data_set = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", np.zeros((1000, 1000), np.uint8)))
    data_set.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data_set.save_as(tmp_path / "a.dcm")
    assert load_dicom(tmp_path / "a.dcm", {}).shape == (1000, 1000, 3)
    monkeypatch.setattr(dicom_header, "MOST_INFLATED", 500_000)
    with pytest.raises(DataError, match="inflates to more than 500,000 bytes"):
        dicom_header.open_data_set(tmp_path / "a.dcm")


def test_ybr_is_made_rgb_some_rows_at_a_time(write_dicom, tmp_path, monkeypatch):
    colours = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    path = write_dicom(tmp_path / "a.dcm", colours, PhotometricInterpretation="YBR_FULL")
    want = pixel_array(path)
    monkeypatch.setattr("vladapt.domains.medical.dicom_pixels.BAND_PIXELS", 100)
    assert np.array_equal(load_dicom(path, {}), want) and not np.array_equal(want, colours)


# Headers of NIfTI


def header_with(offset: int, layout: str, *values) -> bytes:
    content = bytearray(nibabel.Nifti1Image(np.ones((6, 5, 4), np.int16), np.eye(4)).to_bytes())
    struct.pack_into(layout, content, offset, *values)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (header_with(40, "<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1), "a volume of 35181150961663 voxels, the limit is"),
        (header_with(40, "<8h", 3, 500, 500, 500, 1, 1, 1, 1), "claims more voxels than it holds"),
        (header_with(40, "<8h", 4, 6, 5, 4, 32767, 1, 1, 1), "claims more voxels than it holds"),
        (header_with(40, "<8h", 3, -6, 5, 4, 1, 1, 1, 1), "has shape|not a readable NIfTI"),
        (header_with(40, "<8h", 3, 0, 5, 4, 1, 1, 1, 1), "has shape|not a readable NIfTI"),
        (header_with(40, "<h", 0), "has shape"),
        (header_with(108, "<f", 1e9), "claims more voxels than it holds"),
        (header_with(108, "<f", float("nan")), "not a readable NIfTI"),
        (header_with(280, "<12f", *[float("nan")] * 12), "affine"),
        (header_with(280, "<12f", *[0.0] * 12), "affine"),
        (header_with(70, "<h", 9999), "not a readable NIfTI"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_header_is_one_line(tmp_path, content, why, packed):
    import gzip

    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(content) if packed else content)
    fmt = nifti_format()
    started = time.process_time()
    with pytest.raises(DataError) as caught:
        parts = fmt.expand(path)
        fmt.load(path, parts[0])
    assert time.process_time() - started < 5
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text
    if not packed or "claims" not in why:  # of a packed file only the least is known before it is read
        assert any(each in text for each in why.split("|")), text


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_packed_volume_cut_short_is_one_line(write_nifti, tmp_path, share):
    voxels = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    path = write_nifti(tmp_path / "a.nii.gz", voxels)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    fmt = nifti_format()
    with pytest.raises(DataError, match=r"a.nii.gz: "):
        fmt.load(path, fmt.expand(path)[0])


def test_pixels_that_would_be_stretched_without_end_are_refused(write_nifti, tmp_path):
    path = write_nifti(tmp_path / "a.nii", np.arange(120).reshape(6, 5, 4).astype(np.int16), zooms=(1e-9, 1e3, 1))
    with pytest.raises(DataError, match=r"with square pixels .* the limit is 200000000"):
        nifti_format().load(path, nifti_format().expand(path)[0])


def test_the_limit_is_one_of_a_slice_and_ten_times_that_of_a_volume(write_nifti, tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", np.zeros((10, 10, 5), np.int16))
    assert nifti_format(axis="sagittal", max_pixels=50).expand(path)
    with pytest.raises(DataError, match="slices of 100 pixels, the limit is 99"):
        nifti_format(axis="axial", max_pixels=99).expand(path)
    with pytest.raises(DataError, match="a volume of 500 voxels, the limit is 490"):
        nifti_format(axis="sagittal", max_pixels=49).expand(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_volume_too_large_for_memory_gives_the_same_slices(write_nifti, tmp_path, monkeypatch, suffix, dtype):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    voxels = np.random.default_rng(0).normal(500, 100, (12, 10, 8)).astype(dtype)
    path, fmt = write_nifti(tmp_path / f"a{suffix}", voxels), nifti_format()
    whole = [fmt.load(path, part) for part in fmt.expand(path)]
    for name, value in (("LARGE_VOXELS", 100), ("SLAB_VOXELS", 240), ("KEPT_BYTES", 100)):
        monkeypatch.setattr(nifti_slices, name, value)
    again = write_nifti(tmp_path / f"b{suffix}", voxels)
    slices = [fmt.load(again, part) for part in fmt.expand(again)]
    assert all(np.allclose(one, other, atol=0.02) for one, other in zip(whole, slices, strict=True))
    assert len(list((tmp_path / "cache").rglob("*.nii"))) == (suffix == ".nii.gz")
    if dtype is np.float32:
        voxels[3, 3, 7] = np.nan
        with pytest.raises(DataError, match="1 voxels are NaN"):
            fmt.expand(write_nifti(tmp_path / f"c{suffix}", voxels))


def test_a_packed_volume_that_fills_the_disk_is_refused(write_nifti, tmp_path, monkeypatch):
    path, fmt = write_nifti(tmp_path / "a.nii.gz", np.zeros((10, 10, 10), np.int16)), nifti_format()
    monkeypatch.setattr(nifti_slices, "KEPT_BYTES", 100)
    monkeypatch.setattr(nifti_slices, "MOST_UNPACKED", 2000)
    with pytest.raises(DataError, match=r"unpacks to 2,352 bytes, more than 2,000"):
        fmt.load(path, fmt.expand(path)[0])


def test_one_bad_volume_among_good_ones_is_listed(write_nifti, tmp_path):
    for n in range(4):
        voxels = np.random.default_rng(n).integers(0, 99, (6, 5, 4)).astype(np.int16)
        write_nifti(tmp_path / "ab"[n % 2] / f"{n}.nii", voxels)
    (tmp_path / "a" / "bad.nii").write_bytes(header_with(40, "<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1))
    os.mkfifo(tmp_path / "a" / "pipe.nii.gz")
    data = Medical().read(tmp_path)
    assert len({item.source for item in data.items}) == 4
    assert [name for name, _ in data.skipped] == ["a/bad.nii", "a/pipe.nii.gz"]


# Arrays


def npz(path: Path, **arrays) -> Path:
    images = np.zeros((4, 8, 8), np.uint8)
    labels = np.array([[0], [1], [0], [1]])
    np.savez(path, **{"train_images": images, "train_labels": labels, **arrays})
    return path


def claiming(path: Path, shape: str, dtype: str = "|u1", data: bytes = b"") -> Path:
    """A file whose arrays claim a shape and hold little."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("train_images", "train_labels"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)
    return path


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (np.array([[0], [1], [0], [10**9]]), "train_labels reach 1000000000 in 4 rows"),
        (np.array([[0], [1], [0], [2**63]], np.uint64), "train_labels reach 9223372036854775808 in 4 rows"),
        (np.array([0, 1, 0, 1e300]), "train_labels reach"),
        (np.array([0, 1, 0, np.inf]), "whole numbers|reach"),
        (np.array([0, 1, 0, np.nan]), "whole numbers"),
        (np.array([0, 1, 0, -1]), "whole numbers from 0"),
        (np.zeros((4, 0), int), "has shape"),
        (np.zeros((4, 1, 1), int), "has shape"),
        (np.zeros(4, complex), "has shape"),
        (np.array(["a"] * 4), "has shape"),
        (np.array([0, 1, 0, {}], dtype=object), "pickled objects"),
    ],
)
def test_labels_that_are_none_are_one_line(tmp_path, labels, why):
    with pytest.raises(DataError, match=why):
        read_medmnist(npz(tmp_path / "a.npz", train_labels=labels))


@pytest.mark.parametrize("shape", ["(1000000000000, 28, 28)", "(-5, 28, 28)", "(4, 1000000, 1000000)"])
def test_shapes_that_the_file_has_no_bytes_for_are_refused(tmp_path, shape):
    with pytest.raises(DataError, match=r"the file holds .* of them"):
        read_medmnist(claiming(tmp_path / "a.npz", shape))


@pytest.mark.parametrize("shape", ["(1000000000000, 0)", "(4, 0, 0)", "()"])
def test_rows_of_nothing_are_refused(tmp_path, shape):
    with pytest.raises(DataError):
        read_medmnist(claiming(tmp_path / "a.npz", shape))


def test_an_array_that_unpacks_to_very_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("vladapt.core.data.array_files.BOMB_BYTES", 1 << 20)
    np.savez_compressed(
        tmp_path / "a.npz", train_images=np.zeros((2000, 28, 28), np.uint8), train_labels=np.zeros(2000)
    )
    with pytest.raises(DataError, match=r"train_images unpacks to .* \(a bomb\?\)"):
        read_medmnist(tmp_path / "a.npz")


def test_rows_above_the_limit_are_refused(tmp_path):
    with pytest.raises(DataError, match="rows of 64 values, the limit is 63"):
        read_medmnist(npz(tmp_path / "a.npz"), max_pixels=63)
