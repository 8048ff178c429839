"""Image files: every mode and depth Pillow reads, brought to (H, W, 3), upright; what is not a valid image is refused.

* Transparent pixels are laid over white, as viewers show them: the colour hidden under them means nothing.
* 16-bit grey is divided by 65535. 32-bit integers too, unless they leave 0..65535: then their own minimum and maximum
  become 0 and 1. Floats in 0..1 stay, others are brought there by minimum and maximum.
* 16-bit RGB is read at 8 bits, which is all Pillow keeps of it.
* Animated files and multi-page TIFFs give the frame `decode["frame"]`, by default the first.
* `decode["box"]` = [x0, y0, x1, y1], in pixels of the upright image, cuts out a part.
* `decode["least_side"]` = n lets a decoder that can (of JPEG) reduce an image whose shortest side stays n or more.
* The content decides about the format, not the name: a PNG called .jpg is read.
* An image of more pixels than `decode["max_pixels"]` (`Item.MAX_PIXELS` by default) is refused by its header. Reading
  one takes less than 4 times its decoded size plus 300 MB.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..contracts.items import Decoded, Item
from ..errors import DataError, LimitError, shortened
from ..runtime.reading import check_regular, open_regular, read_start
from .files import Format

# Formats that Pillow decodes itself. The others it knows include some that start a program (EPS) or have weak marks.
PILLOW_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000")

PILLOW_LIMIT = 1024 * 1024 * 1024 // 4 // 3
"""Pixels of Pillow's own limit, which a program may have set lower for all that it reads: that counts too."""
LARGE = threading.Lock()
LONGEST_SIDE = 1_000_000
"""Pixels; Pillow keeps an address of each row, which costs more than the pixels of a line one pixel wide."""
MOST_HEADER_BYTES = 1 << 16
"""Of a PPM file before its pixels: Pillow reads them one by one, those of comments too."""
PPM_COMMENT = re.compile(rb"#[^\r\n]*")
NO_WARNING = ("ignore", None, Image.DecompressionBombWarning, None, 0)
"""As `warnings.filters` holds it."""
BAND_PIXELS = 4 << 20
"""Of a larger image these many are turned into an array at once, so that no second copy of it is made."""

LEAST_SIDE = "least_side"
"""Key of `decode`."""
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
"""What the tag says -> what makes an array (H, W, ...) upright."""


def decode_image(path: str | Path, decode: dict[str, Any]) -> Decoded:
    """The pixels of an image file.

    Args:
        path: the file.
        decode: "frame" (index), "box" ([x0, y0, x1, y1]), "max_pixels" and "least_side", all optional; of an image that
            is a part of the file, as in a tar, its first byte "offset", and "size" in bytes.

    Returns:
        (H, W, 3) uint8, or float32 in 0..1 where the source is deeper than 8 bits.

    Raises:
        DataError: no such file, or it is empty, cut short, no image, or a decompression bomb; or it lacks the frame
            or the box that is asked for.
    """
    path = Path(path)
    if "offset" in decode:
        return decode_bytes(
            read_span(path, decode["offset"], decode.get("size")), f"{path} at byte {decode['offset']}", decode
        )
    return _decode(path, path, check_regular(path), decode)


