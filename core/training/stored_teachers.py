"""Features of a teacher that `vladapt embed --as parquet` wrote, by shard: the teacher's image tower need not run.

MobileCLIP: Fast Image-Text Models through Multi-Modal Reinforced Training, 2023, arXiv 2311.17049, stores what its
teachers make of several augmented views of each image, and trains the student on the same views. A view here is a
function of the image's id and a number, so that no parameters of it need to be stored.

Shards are copied once to two arrays in the cache, a row per image, which are mapped to memory: an epoch in any order
reads the rows that it asks for and holds none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..errors import ConfigError, DataError
from ..features.table import transform_spec, view_seed
from ..runtime.files import write_whole
from ..runtime.process import cache_folder
from ..runtime.reading import json_text, read_json
from .sources import MixedSource, PairSource, StreamedSource, TrainingSource

PLAN = "_state/plan.json"
ROWS = 8192
"""Of a shard that are in memory at once."""
OF_TAR = re.compile(r"\.tar:")


def stored_field(place: int) -> str:
    """Where a batch has the stored features of its images by the teacher in this place."""
    return f"teacher_image_{place}"


@dataclass(frozen=True)
class StoredView:
    """What one folder of shards holds of one teacher.

    Args:
        folder: the shards.
        ids: (N,) uint64, sorted.
        order: (N,) rows of `features`.
        features: (N, D), as the teacher gives them.
        view: number of the augmented view; None where the whole image was encoded.
        roots: folders in which all of the images lie, "" or ending in "/": pairs may name images from any of them.
    """

    folder: Path
    ids: np.ndarray
    order: np.ndarray
    features: np.ndarray
    view: int | None
    roots: Sequence[str] = ("",)

    def row(self, name: str) -> tuple[int, str] | None:
        """Of an image, with its id in the shards; None where it is not among them."""
        for root in self.roots:
            place = int(np.searchsorted(self.ids, key := _hashed(root + name)))
            if place < len(self.ids) and self.ids[place] == key:
                return int(self.order[place]), root + name
        return None


@dataclass(frozen=True)
class StoredTeacher:
    """Features of one teacher, of one view or several.

    Args:
        views: each by itself.
        place: of the teacher among the teachers.
    """

    views: Sequence[StoredView]
    place: int

    def of(self, source: TrainingSource, row: int, epoch: int) -> Tensor:
        """(D,) unit of the view that an epoch sees of a sample.

        Raises:
            DataError: the shards have none of it.
        """
        view = self.views[epoch % len(self.views)]
        stored, _ = self._stored(view, source, row)
        return F.normalize(torch.from_numpy(np.array(view.features[stored], dtype=np.float32)), dim=0)

    def seed(self, source: TrainingSource, row: int, epoch: int) -> int | None:
        """Of the view that an epoch sees of a sample; None where the whole image was encoded."""
        view = self.views[epoch % len(self.views)]
        return None if view.view is None else view_seed(0, self._stored(view, source, row)[1], view.view)

    def _stored(self, view: StoredView, source: TrainingSource, row: int) -> tuple[int, str]:
        name = plain_id(source.name(row))
        if (stored := view.row(name)) is None:
            raise DataError(f"{view.folder}: has no features of {name}; embed the same images")
        return stored

    def check(self, source: TrainingSource) -> None:
        """Raise the DataError of images of which some shards have no features."""
        names = [plain_id(source.name(row)) for row in range(len(source))]
        for view in self.views:
            lacking = [name for name in names if view.row(name) is None]
            if lacking:
                raise DataError(
                    f"{view.folder}: has no features of {len(lacking)} of {len(names)} training images "
                    f"({lacking[0]}); embed the same images, by the same paths"
                )


def check_stored(stored: Sequence[StoredTeacher], source: TrainingSource) -> None:
    """Raise what is wrong with stored features of the images that are trained on, as far as these can be listed.

    Raises:
        DataError: some have no features. ConfigError: two sources use one id, by which features are told.
    """
    parts = source.parts if isinstance(source, MixedSource) else (source,)
    seen: set[str] = set()
    for part in parts if stored else ():
        if not isinstance(part, PairSource) or isinstance(part, StreamedSource):
            continue
        for teacher in stored:
            teacher.check(part)
        ids = {part.name(row) for row in range(len(part))}
        if both := sorted(seen & ids):
            raise ConfigError(
                f"option teacher_features: two sources have an image called {both[0]}, and features are told by this "
                "name; rename the images of one, or give one --data"
            )
        seen |= ids


def plain_id(name: str) -> str:
    """The id of a sample as `vladapt embed` has it."""
    return OF_TAR.sub(":", name)


def stored_teachers(
    folders: Sequence[str], teachers: Sequence[Backbone], transform: Callable[[Backbone, bool], Any]
) -> list[StoredTeacher]:
    """What folders of shards hold of teachers.

    Args:
        folders: each of one view, of one teacher or several.
        transform: (teacher, augmented) -> how an image becomes its pixels in this training.

    Raises:
        DataError: no shards of `embed`, of another backbone, seen in another way, or not finished; views of a teacher
            that do not go together.
    """
    opened: dict[int, list[StoredView]] = {}
    for folder in map(_folder_of_shards, folders):
        settings = _settings(folder)
        encoders = {fingerprint: place for place, (fingerprint, _) in enumerate(settings["encoders"])}
        matching = [place for place, teacher in enumerate(teachers) if teacher.fingerprint in encoders]
        if not matching:
            named = " or ".join(f"'{teacher.spec}' ({teacher.fingerprint})" for teacher in teachers)
            raise DataError(
                f"{folder}: holds features of backbone {', '.join(encoders)}, and the teacher is {named}; give what "
                "`vladapt embed --backbone TEACHER` wrote"
            )
        view = settings.get("view")
        for place in matching:
            number = encoders[teachers[place].fingerprint]
            stored, of_training = (
                settings["transforms"][number],
                transform_spec(transform(teachers[place], view is not None)),
            )
            if stored != of_training:
                differing = _differing(json.loads(stored), json.loads(of_training))
                raise DataError(
                    f"{folder}: its images became pixels in another way than in this training ({differing}); embed "
                    "them again, or give the same settings"
                )
            opened.setdefault(place, []).append(_opened(folder, settings["encoders"][number][1], view))
    made = [StoredTeacher(views, place) for place, views in sorted(opened.items())]
    _check_together(made)
    return made


def _check_together(made: Sequence[StoredTeacher]) -> None:
    """The student sees one view of an image, which has to be that of each teacher."""
    seen = {teacher.place: [view.view for view in teacher.views] for teacher in made}
    first = next(iter(seen.values()), [])
    for views in seen.values():
        if views != first or (None in views and len(views) > 1) or len(set(views)) < len(views):
            raise DataError(
                f"{made[0].views[0].folder}: features of several views have to be of different augmented ones "
                "(`vladapt embed --view 0`, `--view 1`, ...), and the same ones of each teacher"
            )


def _folder_of_shards(place: str) -> Path:
    """The folder of one plan: itself, or the only one in it."""
    root = Path(place)
    inside = [root] if (root / PLAN).is_file() else sorted(path.parent.parent for path in root.glob(f"*/{PLAN}"))
    if len(inside) != 1:
        what = "several, of different settings" if inside else "none"
        raise DataError(f"{root}: holds {what}; give a folder of shards that `vladapt embed --as parquet` wrote")
    return inside[0]


def _settings(folder: Path) -> Mapping[str, Any]:
    plan = read_json(folder / PLAN)
    if plan.get("stage") != "embed" or not plan["settings"].get("images"):
        raise DataError(f"{folder}: holds no features of images; give what `vladapt embed --as parquet` wrote")
    shards = plan.get("shards")
    done = len(list((folder / "_state" / "done").glob("part-*")))
    if shards is not None and done < shards:
        raise DataError(f"{folder}: {done} of {shards} shards are done; let `vladapt embed` finish them")
    return plan["settings"]


def _differing(stored: Mapping[str, Any], of_training: Mapping[str, Any]) -> str:
    names = [name for name in {**stored, **of_training} if stored.get(name) != of_training.get(name)]
    return ", ".join(f"{name}: {stored.get(name)} instead of {of_training.get(name)}" for name in names[:3])


def _opened(folder: Path, suffix: str, view: int | None) -> StoredView:
    """The features of one encoder, copied to the cache where they are not there yet."""
    files = sorted(folder.glob("*.parquet"))
    facts = [suffix, *((file.name, (status := file.stat()).st_size, status.st_mtime_ns) for file in files)]
    digest = hashlib.sha256(json.dumps([str(folder.resolve()), facts]).encode()).hexdigest()[:32]
    root = cache_folder("teachers")
    place = root / digest
    if not place.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as made:
            _copy(folder, files, suffix, Path(made))
            try:
                os.rename(made, place)
            except OSError:  # another process was there first
                if not place.is_dir():
                    raise
            else:
                Path(made).mkdir()  # for the context to remove
    ids, order, features = (np.load(place / f"{name}.npy", mmap_mode="r") for name in ("ids", "order", "features"))
    return StoredView(folder, ids, order, features, view, read_json(place / "roots.json"))


def _copy(folder: Path, files: Sequence[Path], suffix: str, place: Path) -> None:
    import pyarrow.parquet as pq

    count, name, start = sum(pq.read_metadata(file).num_rows for file in files), f"image_features{suffix}", 0
    common: str | None = None
    ids, features = np.empty(count, np.uint64), None
    for file in files:
        with pq.ParquetFile(file) as shard:
            for batch in shard.iter_batches(ROWS, columns=["id", name]):
                rows = batch.column(name).flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
                if features is None:
                    shape = (count, rows.shape[1])
                    features = np.lib.format.open_memmap(place / "features.npy", "w+", rows.dtype, shape)
                features[start : start + len(rows)] = rows
                names = batch.column("id").to_pylist()
                ids[start : start + len(rows)] = [_hashed(each) for each in names]
                before = [] if common is None else [common]
                common = os.path.commonprefix([*names, *before])  # noqa: RUF071 (cut at its last slash below)
                start += len(rows)
    if features is None:
        raise DataError(f"{folder}: has no rows; embed the images again")
    features.flush()
    order = np.argsort(ids, kind="stable")
    np.save(place / "ids.npy", ids[order])
    np.save(place / "order.npy", order)
    parts = [] if common is None else common.split("/")[:-1]
    roots = ["/".join([*parts[:depth], ""]) for depth in range(len(parts) + 1)]
    write_whole(place / "roots.json", json_text(roots))


def _hashed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "big")
