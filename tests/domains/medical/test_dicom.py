"""DICOM: measured values, windows, frames, colour, transfer syntaxes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from vladapt.core.data.files import Format
from vladapt.core.errors import DataError
from vladapt.domains.medical.dicom_pixels import load_dicom
from vladapt.domains.medical.formats import dicom_format

RAMP = np.arange(0, 4000, 10, dtype=np.uint16).reshape(20, 20)


def packaged(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"pydicom does not ship {name}")
    return Path(path)


def grey(image):
    assert image.shape[2] == 3 and (image[..., :1] == image).all()
    return image[..., 0]


def test_a_named_window_is_applied_to_hounsfield_units(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, Modality="CT", RescaleSlope=1, RescaleIntercept=-1000)
    hounsfield = RAMP.astype(float) - 1000
    lung = grey(load_dicom(path, {"window": "lung"}))  # centre -600, width 1500
    assert np.allclose(lung, np.clip((hounsfield + 1350) / 1500, 0, 1), atol=1e-5)
    bone = grey(load_dicom(path, {"window": "bone"}))
    assert not np.allclose(lung, bone)


def test_slope_and_intercept_change_what_a_window_shows(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, Modality="CT", RescaleSlope=2, RescaleIntercept=-500)
    shown = grey(load_dicom(path, {"window": "1000,2000"}))
    assert np.allclose(shown, np.clip((RAMP * 2.0 - 500) / 2000, 0, 1), atol=1e-5)


def test_the_files_own_window_is_the_default(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=2000.5, WindowWidth=1001)
    expected = np.clip((RAMP - 1500.0) / 1000, 0, 1)  # PS3.3 C.11.2.1.2.1: (x - (c - 0.5)) / (w - 1) + 0.5
    assert np.allclose(grey(load_dicom(path, {})), expected, atol=1e-5)


def test_of_several_windows_the_first_counts(write_dicom, tmp_path):
    one = write_dicom(tmp_path / "one.dcm", RAMP, WindowCenter=500, WindowWidth=400)
    two = write_dicom(tmp_path / "two.dcm", RAMP, WindowCenter=[500, 3000], WindowWidth=[400, 100])
    assert np.array_equal(load_dicom(one, {}), load_dicom(two, {}))


def test_a_sigmoid_window_is_one(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=2000, WindowWidth=800, VOILUTFunction="SIGMOID")
    assert np.allclose(grey(load_dicom(path, {})), 1 / (1 + np.exp(-4 * (RAMP - 2000.0) / 800)), atol=1e-5)


def test_a_voi_table_is_looked_up(write_dicom, tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor = [4, 0, 8]
    table.LUTData = [0, 255, 51, 102]
    table["LUTData"].VR = "US"
    stored = np.array([[0, 1], [2, 9]], dtype=np.uint16)
    path = write_dicom(tmp_path / "a.dcm", stored, VOILUTSequence=[table])
    assert np.allclose(grey(load_dicom(path, {})), np.array([[0, 255], [51, 102]]) / 255)


def test_without_a_window_the_darkest_and_brightest_half_percent_are_cut(write_dicom, tmp_path):
    spiked = RAMP.copy()
    spiked[0, 0] = 65535
    shown = grey(load_dicom(write_dicom(tmp_path / "a.dcm", spiked), {}))
    assert shown[10, 10] == pytest.approx(spiked[10, 10] / 4000, abs=0.05)
    whole = grey(load_dicom(tmp_path / "a.dcm", {"window": "minmax"}))
    assert whole[10, 10] == pytest.approx(spiked[10, 10] / 65535, abs=1e-3)


def test_padding_outside_the_scanned_field_spoils_no_minimum(write_dicom, tmp_path):
    padded = RAMP.astype(np.int16)
    padded[0, :5] = -32000
    plain = write_dicom(tmp_path / "a.dcm", padded)
    told = write_dicom(tmp_path / "b.dcm", padded, PixelPaddingValue=-32000)
    assert grey(load_dicom(plain, {"window": "minmax"}))[1, 0] > 0.8
    assert grey(load_dicom(told, {"window": "minmax"}))[1, 0] < 0.1


@pytest.mark.parametrize("window", [None, "minmax"])
def test_monochrome1_is_turned_over(write_dicom, tmp_path, window):
    decode = {} if window is None else {"window": window}
    normal = grey(load_dicom(write_dicom(tmp_path / "a.dcm", RAMP), decode))
    turned = write_dicom(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")
    assert np.allclose(grey(load_dicom(turned, decode)), 1 - normal, atol=1e-6)


def test_eight_bit_grey_and_colour_stay_eight_bit(write_dicom, tmp_path):
    small = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(grey(load_dicom(write_dicom(tmp_path / "a.dcm", small), {})), small)
    inverse = write_dicom(tmp_path / "b.dcm", small, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(grey(load_dicom(inverse, {})), 255 - small)
    colour = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    assert np.array_equal(load_dicom(write_dicom(tmp_path / "c.dcm", colour), {}), colour)
    deep = colour.astype(np.uint16) * 257
    shown = load_dicom(write_dicom(tmp_path / "d.dcm", deep), {})
    assert shown.dtype == np.float32 and np.allclose(shown, colour / 255, atol=1e-6)


def test_every_frame_is_a_sample(write_dicom, tmp_path):
    frames = np.stack([np.full((4, 4), v, dtype=np.uint8) for v in (10, 20, 30)])
    path = write_dicom(tmp_path / "a.dcm", frames)
    fmt = dicom_format()
    assert fmt.expand(path) == [{"frame": 0}, {"frame": 1}, {"frame": 2}]
    assert [int(fmt.load(path, d)[0, 0, 0]) for d in fmt.expand(path)] == [10, 20, 30]
    with pytest.raises(DataError, match="no frame 3, only 0 to 2"):
        fmt.load(path, {"frame": 3})


def test_enhanced_files_have_a_window_for_each_frame(write_dicom, tmp_path):
    def group(centre, slope):
        voi, rescale, frame = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 1001
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = slope, 0, "US"
        frame.FrameVOILUTSequence, frame.PixelValueTransformationSequence = [voi], [rescale]
        return frame

    frames = np.stack([RAMP, RAMP])
    path = write_dicom(
        tmp_path / "a.dcm", frames, PerFrameFunctionalGroupsSequence=[group(1000.5, 1), group(1000.5, 0.5)]
    )
    first, second = (grey(load_dicom(path, {"frame": i})) for i in (0, 1))
    assert np.allclose(first, np.clip((RAMP - 500.0) / 1000, 0, 1), atol=1e-5)
    assert np.allclose(second, np.clip((RAMP * 0.5 - 500.0) / 1000, 0, 1), atol=1e-5)


def test_the_window_option_is_part_of_what_is_decoded(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, Modality="CT")
    assert dicom_format().expand(path) == [{}]
    assert dicom_format("lung").expand(path) == [{"window": "lung"}]


def test_a_window_in_hounsfield_units_is_refused_on_other_images(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, Modality="MR")
    with pytest.raises(DataError, match=r"a.dcm: window 'lung' is in Hounsfield units, but this is not a CT"):
        load_dicom(path, {"window": "lung"})
    assert load_dicom(path, {"window": "100,50"}).shape == (20, 20, 3)


def test_files_without_pixels_are_refused(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", Modality="SR")
    for attempt in (lambda: dicom_format().expand(path), lambda: load_dicom(path, {})):
        with pytest.raises(DataError, match=r"a.dcm: DICOM without pixels"):
            attempt()


@pytest.mark.parametrize("content", [b"", b"hello, I am text", b"\0" * 128 + b"DICM" + b"\x07" * 50])
def test_what_is_no_dicom_gets_one_line(tmp_path, content):
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.dcm: "):
        dicom_format().expand(path)


def test_a_file_cut_short_gets_one_line(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"a\.dcm: pixels cannot be decoded, the file is cut short"):
        load_dicom(path, {})


def test_files_are_recognised_without_a_suffix(write_dicom, tmp_path):
    fmt = dicom_format()
    for name in ("IM0001", "1.2.840.113619.2", "scan.DCM"):
        assert Format.of(write_dicom(tmp_path / name, RAMP), [fmt]) is fmt
    (tmp_path / "notes").write_text("nothing")
    assert Format.of(tmp_path / "notes", [fmt]) is None
    assert Format.of(write_dicom(tmp_path / "DICOMDIR", RAMP), [fmt]) is None


@pytest.mark.parametrize("variant", ["", "_RLE", "_bigendian", "_implicit", "_jp2klossless", "_jpeg_ls_lossless"])
def test_lossless_transfer_syntaxes_show_the_same_picture(variant):
    expected = load_dicom(packaged("MR_small_expb.dcm"), {})
    assert np.array_equal(load_dicom(packaged(f"MR_small{variant}.dcm"), {}), expected)


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_rle.dcm", "SC_rgb_gdcm_KY.dcm", "SC_ybr_full_422_uncompressed.dcm"]
)
def test_colour_is_rgb_however_it_is_stored(name):
    expected = load_dicom(packaged("SC_rgb_rle.dcm"), {}).astype(int)
    shown = load_dicom(packaged(name), {})
    assert shown.dtype == np.uint8 and np.abs(shown.astype(int) - expected).mean() < 4


def test_palette_colour_is_looked_up():
    shown = load_dicom(packaged("examples_palette.dcm"), {})
    assert shown.shape == (350, 800, 3) and 0.9 < shown.max() <= 1.0
    assert np.abs(shown[..., 0] - shown[..., 2]).max() > 0.1  # it is in colour


def test_deflated_files_are_read():
    assert load_dicom(packaged("image_dfl.dcm"), {}).shape == (512, 512, 3)


def test_a_patient_is_a_hash_the_same_for_all_their_files(write_dicom, tmp_path):
    group = partial(dicom_format().group, name="")
    a, b, c = (write_dicom(tmp_path / f"{i}.dcm", RAMP, PatientID=p) for i, p in enumerate(["P-17", "P-17", "P-18"]))
    assert group(a) == group(b) != group(c)
    assert "P-17" not in group(a)
    nameless = write_dicom(tmp_path / "n.dcm", RAMP, PatientID="ANONYMOUS", StudyInstanceUID="1.2.3")
    other = write_dicom(tmp_path / "o.dcm", RAMP, PatientID="ANONYMOUS", StudyInstanceUID="1.2.4")
    assert group(nameless) != group(other)  # a placeholder is nobody's id
    assert group(write_dicom(tmp_path / "z.dcm", RAMP)) is None


def test_a_changed_file_is_read_anew(write_dicom, tmp_path):
    group = partial(dicom_format().group, name="")
    before = group(write_dicom(tmp_path / "a.dcm", RAMP, PatientID="one"))
    assert group(write_dicom(tmp_path / "a.dcm", RAMP, PatientID="someone else")) != before
