"""The pixels of one DICOM frame: decoded, brought to measured values, windowed, as (H, W, 3).

The order is the standard's (PS3.3 C.11): modality LUT or rescale slope and intercept, then the VOI LUT or window, then
MONOCHROME1 turned over, so that bright is always bright.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, convert_color_space, pixel_array

from ...core.contracts import Decoded, Item
from ...core.errors import DataError, LimitError
from .dicom_header import DicomHeader, hush_pydicom, open_data_set, read_header
from .guarded_decoder import NotDecoded, decode_guarded
from .intensity import MINMAX, is_preset, robust_range, scale_to_unit, to_rgb, window_range

BAND_PIXELS = 4 << 20
"""Of colours these many are converted at once."""
PALETTE = [
    f"{prefix}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for prefix, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
WANTED_TAGS = [
    tag_for_keyword(keyword)
    for keyword in (
        "Modality", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "VOILUTSequence",
        "VOILUTFunction", "WindowCenter", "WindowWidth", "PixelPaddingValue", "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence", *PALETTE,
    )
]  # fmt: skip
GROUP_MACROS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}


def load_dicom(path: str | Path, decode: dict[str, Any]) -> Decoded:
    """One frame of a DICOM file.

    Args:
        path: the file.
        decode: "frame" (index, default 0) and "window" (as `check_window` gives it; default: what the file says).

    Returns:
        (H, W, 3): uint8 for 8-bit colour and 8-bit grey without a window, else float32 in 0..1.

    Raises:
        DataError: not a DICOM file, no pixels, a frame that is not there, pixels that cannot be decoded, NaN, or a
            window in Hounsfield units on something else than CT.
    """
    path, frame, window = Path(path), int(decode.get("frame", 0)), decode.get("window")
    stored, data_set = _stored_frame(path, frame, int(decode.get("max_pixels", Item.MAX_PIXELS)))
    if window is not None and is_preset(window) and not _in_hounsfield(data_set):
        raise not_in_hounsfield(path, window, read_header(path).modality)
    try:
        if stored.ndim == 3:
            rgb = stored[..., :3]
            if rgb.dtype == np.uint8:
                return np.ascontiguousarray(rgb)
            return np.ascontiguousarray(rgb / float(2 ** int(data_set.BitsStored) - 1), dtype=np.float32)
        if data_set.get("PhotometricInterpretation") == "PALETTE COLOR":
            return _palette_colour(stored, data_set)
        _use_frame_groups(data_set, frame)
        return _grey(path, stored, data_set, window)  # (H, W, 3)
    except DataError:
        raise
    except Exception as error:  # values converted at first use; their text may be personal and is not shown
        raise _damaged_header(path, error) from None


def measured_frame(path: Path, frame: int = 0, max_pixels: int = Item.MAX_PIXELS) -> np.ndarray:
    """(H, W) float32, the measured values of one frame (Hounsfield units of a CT): no window, nothing turned over.

    Raises:
        DataError: as `load_dicom`, or a colour image.
    """
    stored, data_set = _stored_frame(path, frame, max_pixels)
    if stored.ndim == 3 or data_set.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise DataError(f"{path}: an image in colour, and no slice of a volume; remove it from the series")
    try:
        _use_frame_groups(data_set, frame)
        return _measured(path, stored, data_set).astype(np.float32, copy=False)
    except DataError:
        raise
    except Exception as error:
        raise _damaged_header(path, error) from None


def shown_range(path: Path, frame: int = 0) -> tuple[tuple[float, float] | None, bool]:
    """The measured values that become 0 and 1 by the window of the header, None where it has no linear one; and whether
    bright is shown dark (MONOCHROME1)."""
    data_set = open_data_set(path, stop_before_pixels=True, specific_tags=[*WANTED_TAGS, "PhotometricInterpretation"])
    try:
        _use_frame_groups(data_set, frame)
        curved = data_set.get("VOILUTSequence") or _voi_function(data_set) == "SIGMOID"
        is_inverse = data_set.get("PhotometricInterpretation") == "MONOCHROME1"
        return (None if curved else _own_range(data_set)), is_inverse
    except Exception as error:
        raise _damaged_header(path, error) from None


def not_in_hounsfield(path: Path, window: str, modality: str) -> DataError:
    """Of a preset for computed tomography, and an image of another modality."""
    unit = f"window '{window}' is in Hounsfield units, but this is not a CT image ({modality})"
    return DataError(f'{path}: {unit}; give window="centre,width" or "minmax"')


def check_size(path: Path, header: DicomHeader, max_pixels: int) -> None:
    """Raise the DataError of a file without images, or with larger ones than are decoded."""
    if header.frames == 0:
        raise DataError(f"{path}: DICOM without pixels (a structured report, a plan, ...); remove it")
    limit, cure = Item.decoder_limit("JPEG2000" if header.is_jpeg2000_colour else "", max_pixels)
    if header.pixels > limit:
        raise LimitError.too_large(f"{path}: {header.pixels} pixels", limit, cure)


def _damaged_header(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged DICOM header ({type(error).__name__}); replace or remove it")


def _stored_frame(path: Path, frame: int, max_pixels: int) -> tuple[np.ndarray, Dataset]:
    """As `_decode`, of a frame that is there and not too large."""
    header = read_header(path)
    check_size(path, header, max_pixels)
    if not 0 <= frame < header.frames:
        raise DataError(f"{path}: has no frame {frame}, only 0 to {header.frames - 1}; correct the frame")
    return _decode(path, frame, header)


def _decode(path: Path, frame: int, header: DicomHeader) -> tuple[np.ndarray, Dataset]:
    """Stored values (H, W) or (H, W, 3), colour already RGB, and the part of the header that says what they mean."""
    hush_pydicom()
    try:
        if header.is_encapsulated and not header.is_whole_read:
            return decode_guarded(path, frame, header.pixels), open_data_set(path, stop_before_pixels=True)
        if header.is_whole_read:
            data_set = open_data_set(path)
            stored = pixel_array(data_set, index=frame, raw=True)
        else:
            data_set = Dataset()
            stored = pixel_array(path, ds_out=data_set, specific_tags=WANTED_TAGS, index=frame, raw=True)
        return _as_rgb(stored, str(data_set.get("PhotometricInterpretation") or "")), data_set
    except DataError:
        raise
    except NotDecoded as error:
        kind = LimitError if error.is_of_now else DataError
        raise kind(f"{path}: pixels cannot be decoded, {_syntax(path)} ({error})") from None
    except Exception as error:
        raise DataError(f"{path}: pixels cannot be decoded, {_syntax(path)} ({type(error).__name__})") from None


def _as_rgb(stored: np.ndarray, interpretation: str) -> np.ndarray:
    """YBR made RGB in place, some rows at a time: pydicom's conversion takes ten times the memory of what it gets."""
    if interpretation not in ("YBR_FULL", "YBR_FULL_422") or stored.ndim != 3 or stored.shape[-1] != 3:
        return stored
    rows = max(1, BAND_PIXELS // stored.shape[1])
    for top in range(0, len(stored), rows):
        stored[top : top + rows] = convert_color_space(stored[top : top + rows], interpretation, "RGB")
    return stored


def _syntax(path: Path) -> str:
    meta = open_data_set(path, stop_before_pixels=True, specific_tags=["Rows"]).file_meta
    uid = meta.get("TransferSyntaxUID")
    if uid is None or not uid.is_transfer_syntax or uid.is_private:
        return "their encoding is unknown"
    if uid.is_compressed:
        return f"encoded as {uid.name}: the file is damaged, or no installed decoder reads it; store it uncompressed"
    return "the file is cut short or damaged"


def _in_hounsfield(data_set: Dataset) -> bool:
    return data_set.get("Modality") in ("CT", None, "") or data_set.get("RescaleType") == "HU"


def _palette_colour(stored: np.ndarray, data_set: Dataset) -> Decoded:
    rgb = apply_color_lut(stored, data_set)[..., :3]  # (H, W, 3), uint8 or uint16
    if rgb.dtype == np.uint8 or rgb.max(initial=0) <= 255:  # tables of 8-bit entries may be stored in 16 bits
        return np.ascontiguousarray(rgb, dtype=np.uint8)
    return np.ascontiguousarray(rgb / 65535.0, dtype=np.float32)


def _use_frame_groups(data_set: Dataset, frame: int) -> None:
    """Enhanced multi-frame files keep rescale and window in functional groups: bring those of `frame` to the top."""
    groups = list(data_set.get("SharedFunctionalGroupsSequence") or [])
    per_frame = data_set.get("PerFrameFunctionalGroupsSequence") or []
    groups += [per_frame[frame]] if frame < len(per_frame) else []
    for group in groups:
        for macro, keywords in GROUP_MACROS.items():
            for item in group.get(macro) or []:
                for keyword in keywords:
                    if keyword in item:
                        setattr(data_set, keyword, item[keyword].value)


def _grey(path: Path, stored: np.ndarray, data_set: Dataset, window: str | None) -> Decoded:
    values = _measured(path, stored, data_set)
    is_inverse = data_set.get("PhotometricInterpretation") == "MONOCHROME1"
    if window is None and _is_plain_8_bit(stored, values, data_set):
        return to_rgb(255 - stored if is_inverse else stored)
    unit = _windowed(values, _not_padding(stored, data_set), data_set, window)
    return to_rgb(1.0 - unit if is_inverse else unit)


def _measured(path: Path, stored: np.ndarray, data_set: Dataset) -> np.ndarray:
    values = apply_modality_lut(stored, data_set)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds NaN or infinity; replace or remove it")
    return values


def _is_plain_8_bit(stored: np.ndarray, values: np.ndarray, data_set: Dataset) -> bool:
    has_window = any(data_set.get(k) is not None for k in ("WindowCenter", "VOILUTSequence"))
    is_8_bit = stored.dtype == np.uint8 and int(data_set.BitsStored) == 8
    return is_8_bit and not has_window and np.array_equal(values, stored)


def _not_padding(stored: np.ndarray, data_set: Dataset) -> np.ndarray:
    """(H, W) bool: pixels inside the scanned field. Padding would spoil minimum and percentiles."""
    padding = data_set.get("PixelPaddingValue")
    inside = np.ones(stored.shape, dtype=bool) if padding is None else stored != padding
    return inside if inside.any() else np.ones(stored.shape, dtype=bool)


def _windowed(values: np.ndarray, inside: np.ndarray, data_set: Dataset, window: str | None) -> np.ndarray:
    """(H, W) float32 in 0..1."""
    if window is not None:
        return scale_to_unit(values, *window_range(window, values[inside]))
    if data_set.get("VOILUTSequence"):
        depth = int(data_set.VOILUTSequence[0].LUTDescriptor[2])
        return (apply_voi(values.astype(np.int64), data_set) / float(2**depth - 1)).astype(np.float32)
    if (own := _own_range(data_set)) is None:
        whole = values.min() == values.max() or int(data_set.get("BitsStored") or 16) == 1
        return scale_to_unit(values, *(window_range(MINMAX, values) if whole else robust_range(values[inside])))
    low, high = own
    if _voi_function(data_set) == "SIGMOID":  # PS3.3 C.11.2.1.3.1
        steps = -4.0 * (values - (low + high) / 2) / (high - low)
        return (1.0 / (1.0 + np.exp(np.clip(steps, -80, 80)))).astype(np.float32)
    return scale_to_unit(values, low, high)


def _own_range(data_set: Dataset) -> tuple[float, float] | None:
    """Ends of the first window of a header, or None."""
    centre, width = _first(data_set.get("WindowCenter")), _first(data_set.get("WindowWidth"))
    if centre is None or width is None or width <= 0:
        return None
    if _voi_function(data_set) == "LINEAR" and width > 1:  # PS3.3 C.11.2.1.2.1
        centre, width = centre - 0.5, width - 1
    return centre - width / 2, centre + width / 2


def _voi_function(data_set: Dataset) -> str:
    return str(data_set.get("VOILUTFunction") or "LINEAR").upper()


def _first(value) -> float | None:
    """The first of one or several numbers: files with several windows name the usual one first."""
    if value is None or value == "":
        return None
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        return float(value)
    return float(value[0]) if len(value) else None
