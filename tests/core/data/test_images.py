"""Every oddity of image files: read rightly, or refused in one line."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data.images import (
    IMAGE,
    decode_image,
    decode_values,
    upright_size,
)
from vladapt.core.errors import DataError

RED = (200, 30, 40)


def noise(height=24, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def refusal(path, decode=None):
    with pytest.raises(DataError) as caught:
        decode_image(path, decode or {})
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_lossless_rgb_comes_back_as_it_was(tmp_path, suffix):
    Image.fromarray(noise()).save(tmp_path / f"a{suffix}")
    pixels = decode_image(tmp_path / f"a{suffix}", {})
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, noise())


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".gif", ".jp2"])
def test_lossy_formats_keep_their_colour(tmp_path, suffix):
    Image.new("RGB", (16, 16), RED).save(tmp_path / f"a{suffix}")
    assert np.abs(decode_image(tmp_path / f"a{suffix}", {}).astype(int) - RED).max() <= 6


def test_cmyk_becomes_the_colour_it_prints(tmp_path):
    Image.new("RGB", (16, 16), RED).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(decode_image(tmp_path / "a.jpg", {}).astype(int) - RED).max() <= 8


def test_palette_colours_are_looked_up(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    image.save(tmp_path / "a.png")
    assert (decode_image(tmp_path / "a.png", {}) == RED).all()


def test_transparent_palette_entry_shows_white(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpixel((0, 0), 0)
    image.putpalette([0, 0, 0, *RED])
    image.save(tmp_path / "a.png", transparency=0)
    pixels = decode_image(tmp_path / "a.png", {})
    assert (pixels[0, 0] == 255).all() and (pixels[1, 1] == RED).all()


@pytest.mark.parametrize("mode, colour", [("RGBA", (*RED, 0)), ("LA", (7, 0))])
def test_fully_transparent_pixels_are_white(tmp_path, mode, colour):
    Image.new(mode, (3, 3), colour).save(tmp_path / "a.png")
    assert (decode_image(tmp_path / "a.png", {}) == 255).all()


def test_half_transparent_pixels_mix_with_white(tmp_path):
    Image.new("RGBA", (3, 3), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert np.abs(decode_image(tmp_path / "a.png", {}).astype(int) - 127).max() <= 1


def test_one_bit_image_is_black_and_white(tmp_path):
    image = Image.new("1", (4, 4), 1)
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png")
    pixels = decode_image(tmp_path / "a.png", {})
    assert (pixels[0, 0] == 0).all() and (pixels[1, 1] == 255).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_scaled_by_its_full_range(tmp_path, suffix):
    values = np.array([[0, 65535], [32768, 1000]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    pixels = decode_image(tmp_path / f"a{suffix}", {})
    assert pixels.dtype == np.float32 and pixels.shape == (2, 2, 3)
    np.testing.assert_allclose(pixels[:, :, 2], values / 65535, atol=1e-6)


def test_big_endian_sixteen_bit_tiff(tmp_path):
    image = Image.frombytes("I;16B", (2, 1), bytes([1, 0, 255, 255]))
    image.save(tmp_path / "a.tif")
    np.testing.assert_allclose(decode_image(tmp_path / "a.tif", {})[0, :, 0], [256 / 65535, 1], atol=1e-6)


def test_integers_beyond_sixteen_bits_use_their_own_range(tmp_path):
    Image.fromarray(np.array([[-100, 0, 99900]], dtype=np.int32)).save(tmp_path / "a.tif")
    np.testing.assert_allclose(decode_image(tmp_path / "a.tif", {})[0, :, 0], [0, 0.001, 1], atol=1e-6)


@pytest.mark.parametrize(
    "values, expected",
    [([0.25, 0.5], [0.25, 0.5]), ([-10.0, 10.0], [0.0, 1.0]), ([5.0, 5.0], [0.0, 0.0])],
)
def test_float_tiff_is_brought_to_the_unit_range(tmp_path, values, expected):
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "a.tif")
    pixels = decode_image(tmp_path / "a.tif", {})
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0, :, 0], expected, atol=1e-6)


def test_float_tiff_with_nan_is_refused(tmp_path):
    Image.fromarray(np.array([[0.5, np.nan]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert "NaN" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise()).save(tmp_path / f"a{suffix}", exif=exif)
    with Image.open(tmp_path / f"a{suffix}") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    pixels = decode_image(tmp_path / f"a{suffix}", {})
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.shape[:2] == ((32, 24) if orientation > 4 else (24, 32))


def test_animated_file_gives_the_first_frame_or_the_one_asked_for(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255)]]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (decode_image(tmp_path / "a.gif", {})[0, 0] == (255, 0, 0)).all()
    assert (decode_image(tmp_path / "a.gif", {"frame": 2})[0, 0] == (0, 0, 255)).all()
    assert "no frame 3" in refusal(tmp_path / "a.gif", {"frame": 3})


def test_a_single_pixel(tmp_path):
    Image.new("RGB", (1, 1), RED).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png", {}), [[RED]])


def test_content_decides_not_the_name(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", tmp_path / "a.jpg")
    np.testing.assert_array_equal(decode_image(tmp_path / "a.jpg", {}), noise())


def test_box_cuts_and_is_clipped(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png", {"box": [2.5, 3, 7.2, 9]}), noise()[3:9, 2:8])
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png", {"box": [-5, -5, 99, 4]}), noise()[:4])
    assert "box" in refusal(tmp_path / "a.png", {"box": [40, 0, 50, 9]})


def test_missing_file(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.png")


def test_zero_byte_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert "0 bytes" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".tif", ".webp", ".bmp"])
def test_truncated_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refusal(path)


def test_text_called_png(tmp_path):
    (tmp_path / "a.png").write_text("these are not pixels\n")
    assert "not an image" in refusal(tmp_path / "a.png")


def test_postscript_is_never_run(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert "not an image" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("limit", [100, 400])  # Pillow warns above its limit and raises above twice that; 768 pixels
def test_decompression_bomb_is_refused_by_its_header(tmp_path, monkeypatch, limit, recwarn):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert "bomb" in refusal(tmp_path / "a.png")
    assert limit == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


def test_suffixes_are_matched_without_regard_to_case(tmp_path):
    assert IMAGE.matches(tmp_path / "A.JPG") and not IMAGE.matches(tmp_path / "notes.txt")
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE.suffixes)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_from_the_header_is_that_of_the_decoded_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise()).save(tmp_path / "a.jpg", exif=exif)
    height, width = decode_image(tmp_path / "a.jpg", {}).shape[:2]
    assert upright_size(tmp_path / "a.jpg") == (width, height)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "I", "F", "RGB", "RGBA"])
def test_masks_give_what_is_stored(tmp_path, mode):
    values = np.array([[0, 1], [1, 0]], np.uint8)
    made = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    if mode in made:
        image = Image.fromarray(values.astype(made[mode]))
    elif mode == "1":
        image = Image.fromarray(values * 255).convert("1")
    elif mode == "P":
        image = Image.fromarray(values)
        image.putpalette([9, 9, 9, 200, 100, 50])
    else:
        image = Image.fromarray(values).convert(mode)
    image.save(tmp_path / "mask.tif")
    assert decode_values(tmp_path / "mask.tif").tolist() == values.tolist()
    if mode == "P":
        assert decode_values(tmp_path / "mask.tif", colours=True)[0].tolist() == [[9, 9, 9], [200, 100, 50]]


def test_masks_that_cannot_hold_class_numbers_are_refused(tmp_path):
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "half.tif")
    with pytest.raises(DataError, match="a mask with fractional values; save whole numbers"):
        decode_values(tmp_path / "half.tif")
    Image.fromarray(noise()).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="a JPEG mask, whose values are blurred"):
        decode_values(tmp_path / "a.jpg")


def test_colours_of_a_mask_stay_colours(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    assert (decode_values(tmp_path / "a.png") == noise()).all()


def test_importing_the_reader_loads_no_torch():
    code = "import sys, vladapt.core.data.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
