"""Feature files (`--features FILE`): image features, labels and text features that the user brings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..contracts.features import FeatureSet, TextClassifier, all_there, mean_of_parts
from ..contracts.items import Item
from ..contracts.part_views import PartViews
from ..contracts.recipe import check_features_place
from ..contracts.shown import in_short
from ..data.array_files import ArrayFile
from ..data.group_columns import group_of
from ..data.group_words import kind_of_column, preferred_column
from ..errors import ConfigError, DataError, shortened
from ..runtime.reading import check_regular, parse_json
from . import packaged
from .packaged import located

OTHER_SPELLING = {"text_features": "text_average", "class_names": "classnames"}
NEEDED = ("image_features", "text_features", "class_names")
WORDS = ("class_names", "classnames", "split", "ids", "groups", "logit_scale", "backbone", "part_views")
"""What a .safetensors file keeps in its header, as JSON or plain text: safetensors has no strings."""
UNIT_TOLERANCE = 1e-3
HALF_UNIT_TOLERANCE = 1e-2
"""How far half-precision parts may be from unit length to be taken for unit rows, which are then made exact again."""
MEAN_TOLERANCE = 1e-2
"""How far given features may point away from the mean of their parts, in units of the longest part."""


@dataclass(frozen=True)
class FeatureFile:
    """What a feature file holds.

    Args:
        features: (N, D) with labels; `raw_norms` is False where the file's rows are of unit length.
        classifier: of the C text features.
        split: N of "train", "val", "test" or "" (the file does not say), or None.
        columns: name -> array (N,), of all that hold a text or a number per row.
    """

    __repr__ = in_short

    features: FeatureSet
    classifier: TextClassifier
    split: tuple[str, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, repr=False)


def load_features(path: str | Path) -> FeatureFile:
    """Read a `.safetensors` or `.npz` file of features, a folder of `vladapt embed --as parquet`, or "sample".

    Arrays: `image_features` (N, D); `labels` (N,) class indices, or (N, C) of 0, 1 and NaN, or none; `text_features` or
    `text_average` (C, D), or (D, C); `class_names` or `classnames` (C,); optional: `text_prompts` (P, C, D),
    `logit_scale` (100 by default), `split` (N,), `ids` (N,), and `groups` (N,), also by another usual name (patient,
    subject, study, ...), which says what is never divided between splits. In .safetensors, lists of texts are JSON in
    the metadata. Any other array (N,) is a column, by whose values scores may be told apart (`--by`).
    The parts of each sample (frames, slices, windows) are `image_parts` (N, T, D), with `parts_mask` (N, T), true where
    there is one, by default everywhere; `image_features` is then their mean and may be omitted. `part_views` says how
    they divide into views ("12,8,probabilities": twelve, fitted on number 8, what is averaged).
    Half-precision features are cast to float32 and normalised again. Pickled arrays are refused, never run.

    Raises:
        DataError: no such file, not readable, an array missing, of a wrong shape or with unusable values.
    """
    path = located(path)
    arrays = FileArrays(path, read_arrays(path))
    names = arrays.names()
    features = arrays.feature_set(names)
    count, width = features.features.shape
    text = arrays.text_features(len(names), width)
    classifier = TextClassifier(
        weights=text,
        raw=text,
        prototypes=arrays.prototypes(len(names), width),
        class_names=names,
        logit_scale=arrays.logit_scale(),
    )
    return FeatureFile(features, classifier, arrays.split(count), arrays.columns(count))


def load_unlabelled(path: str | Path) -> FeatureSet:
    """The features (N, D) of a file or folder as `load_features` reads it, of which `image_features` is enough; labels
    are not read.

    Raises:
        DataError: no such file, not readable, no features, of a wrong shape or with unusable values.
    """
    path = located(path)
    return FileArrays(path, read_arrays(path), needed=("image_features",)).feature_set()


def load_class_texts(path: str | Path, class_names: Sequence[str], width: int) -> TextClassifier:
    """The classifier of a file that holds text features (C, D) and the names of their classes; `logit_scale` and
    `text_prompts` as of `load_features`.

    Args:
        class_names: that are wanted, in their order.
        width: D of the image features.

    Raises:
        DataError: no such file, not readable, lacks a class, or of another width.
    """
    arrays = FileArrays(path := located(path), read_arrays(path), needed=("text_features", "class_names"))
    names = arrays.names()
    if lacking := [name for name in class_names if name not in names]:
        raise arrays.error(f"has no text features of class '{lacking[0]}' (it has {', '.join(names)}); add them")
    text = arrays.text_features(len(names), width)
    prototypes, scale = arrays.prototypes(len(names), width), arrays.logit_scale()
    whole = TextClassifier(text, text, prototypes, class_names=names, logit_scale=scale)
    return whole.select([names.index(name) for name in class_names])


def load_image_features(path: str | Path) -> tuple[Tensor, tuple[str, ...], str]:
    """What `vladapt embed --images` writes: unit image features (N, D), their ids, and the backbone's fingerprint.

    Raises:
        DataError: no such file, not readable, no `image_features` or no `ids`, or with unusable values.
    """
    path = located(path)
    arrays = FileArrays(path, read_arrays(path), needed=("image_features", "ids"))
    features, *_ = arrays.images_and_parts()
    return F.normalize(features, dim=-1), arrays.ids(len(features)), arrays.text("backbone")


def load_rows(path: str | Path, kind: str) -> tuple[np.ndarray, tuple[str, ...] | None, str]:
    """Features of one kind alone, for what compares pairs of image and text with them.

    Args:
        path: as `load_features` reads, or an `.npy` (M, D).
        kind: "image_features" or "caption_features".

    Returns:
        (M, D) float32 rows as they are stored, their ids, and the fingerprint of the backbone; None and "" where the
        file does not say.

    Raises:
        DataError: no such file, not readable, none of the kind, or with unusable values.
    """
    path = located(path)
    held = {kind: _read_array(path)} if path.suffix.lower() == ".npy" else read_arrays(path, kind)
    arrays = FileArrays(path, held, needed=(kind,))
    features = arrays.images_and_parts()[0] if "image_parts" in held and kind not in held else arrays.rows(kind)
    return features.numpy(), arrays.ids(len(features)), arrays.text("backbone")


def load_numbers(path: str | Path) -> tuple[FeatureSet, Tensor, tuple[str, ...] | None]:
    """A file or folder as `load_features` reads it, with `targets` (N,) in place of labels and texts.

    Returns:
        Features (N, D) without labels, their numbers (N,) float64, NaN where a row has none, and the splits as of
        `FeatureFile`.

    Raises:
        DataError: no such file, not readable, an array missing, of a wrong shape or with unusable values.
    """
    path = located(path)
    arrays = FileArrays(path, read_arrays(path), needed=("image_features", "targets"))
    images, raw_norms, *_ = arrays.images_and_parts()
    count = len(images)
    features = FeatureSet(images, None, ids=arrays.ids(count), groups=arrays.groups(count), raw_norms=raw_norms)
    features = replace(features, backbone=arrays.text("backbone"))
    return features, arrays.targets(count), arrays.split(count)


def _read_array(path: Path) -> Tensor:
    """The only array of an `.npy`."""
    check_regular(path, "give a file of features")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(np.array(array))
    except (ValueError, TypeError, OSError, EOFError) as error:
        reason = shortened(" ".join(str(error).split()), 160)
        raise DataError(f"{path}: not a readable .npy file of numbers ({reason}); save or copy it again") from None


def read_arrays(path: Path, kind: str = "image_features") -> dict[str, Any]:
    """Arrays of a file or folder; of shards, those of one kind of features."""
    if path == packaged.FILE:
        return packaged.classes()
    check_features_place(path)
    if path.is_dir():
        return _read_shards(path, kind)
    check_regular(path, "give a .safetensors or .npz file of features")
    readers = {".npz": lambda path: ArrayFile(path).load(), ".safetensors": _read_safetensors}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: '{path.suffix}' is not a format of features files; give a .safetensors or .npz file")
    return readers[path.suffix.lower()](path)


def _read_shards(folder: Path, kind: str = "image_features") -> dict[str, Any]:
    """The arrays of a folder that `embed --as parquet` wrote; of several such folders in it, of the only one."""
    if not list(folder.glob("*.parquet")):
        below = sorted({file.parent for file in folder.glob("*/part-*.parquet")})
        if len(below) != 1:
            cure = f"give one of {', '.join(map(str, below[:3]))}" if below else "give a folder of `embed --as parquet`"
            raise DataError(f"{folder}: {len(below) or 'no'} folders of shards of features in it; {cure}")
        folder = below[0]
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(folder)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder}: not readable shards ({' '.join(str(error).split())}); embed again") from None
    named = [name for name in table.column_names if name.startswith(kind)]
    if len(named) != 1:
        raise DataError(f"{folder}: {kind} of {len(named)} encoders ({', '.join(named)}); embed again with one")
    suffix = named[0].removeprefix(kind)
    encoders = set(table.column(f"encoder{suffix}").unique().to_pylist()) if table.num_rows else {""}
    if len(encoders) != 1:
        raise DataError(f"{folder}: rows of {len(encoders)} encoders; embed them again with one")
    table = table.filter(table.column(named[0]).is_valid())  # captions may be absent
    rows = table.column(named[0]).combine_chunks()
    values = rows.flatten().to_numpy(zero_copy_only=False)
    arrays: dict[str, Any] = {
        kind: torch.from_numpy(values.reshape(table.num_rows, -1).copy()),
        "ids": table.column("id").to_pylist(),
        "backbone": encoders.pop() or "",
    }
    if "labels" in table.column_names:
        arrays["labels"] = torch.tensor(table.column("labels").to_pylist())
        arrays["split"] = table.column("split").to_pylist()
        if any(groups := table.column("groups").to_pylist()):
            arrays["groups"] = groups
    classes = folder / "_state" / "classes.safetensors"
    return arrays | (_read_safetensors(classes) if classes.is_file() else {})


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            arrays: dict[str, Any] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable .safetensors file ({reason}); save or copy it again") from None
    for name, text in metadata.items():
        if name not in arrays and (name in WORDS or text.startswith("[")):
            arrays[name] = _from_json(text)
    return arrays


def _from_json(text: str) -> Any:
    """The JSON value, or the text itself where it is none (a fingerprint)."""
    try:
        return parse_json("", text)
    except DataError:
        return text


class FileArrays:
    """The arrays of one file, each checked as it is taken."""

    def __init__(self, path: Path, arrays: Mapping[str, Any], needed: Sequence[str] = NEEDED):
        self.path = path
        self._arrays = dict(arrays)
        for name, other in OTHER_SPELLING.items():
            if name not in self._arrays and other in self._arrays:
                self._arrays[name] = self._arrays[other]
        has_parts = "image_parts" in self._arrays
        missing = [n for n in needed if n not in self._arrays and not (n == "image_features" and has_parts)]
        if missing:
            has = ", ".join(sorted(arrays)) or "nothing"
            whole = ", or write all of it by `vladapt embed --data FOLDER`" if "class_names" in missing else ""
            raise self.error(f"lacks {', '.join(missing)} (it has {has}); add what is missing{whole}")

    def feature_set(self, class_names: Sequence[str] = ()) -> FeatureSet:
        """The features with all that is known of their rows; with labels where their classes are given."""
        images, raw_norms, parts, mask = self.images_and_parts()
        count = len(images)
        return FeatureSet(
            features=images,
            labels=self.labels(count, len(class_names)) if class_names else None,
            class_names=class_names,
            ids=self.ids(count),
            groups=self.groups(count),
            backbone=self.text("backbone"),
            raw_norms=raw_norms,
            parts=parts,
            parts_mask=mask,
            part_views=self.part_views(mask),
        )

    def names(self) -> tuple[str, ...]:
        names = self.words("class_names", None)
        if len(names) < 2:
            raise self.error(f"class_names holds {len(names)} name; a classifier needs at least two classes")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise self.error(f"class_names holds '{twice}' twice; name each class once")
        return names

    def ids(self, count: int) -> tuple[str, ...] | None:
        """Of each row its own."""
        ids = self.words("ids", count)
        if ids is not None and len(set(ids)) < len(ids):
            twice, times = Counter(ids).most_common(1)[0]
            raise self.error(f"ids holds '{shortened(twice)}' {times} times; give each row an id of its own")
        return ids

    def words(self, name: str, count: int | None, of: str = "image") -> tuple[str, ...] | None:
        """A list of texts of length `count`, if given; None if the file has none of that name."""
        value = self._arrays.get(name)
        if value is None:
            return None
        array = np.asarray(value)
        if array.ndim != 1 or array.dtype.kind not in "US":
            raise self.error(f"{name} is not a list of texts; save one text per row")
        if count is not None and len(array) != count:
            raise self.error(f"{name} has {len(array)} rows for {count} {of} features; give one per row")
        try:
            return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in array.tolist())
        except UnicodeDecodeError:
            raise self.error(f"{name} holds bytes that are not UTF-8; save texts as unicode") from None

    def text(self, name: str) -> str:
        value = self._arrays.get(name, "")
        return value if isinstance(value, str) else str(np.asarray(value)[()])

    def part_views(self, mask: Tensor | None) -> PartViews | None:
        """How the parts (N, T) divide into views, where the file says so."""
        if not (text := self.text("part_views")):
            return None
        if mask is None:
            raise self.error("has part_views without image_parts; add image_parts (N, T, D)")
        try:
            views = PartViews.of_text(text)
        except ConfigError as error:
            raise self.error(str(error)) from None
        if len(odd := (mask.sum(dim=1) % views.count).nonzero().flatten()):
            raise self.error(
                f"part_views says {views.count} views; row {int(odd[0])} has parts that do not divide into them"
            )
        return views

    def split(self, count: int) -> tuple[str, ...] | None:
        split = self.words("split", count)
        for row, value in enumerate(split or ()):
            if value and value not in Item.SPLITS:
                raise self.error(f"split[{row}] is '{value}'; give one of {', '.join(Item.SPLITS)}")
        return split if split and any(split) else None

    def groups(self, count: int) -> tuple[str, ...] | None:
        """What each row belongs to, a row without a value to itself alone; None where no array says."""
        usual = {name: value for name, value in self._arrays.items() if kind_of_column(name)}
        lists = {name: value if isinstance(value, Tensor) else np.asarray(value) for name, value in usual.items()}
        name = preferred_column(name for name, values in lists.items() if tuple(values.shape) == (count,))
        if name is None:
            return None
        values = lists[name]
        cells = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values.tolist()]
        return tuple(group_of(cell) or f"row {row}" for row, cell in enumerate(cells))

    def columns(self, count: int) -> dict[str, Any]:
        """The arrays (N,) of texts or numbers, but those of the classes."""
        of_classes, columns = {*NEEDED, *OTHER_SPELLING.values()}, {}
        for name, values in self._arrays.items():
            if isinstance(values, list) and all(isinstance(each, (str, int, float)) for each in values):
                values = np.asarray(values)
            if name not in of_classes and tuple(getattr(values, "shape", ())) == (count,):
                columns[name] = values
        return columns

    def features(self, name: str, ndim: int) -> tuple[Tensor, bool]:
        """float32 rows, and whether their norms are still those of the tower."""
        half = self._numbers(name).dtype in (torch.float16, torch.bfloat16)
        tensor = self.rows(name, ndim)
        if half:
            return F.normalize(tensor, dim=-1), False
        unit = bool(((tensor.norm(dim=-1) - 1).abs() < UNIT_TOLERANCE).all())
        return tensor, not unit

    def rows(self, name: str, ndim: int = 2) -> Tensor:
        """float32 rows as they are stored."""
        tensor = self._numbers(name)
        if tensor.ndim != ndim or not tensor.numel():
            wanted = "(N, D)" if ndim == 2 else "(P, C, D)"
            raise self.error(f"{name} has shape {tuple(tensor.shape)}; {wanted} is needed")
        if not tensor.is_floating_point():
            raise self.error(f"{name} holds {tensor.dtype} values; features are floating-point numbers")
        tensor = tensor.float()
        bad = (~torch.isfinite(tensor)).flatten(0, -2).any(dim=-1).nonzero().flatten()
        if len(bad):
            raise self.error(f"{name} holds NaN or infinity in row {int(bad[0])}; extract the features again")
        return tensor

    def images_and_parts(self) -> tuple[Tensor, bool, Tensor | None, Tensor | None]:
        """(N, D) features, whether their norms are still those of the tower, and where the file has parts (N, T, D),
        these and their mask (N, T)."""
        if "image_parts" not in self._arrays:
            if "parts_mask" in self._arrays:
                raise self.error("has parts_mask without image_parts; add image_parts (N, T, D)")
            return *self.features("image_features", ndim=2), None, None
        parts, mask, raw_norms = self._parts()
        features = mean_of_parts(parts, mask)
        if "image_features" in self._arrays:
            self._check_mean(features, parts)
        return features, raw_norms, parts, mask

    def _parts(self) -> tuple[Tensor, Tensor, bool]:
        """(N, T, D) float32 parts, (N, T) which of them are there, and whether their norms are those of the tower."""
        parts = self._numbers("image_parts")
        if parts.ndim != 3 or not parts.numel() or not parts.is_floating_point():
            fault = f"image_parts has shape {tuple(parts.shape)} of {parts.dtype}"
            raise self.error(f"{fault}; (N, T, D) floating-point numbers are needed")
        half = parts.dtype in (torch.float16, torch.bfloat16)
        mask = self._parts_mask(parts)
        parts = parts.float().masked_fill(~mask[..., None], 0)
        bad = (~torch.isfinite(parts)).flatten(1).any(dim=1).nonzero().flatten()
        if len(bad):
            raise self.error(f"image_parts holds NaN or infinity in row {int(bad[0])}; extract the features again")
        off = (parts[mask].norm(dim=-1) - 1).abs().max()
        if half:
            return F.normalize(parts, dim=-1) if off < HALF_UNIT_TOLERANCE else parts, mask, False
        return parts, mask, bool(off >= UNIT_TOLERANCE)

    def _parts_mask(self, parts: Tensor) -> Tensor:
        if "parts_mask" not in self._arrays:
            return all_there(parts)
        mask = self._numbers("parts_mask")
        if mask.shape != parts.shape[:2] or not bool(((mask == 0) | (mask == 1)).all()):
            wanted = tuple(parts.shape[:2])
            raise self.error(f"parts_mask has shape {tuple(mask.shape)}; {wanted} of true and false is needed")
        empty = (~mask.bool().any(dim=1)).nonzero().flatten()
        if len(empty):
            raise self.error(f"parts_mask leaves row {int(empty[0])} without a part; remove the row")
        return mask.bool()

    def _check_mean(self, mean: Tensor, parts: Tensor) -> None:
        """Given features are the mean of the parts, but for their length."""
        given, _ = self.features("image_features", ndim=2)
        if given.shape != mean.shape:
            raise self.error(f"image_features has shape {tuple(given.shape)}, image_parts {tuple(parts.shape)}")
        apart = (mean - F.normalize(given, dim=-1) * mean.norm(dim=-1, keepdim=True)).norm(dim=-1)  # (N,)
        wrong = (apart > MEAN_TOLERANCE * parts.norm(dim=-1).max()).nonzero().flatten()
        if len(wrong):
            raise self.error(
                f"image_features is not the mean of image_parts in row {int(wrong[0])}; omit image_features"
            )

    def labels(self, count: int, classes: int) -> Tensor | None:
        if "labels" not in self._arrays:
            return None
        labels = self._numbers("labels")
        if labels.ndim == 0 or len(labels) != count:
            raise self.error(f"labels has shape {tuple(labels.shape)} for {count} image features; give one per row")
        if labels.ndim == 2:
            return self._several_labels(labels, classes)
        if labels.ndim != 1:
            raise self.error(f"labels has shape {tuple(labels.shape)}; (N,) is needed")
        whole = labels.double()
        if not bool((whole == whole.round()).all()):
            raise self.error("labels are not whole numbers; give class indices from 0")
        outside = ((whole < 0) | (whole >= classes)).nonzero().flatten()
        if len(outside):
            row = int(outside[0])
            raise self.error(f"labels[{row}] is {int(whole[row])}; class_names allows 0 to {classes - 1}")
        return whole.long()

    def targets(self, count: int) -> Tensor:
        """(N,) float64; NaN where there is none."""
        targets = self._numbers("targets").double()
        if tuple(targets.shape) != (count,):
            raise self.error(f"targets has shape {tuple(targets.shape)} for {count} image features; give one per row")
        if bool(targets.isinf().any()):
            raise self.error("targets holds infinity; give numbers, and NaN where there is none")
        return targets

    def text_features(self, classes: int, width: int) -> Tensor:
        text, _ = self.features("text_features", ndim=2)
        if text.shape == (classes, width):
            return text
        if text.shape == (width, classes):
            return text.T.contiguous()
        raise self.error(
            f"text features have shape {tuple(text.shape)}; {classes} classes and image features of width {width} "
            f"need ({classes}, {width})"
        )

    def prototypes(self, classes: int, width: int) -> tuple[Tensor, ...] | None:
        """C tensors (P, D) of unit rows, from text_prompts (P, C, D); None if the file has none."""
        if "text_prompts" not in self._arrays:
            return None
        prompts, _ = self.features("text_prompts", ndim=3)
        if prompts.shape[1:] != (classes, width):
            raise self.error(f"text_prompts has shape {tuple(prompts.shape)}; (P, {classes}, {width}) is needed")
        return tuple(F.normalize(prompts, dim=-1).transpose(0, 1).contiguous().unbind(0))

    def whole_numbers(self, name: str) -> Tensor | None:
        """int64 values, if the file has them."""
        if name not in self._arrays:
            return None
        values = self._numbers(name)
        if values.is_floating_point() or values.dtype == torch.bool:
            raise self.error(f"{name} holds {values.dtype} values; whole numbers are needed")
        return values.long()

    def logit_scale(self) -> float:
        value = self._arrays.get("logit_scale", 100.0)
        try:
            scale = float(np.asarray(value).reshape(()))
        except (TypeError, ValueError):
            raise self.error(f"logit_scale is {value!r}; give one number, 100 for a trained CLIP") from None
        if not math.isfinite(scale) or scale <= 0:
            raise self.error(f"logit_scale is {scale}; give a number above 0, 100 for a trained CLIP")
        return scale

    def _several_labels(self, labels: Tensor, classes: int) -> Tensor:
        labels = labels.float()
        if labels.shape[1] != classes:
            raise self.error(f"labels has {labels.shape[1]} columns for {classes} class names; give one per class")
        if not bool(((labels == 0) | (labels == 1) | labels.isnan()).all()):
            raise self.error("labels (N, C) holds values other than 0, 1 and NaN (unknown)")
        return labels

    def _numbers(self, name: str) -> Tensor:
        value = self._arrays[name]
        if isinstance(value, Tensor):
            return value
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise self.error(f"{name} holds {array.dtype} values; numbers are needed")
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.path}: {problem}")
