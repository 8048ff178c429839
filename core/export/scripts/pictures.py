"""Pictures as the graph beside this file takes them, and the graph; needs numpy and pillow, and onnxruntime to ask."""

import hashlib
import json
import sys

import numpy as np
from PIL import Image, ImageOps


def decoded(path):
    """(H, W, 3) uint8: upright, transparent pixels over white, deeper than 8 bits scaled to them."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):
            values, full = np.asarray(image).astype(np.float64), 1.0 if image.mode == "F" else 65535.0
            low, high = values.min(), values.max()
            values = (values - low) / ((high - low) or 1.0) if low < 0 or high > full else values / full
            return np.repeat(np.rint(values.astype(np.float32) * 255).astype(np.uint8)[..., None], 3, axis=2)
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return np.asarray(image.convert("RGB"))


def between(old, new):
    """For each of `new` places along a side of `old` pixels the two pixels that it lies between, and how near the
    second."""
    places = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    low = np.floor(places).astype(int)
    return low.clip(0, old - 1), (low + 1).clip(0, old - 1), places - low.astype(np.float32)


def resized(image, height, width):
    """(h, w, 3) uint8 -> (height, width, 3), linear in whole numbers as OpenCV has it: shares in 1/2048."""
    if image.shape[:2] == (height, width):
        return image
    left, right, share = between(image.shape[1], width)
    near = np.rint(share * 2048).astype(int)[:, None]
    rows = image[:, left].astype(int) * np.rint((1 - share) * 2048).astype(int)[:, None] + image[:, right] * near
    low, high, share = between(image.shape[0], height)
    above, below = (np.rint(each * 2048).astype(int)[:, None, None] for each in (1 - share, share))
    return (((above * (rows[low] >> 4)) >> 16) + ((below * (rows[high] >> 4)) >> 16) + 2) >> 2


def enlarged(values, height, width):
    """(h, w, C) float32 -> (height, width, C), linear between the middles of pixels."""
    for axis, (old, new) in enumerate(zip(values.shape, (height, width))):
        if old != new:
            low, high, share = between(old, new)
            share = share.reshape(-1, *[1] * (2 - axis))
            values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


def pixels(image, how):
    """(1, 3, H, W) as the graph takes them, and the (height, width) of the picture in them; `how`: "preprocessing"."""
    if how.get("size"):  # of every picture
        height, width = how["size"]
        planes = squashed(image, height, width, how["filter"])
    else:
        size, largest = np.array(image.shape[:2]), how["largest"] or image.shape[:2]
        scale = min(max(largest) / size.max(), min(largest) / size.min())
        height, width = size if scale >= 1 and not how["enlarge"] else np.maximum(1, size * scale + 0.5).astype(int)
        planes = resized(image, height, width).astype(np.float32)
    planes = planes if how["channels"] == "rgb" else planes[..., ::-1]
    planes = (planes - np.float32(how["mean"])) / np.float32(how["std"])
    margins = ((0, -height % how["multiple"]), (0, -width % how["multiple"]), (0, 0))
    planes = np.pad(planes, margins, constant_values=how["padding"]).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(planes, dtype=np.float32), (int(height), int(width))


def squashed(image, height, width, filter):
    """(h, w, 3) uint8 -> (height, width, 3) float32, by a filter of Pillow's, or between pixels without smoothing."""
    if filter == "between":
        return enlarged(image.astype(np.float32), height, width)
    how = Image.Resampling[filter.upper()]
    return np.asarray(Image.fromarray(image).resize((width, height), how), np.float32)


def encoded(mask):
    """(H, W) bool -> its lengths of runs, column by column, as COCO compresses them."""
    flat = mask.ravel(order="F")
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, len(flat))
    runs = np.diff(ends, prepend=0).tolist()
    runs = [0, *runs] if flat[0] else runs
    text = []
    for place, run in enumerate(runs):  # from the third on the difference to the one two before, in groups of 5 bits
        rest = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text.append(chr(bits + 32 * more + 48))
    return {"size": list(mask.shape), "counts": "".join(text)}


def facts_of(folder):
    """What export.json says, where neither it nor a file that it names is other than it was written."""
    try:
        facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {"sha256": {"export.json": "of no file"}}
    for file, digest in ((folder / name, digest) for name, digest in facts.get("sha256", {}).items()):
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            sys.exit(f"{file}: missing, damaged or replaced; copy the whole folder again, or export the run again")
    return facts


def asked(folder, facts, graph="model"):
    """A graph of an export, as a function from inputs to outputs by name, which
    raises the ValueError of inputs that it cannot take."""
    import onnxruntime

    path = folder / facts["graphs"][graph]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores alone
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]

    def ask(inputs):
        try:
            return dict(zip(names, session.run(None, inputs)))
        except Exception as error:  # those of onnxruntime have no other class in common
            raise ValueError(f"the graph does not take it: {error}") from error

    return ask
