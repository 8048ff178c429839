"""Images that are larger, longer or slower than a reader should take, and what reading costs."""

import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from vladapt.core.contracts.items import Item
from vladapt.core.data import images
from vladapt.core.data.detect import read_any
from vladapt.core.data.images import (
    decode_bytes,
    decode_image,
    decode_values,
    upright_size,
)
from vladapt.core.errors import DataError

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def refusal(path, decode=None):
    with pytest.raises(DataError) as caught:
        decode_image(path, decode or {})
    assert str(path) in str(caught.value)
    return str(caught.value)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(14143, 14143), (50_000, 50_000), (2**31 - 1, 1)])
def test_more_than_200_million_pixels_are_refused_before_decoding(tmp_path, size, recwarn):
    (tmp_path / "a.png").write_bytes(png_header(*size))
    for read in (decode_image, upright_size, decode_values):
        with pytest.raises(
            DataError, match=rf"a.png: PNG of {size[0]} x {size[1]} pixels, the limit is 200000000"
        ) as caught:
            read(tmp_path / "a.png", *([{}] if read is decode_image else []))
        assert "--max-pixels" in str(caught.value)
    assert not recwarn.list


def test_up_to_200_million_pixels_are_decoded_whatever_pillow_says(tmp_path):
    side = 14_000  # above twice Pillow's own limit
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "a.bmp").write_bytes(header)
    limit = Image.MAX_IMAGE_PIXELS
    assert upright_size(tmp_path / "a.bmp") == (side, side)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_may_be_another(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    pixels = NOISE.shape[0] * NOISE.shape[1]
    assert "the limit is 100 " in refusal(tmp_path / "a.png", {"max_pixels": 100})
    assert decode_image(tmp_path / "a.png", {"max_pixels": pixels}).shape == NOISE.shape
    data = (tmp_path / "a.png").read_bytes()
    with pytest.raises(DataError, match=r"x: PNG of .* the limit is 100"):
        decode_bytes(data, "x", {"max_pixels": 100})


def test_the_limit_is_an_option_of_the_reader(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for n in range(3):
            Image.fromarray(NOISE).save(tmp_path / name / f"{n}.png")
    data = read_any(tmp_path, max_pixels="1e2")
    with pytest.raises(DataError, match="the limit is 100"):
        data.load(data.items[0])
    assert read_any(tmp_path).load(data.items[0]).shape == NOISE.shape


def test_a_decoder_that_takes_more_memory_has_a_lower_limit(tmp_path, monkeypatch):
    Image.fromarray(NOISE).save(tmp_path / "a.webp")
    monkeypatch.setitem(Item.DECODER_LIMITS, "WEBP", 100)
    assert "the limit is 100 " in refusal(tmp_path / "a.webp")
    assert decode_image(tmp_path / "a.webp", {"max_pixels": Item.MAX_PIXELS + 1}).shape == NOISE.shape


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_rows_at_a_time_give_the_same_pixels(tmp_path, monkeypatch, mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.tif"
    Image.fromarray(np.tile(NOISE, (2, 1, 1))[:40, :30]).convert(mode).save(path, exif=exif)
    whole = decode_image(path, {})
    monkeypatch.setattr(images, "BAND_PIXELS", 100)
    np.testing.assert_array_equal(decode_image(path, {}), whole)


# `ru_maxrss` would count the process that forked it
MEASURE = """
import re, sys
from pathlib import Path
from vladapt.core.data.images import decode_image
pixels = decode_image(sys.argv[1], {})
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(pixels.nbytes, int(peak) * 1024)
"""


@pytest.mark.thorough(but=(".jpg", ".png-I"))
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for the peak")
@pytest.mark.parametrize(("suffix", "mode"), [(".jpg", "RGB"), (".png", "RGBA"), (".png", "I;16"), (".tif", "F")])
def test_peak_memory_is_less_than_four_times_the_pixels_and_300_mb(tmp_path, suffix, mode):
    side = 6000 if mode.startswith("RGB") else 4000
    grey = np.add.outer(np.arange(side) % 251, np.arange(side) % 241)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    if mode.startswith("RGB"):
        image = Image.fromarray(grey.astype(np.uint8)).convert(mode)
    else:
        image = Image.fromarray(grey.astype(np.uint16 if mode == "I;16" else np.float32))
    image.save(tmp_path / f"a{suffix}", exif=exif, **({"compress_level": 1} if suffix == ".png" else {}))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / f"a{suffix}")]
    measured = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True)
    decoded, peak = map(int, measured.stdout.split())
    assert decoded >= 3 * side * side and peak < 4 * decoded + 300e6


def test_a_line_of_pixels_longer_than_a_million_is_refused(tmp_path):
    size = struct.pack(">IIBBBBB", 1, 150_000_000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 100) + b"IDAT" + bytes(104))
    assert "a side may have 1,000,000 at most" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("start", [b"P6\n#", b"P5 10\n#", b"P4 " + b" " * 100_000, b"P6 10 10 " + b"# x\n" * 30_000])
def test_a_ppm_header_without_end_is_refused_at_once(tmp_path, start):
    (tmp_path / "a.ppm").write_bytes(start + b"x" * 50_000_000)
    started = time.monotonic()
    assert "a PPM header longer than 65,536 bytes" in refusal(tmp_path / "a.ppm")
    with pytest.raises(DataError, match="a PPM header longer"):
        decode_bytes((tmp_path / "a.ppm").read_bytes(), "x")
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_ppm_whose_pixels_are_all_white_space_is_read(tmp_path, mode):
    size = 80_000 if mode == "1" else 640_000 * len(mode)
    Image.frombytes(mode, (800, 800), b" " * size).save(tmp_path / "a.ppm")
    assert decode_image(tmp_path / "a.ppm", {}).shape == (800, 800, 3)


def test_threads_that_open_large_images_print_no_warning(tmp_path, monkeypatch):
    Image.new("L", (400, 300)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("always")
        for future in [pool.submit(images.upright_size, tmp_path / "a.png", 100) for _ in range(300)]:
            with pytest.raises(DataError):
                future.result()
    assert not caught


@pytest.mark.parametrize("kind", ["RGB", "L", "RGBA", "turned"])
def test_a_picture_has_the_pixels_of_the_array(kind):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8))
    image = image if kind == "turned" else image.convert(kind)
    if kind == "RGBA":
        image.putalpha(100)
    tags = Image.Exif()
    tags[0x0112] = 6 if kind == "turned" else 1
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=tags)
    picture = images.decode_picture(buffer.getvalue(), "a.png")
    assert isinstance(picture, Image.Image) == (kind == "RGB")
    assert np.array_equal(np.asarray(picture), images.decode_bytes(buffer.getvalue(), "a.png"))
    with pytest.raises(DataError, match="the limit is 10"):
        images.decode_picture(buffer.getvalue(), "a.png", max_pixels=10)