def read_span(path: str | Path, offset: int | None, size: int | None) -> bytes:
    """A file, or the bytes of it from one place on. Nothing stays open, so that workers may be forked.

    Raises:
        DataError: it cannot be read, or ends before.
    """
    try:
        with open_regular(Path(path)) as file:
            file.seek(offset or 0)
            data = file.read() if size is None else file.read(size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if size is not None and len(data) < size:
        raise DataError(f"{path}: cut short, {size} bytes from byte {offset} on are missing; replace it")
    return data


def decode_bytes(data: bytes, name: str, decode: dict[str, Any] | None = None) -> Decoded:
    """The pixels of an encoded image in memory, by the same rules.

    Args:
        data: what would be in the file.
        name: for messages.
        decode: as of `decode_image`.

    Raises:
        DataError: as `decode_image`.
    """
    return _decode(io.BytesIO(data), name, len(data), decode or {})


def decode_picture(data: bytes, name: str, max_pixels: int = Item.MAX_PIXELS) -> Image.Image | Decoded:
    """The pixels of an encoded image in memory, as Pillow's image where that is RGB and upright already: a transform
    that works on these is spared two copies of all pixels. Else as `decode_bytes` has them.

    Args:
        data: what would be in the file.
        name: for messages.
        max_pixels: a larger one is refused.

    Raises:
        DataError: as `decode_image`.
    """
    with _opened(io.BytesIO(data), name, len(data)) as image:
        _check_pixel_count(image, name, max_pixels)
        image.load()
        if image.mode == "RGB" and not image.has_transparency_data and _turn(image) is None:
            return image
        return _upright(_to_array(image, name), image)


def reduced_image(path: str | Path, side: int, max_pixels: int = Item.MAX_PIXELS) -> tuple[Decoded, tuple[int, int]]:
    """An image file at a fraction of its size where its format decodes that for less, as JPEG does; else whole.

    Args:
        path: the file.
        side: shortest side in pixels that is enough.
        max_pixels: a larger one is refused.

    Returns:
        Pixels (H, W, 3) as of `decode_image`, and the height and width of the whole image.

    Raises:
        DataError: as `decode_image`.
    """
    path = Path(path)
    with _opened(path, path, check_regular(path)) as image:
        _check_pixel_count(image, path, max_pixels)
        size = (image.height, image.width)
        image.draft(None, (side, side))
        image.load()
        return _upright(_to_array(image, path), image), size


def upright_size(source: str | Path | bytes, max_pixels: int = Item.MAX_PIXELS, name: str = "") -> tuple[int, int]:
    """(width, height) of an image turned upright; only its header is read.

    Args:
        source: a file, or what would be in it.
        name: of the latter, for messages.

    Raises:
        DataError: no such file, or it is empty, no image, or larger than `max_pixels`.
    """
    if isinstance(source, bytes):
        opened = _opened(io.BytesIO(source), name, len(source))
    else:
        opened = _opened(Path(source), Path(source), check_regular(Path(source)))
        name = str(source)
    with opened as image:
        _check_pixel_count(image, name, max_pixels)
        turned = image.getexif().get(ORIENTATION_TAG, 1) > 4
        return (image.height, image.width) if turned else (image.width, image.height)


def decode_values(path: str | Path, colours: bool = False, max_pixels: int = Item.MAX_PIXELS) -> np.ndarray:
    """What a mask file stores, upright and at full depth: nothing is scaled, and no palette applied but for `colours`.

    Args:
        path: the file.
        colours: give the colours that are seen, whatever is stored.
        max_pixels: a larger one is refused.

    Returns:
        (H, W) integers: palette indices or grey values; or (H, W, 3) uint8 with `colours`, or where the file stores
        colours that are not all grey.

    Raises:
        DataError: as `decode_image`; or the file is a JPEG, whose values are blurred, or stores fractions.
    """
    path = Path(path)
    with _opened(path, path, check_regular(path)) as image:
        if image.format in ("JPEG", "MPO", "JPEG2000"):
            raise DataError(f"{path}: a {image.format} mask, whose values are blurred; save masks as PNG")
        _check_pixel_count(image, path, max_pixels)
        image.load()
        return _upright(_rgb(image) if colours else _stored(image, path), image)


def _stored(image: Image.Image, name: Path) -> np.ndarray:
    if image.mode in ("P", "L", "1") or image.mode.startswith("I"):
        return np.asarray(image).astype(np.int32)  # (H, W)
    if image.mode in ("LA", "PA"):
        return np.asarray(image.getchannel(0)).astype(np.int32)
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            raise DataError(f"{name}: a mask with fractional values; save whole numbers, one per class")
        return values.astype(np.int32)
    colours = _rgb(image)
    grey = (colours[..., :1] == colours).all()
    return colours[..., 0].astype(np.int32) if grey else colours


def _decode(source: Path | io.BytesIO, name: str | Path, size: int, decode: dict[str, Any]) -> Decoded:
    with _opened(source, name, size) as image:
        _seek(image, int(decode.get("frame", 0)), name)
        _check_pixel_count(image, name, int(decode.get("max_pixels", Item.MAX_PIXELS)))
        if LEAST_SIDE in decode and "box" not in decode:
            image.draft(None, (int(decode[LEAST_SIDE]),) * 2)
        image.load()
        pixels = _upright(_to_array(image, name), image)
    return _cut(pixels, decode["box"], name) if "box" in decode else pixels


@contextmanager
def _opened(source: Path | io.BytesIO, name: str | Path, size: int) -> Iterator[Image.Image]:
    """The open image; what a damaged file makes a decoder raise while it is used becomes a DataError."""
    if size == 0:
        raise DataError(f"{name}: empty file (0 bytes); replace it or leave it out")
    try:
        with _open(source, name) as image:
            yield image
    except DataError:
        raise
    except MemoryError:
        raise LimitError(f"{name}: needs more memory than there is; cut it into tiles or leave it out") from None
    except Exception as error:  # damaged files make decoders raise nearly anything
        reason = shortened(" ".join(str(error).split()) or type(error).__name__, 200)
        raise DataError(f"{name}: damaged image ({reason}); replace it or leave it out") from error


def _open(source: Path | io.BytesIO, name: str | Path) -> Image.Image:
    """The image, header read only. Pillow's own warning about its size is replaced by `_check_pixel_count`."""
    if warnings.filters[:1] != [NO_WARNING]:  # not `catch_warnings`: other threads open images meanwhile
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    _check_ppm_header(source, name)
    try:
        try:
            return Image.open(source, formats=_formats())
        except Image.DecompressionBombError:
            return _open_large(source)
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image, despite its name; replace it or leave it out") from error


def _check_ppm_header(source: Path | io.BytesIO, name: str | Path) -> None:
    start = source.getvalue()[:MOST_HEADER_BYTES] if isinstance(source, io.BytesIO) else read_start(source, 2)
    if start[:1] != b"P" or len(start) < 2:
        return
    if isinstance(source, Path):
        start = read_start(source, MOST_HEADER_BYTES)
    words = 3 if start[1:2] in b"14" else 4  # the mark, width, height, and but for bitmaps the largest value
    if len(start) == MOST_HEADER_BYTES and len(PPM_COMMENT.sub(b"", start).split(maxsplit=words)) < words:
        raise DataError(f"{name}: a PPM header longer than {MOST_HEADER_BYTES:,} bytes; replace it or leave it out")


def _open_large(source: Path | io.BytesIO) -> Image.Image:
    """An image above twice Pillow's limit, which is the same for the whole process."""
    with LARGE:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(source, formats=_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in PILLOW_FORMATS if name in Image.OPEN)


def _check_pixel_count(image: Image.Image, name: str | Path, limit: int) -> None:
    limit, cure = Item.decoder_limit(image.format, limit)
    if Image.MAX_IMAGE_PIXELS not in (None, PILLOW_LIMIT):
        limit = min(limit, Image.MAX_IMAGE_PIXELS)
    if image.width * image.height > limit:
        raise LimitError.too_large(f"{name}: {image.format} of {image.width} x {image.height} pixels", limit, cure)
    if max(image.size) > LONGEST_SIDE:
        size = f"{image.width} x {image.height} pixels"
        raise LimitError(f"{name}: {size}, a side may have {LONGEST_SIDE:,} at most; cut it into tiles")


def _seek(image: Image.Image, frame: int, name: str | Path) -> None:
    if frame == 0:
        return
    try:
        image.seek(frame)
    except EOFError as error:
        raise DataError(f"{name}: has no frame {frame}; correct the frame") from error


def _upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """The image's pixels turned as its tag says."""
    turn = _turn(image)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _turn(image: Image.Image) -> Callable[[np.ndarray], np.ndarray] | None:
    return UPRIGHT.get(image.getexif().get(ORIENTATION_TAG))


def _to_array(image: Image.Image, name: str | Path) -> Decoded:
    if image.mode == "F" or image.mode.startswith("I"):
        grey = _unit_range(np.asarray(image), name)  # (H, W)
        return np.repeat(grey[:, :, None], 3, axis=2)  # (H, W, 3)
    return _rgb(image, on_white=image.has_transparency_data)


def _rgb(image: Image.Image, on_white: bool = False) -> np.ndarray:
    """(H, W, 3) uint8, filled some rows at a time.

    Args:
        on_white: lay transparent pixels over white.
    """
    width, height = image.size
    rows = max(1, BAND_PIXELS // max(1, width))
    if height <= rows:
        return np.array(_flat(image, on_white))
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        pixels[top:bottom] = np.asarray(_flat(image.crop((0, top, width, bottom)), on_white))
    return pixels


def _flat(image: Image.Image, on_white: bool) -> Image.Image:
    if not on_white:
        return image if image.mode == "RGB" else image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


def _unit_range(values: np.ndarray, name: str | Path) -> np.ndarray:
    """float32 in 0..1, see the module's docstring."""
    if not np.isfinite(values).all():
        raise DataError(f"{name}: holds NaN or infinity; replace it or leave it out")
    low, high = float(values.min()), float(values.max())
    full = 1.0 if values.dtype.kind == "f" else 65535.0
    if low < 0 or high > full:
        low, full = low, high - low
        return ((values.astype(np.float64) - low) / (full or 1.0)).astype(np.float32)
    return (values / full).astype(np.float32)


def _cut(pixels: Decoded, box: list[float], name: str | Path) -> Decoded:
    height, width = pixels.shape[:2]
    x0, y0 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x1, y1 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    if x0 >= x1 or y0 >= y1:
        raise DataError(f"{name}: box {list(box)} lies outside its {width} x {height} pixels; correct the box")
    return np.ascontiguousarray(pixels[y0:y1, x0:x1])


def _header_size(path: Path, decode: dict[str, Any]) -> tuple[int, int]:
    return upright_size(path, int(decode.get("max_pixels", Item.MAX_PIXELS)))


class PictureFormat(Format):
    """Images that Pillow opens, of which more can be read than their pixels from a file."""

    from_bytes = staticmethod(decode_bytes)
    values = staticmethod(decode_values)


IMAGE = PictureFormat(
    name="image",
    suffixes=(
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".webp", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"),
    ),
    load=decode_image,
    size=_header_size,
)
