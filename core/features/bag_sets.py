"""Labelled sets of slides whose tile features are stored: a folder of files, and a table or class folders."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..contracts.bags import Bag, StoredTiles, tiles_spec
from ..contracts.items import DomainData, Item
from ..data.class_folders import Layout
from ..data.file_hashes import FileHashes
from ..data.files import Format
from ..data.group_columns import group_of
from ..data.tables import read_table
from ..data.unlabelled import read_unlabelled
from ..errors import ConfigError, DataError, first_of
from .bag_files import SUFFIXES, BagFile, JoinedBag, ScaledBag, open_bag

FOLDERS = ("", "h5_files", "pt_files")
"""Below the folder that a user names, where files lie."""
SLIDE_COLUMNS = ("slide_id", "slide", "slide_name")
SPLITS = ("train", "val", "test")
BARCODE = re.compile(r"TCGA-\w{2}-\w{4}(?=\W|$)", re.IGNORECASE)
"""How a name of The Cancer Genome Atlas begins: its 12 characters are the patient."""
ENDING = re.compile(r"\.[a-z]\w{1,7}$", re.IGNORECASE)
"""Of the file of a slide."""
NAME = "tile features"
SIDE = 256
"""Of the picture of a bag, at most."""


@dataclass(frozen=True)
class BagFolder:
    """Stored features of the tiles of slides.

    Args:
        folder: of the files, or with `h5_files` and `pt_files` in it; None where the set itself is such files.
        coarse: the same of a lower magnification, whose files have the same names; or None.
        texts: file of vectors of class texts, or None.
        joined: whether the slides of a patient are one sample.
        splits: CLAM's `splits_N.csv`, or None.

    Raises:
        DataError: no such folder.
    """

    folder: Path | None = None
    coarse: Path | None = None
    texts: str | None = None
    joined: bool = False
    splits: Path | None = None

    def __post_init__(self):
        for option, folder in (("bags", self.folder), ("coarse-bags", self.coarse)):
            if folder is not None and not folder.is_dir():
                raise DataError(f"--{option} {folder}: no such folder; give the folder of the stored tile features")

    @staticmethod
    def are_class_folders(path: Path, formats: Sequence[Format]) -> bool:
        """Whether a folder has class folders of such files, and none of files that `formats` reads."""
        if not path.is_dir() or Layout.of(path, formats) is not None:
            return False
        return Layout.of(path, (Format(NAME, SUFFIXES, load=_picture),)) is not None

    @staticmethod
    def are_files(paths: Iterable[str | Path]) -> bool:
        """Whether paths are such files, or folders that hold some."""
        return all(Path(path).suffix.lower() in SUFFIXES or _files_in(Path(path)) for path in paths)

    def read(self, path: Path, **options: Any) -> DomainData:
        """A labelled set: a table with a column of slides, or class folders of files.

        Args:
            options: fields of `Reading`.

        Raises:
            DataError: as `read_any`; no file of any slide, slides of one patient with different classes, or features
                of different encoders.
        """
        where = {} if self.folder is None or path.is_dir() else {"root": str(self.folder)}
        from ..data.detect import read_any

        data = read_any(path, (self._format,), **{**options, **where})
        data = replace(data, notes=[*data.notes, *self._on_missing(data)])
        return self._set_of(data if self.splits is None else self._with_splits(data))

    def read_new(self, paths: Sequence[str | Path]) -> DomainData:
        """Unlabelled files, or folders of them."""
        return self._set_of(read_unlabelled(paths, (self._format,)), labelled=False)

    def widths(self) -> Iterator[int]:
        """Of the features of each file of the folder that can be read, one opened after the other."""
        for file in self._files.values():
            with suppress(DataError):
                yield open_bag(file).dim

    @cached_property
    def _opened(self) -> dict[Path, BagFile]:
        return {}

    @cached_property
    def _format(self) -> Format:
        def expand(path: Path) -> list[dict[str, Any]]:
            try:
                self._opened[path] = open_bag(path)
            except DataError as error:
                raise DataError(str(error).removeprefix(f"{path}: ")) from None
            return [{}]

        def group(path: Path, name: str) -> str | None:
            patient = BARCODE.match(path.name)
            return None if patient is None else group_of(patient[0].upper())

        return Format(
            NAME,
            SUFFIXES,
            load=_picture,
            expand=expand,
            group=group,
            columns=SLIDE_COLUMNS,
            named=self._file_named,
        )

    @cached_property
    def _files(self) -> dict[str, Path]:
        return {} if self.folder is None else _files_in(self.folder)

    @cached_property
    def _coarse_files(self) -> dict[str, Path]:
        return {} if self.coarse is None else _files_in(self.coarse)

    def _file_named(self, root: Path, name: str) -> Path | None:
        """The file of a slide, whose name may have the ending of the slide itself."""
        return self._files.get(Path(name).name) or self._files.get(_without_ending(name))

    @cached_property
    def _split_of(self) -> dict[str, str]:
        """Name of a slide -> its split, by CLAM's file."""
        if self.splits is None:
            return {}
        table = read_table(self.splits)
        if lacking := [name for name in SPLITS if name not in table.columns]:
            raise DataError(f"{self.splits}: has no column {lacking[0]}; give CLAM's splits_N.csv of slide ids")
        split_of: dict[str, str] = {}
        for split in SPLITS:
            for row in table.rows:
                name = _without_ending(row.text(split))
                if split_of.setdefault(name, split) != split and name:
                    raise DataError(f"{row.place}: slide {name} is in {split_of[name]} and in {split}; correct one")
        split_of.pop("", None)
        return split_of

    def _with_splits(self, data: DomainData) -> DomainData:
        """The slides that CLAM's file lists, each in its split."""
        items = [item.with_(split=self._split_of[_stem(item)]) for item in data.items if _stem(item) in self._split_of]
        if not items:
            raise DataError(
                f"{self.splits}: names none of the {len(data.items)} slides of {data.name}; give its splits"
            )
        left = len(data.items) - len(items)
        notes = [f"Slides that {Path(self.splits or '').name} does not list, left out: {left}."] if left else []
        return replace(data, items=items, notes=[*data.notes, *notes])

    def _on_missing(self, data: DomainData) -> list[str]:
        """Notes on slides without a file, and on files that nothing lists."""
        without = [name for name, reason in data.skipped if reason.startswith("no such file")]
        listed = {item.source for item in data.items}
        skipped = {name for id_, _ in data.skipped for name in (Path(id_).name, _without_ending(id_))}
        beside = [name for name, path in self._files.items() if path not in listed and name not in skipped]
        lists = (("Slides without stored features", without), ("Stored features that the data do not list", beside))
        return [f"{what}: {len(names)} ({first_of(sorted(names), 3)})." for what, names in lists if names]

    def _set_of(self, data: DomainData, labelled: bool = True) -> DomainData:
        """The set with its bags, of one encoder.

        Args:
            labelled: where nothing says whose the slides are, a labelled set is refused, and new slides are samples
                of their own.
        """
        data = self._of_one_encoder(data)
        bags: dict[str, Bag] = {}
        skipped = []
        for item in data.items:
            try:
                bags[item.id] = self._bag(item)
            except DataError as error:
                skipped.append((item.id, str(error)))
        data = replace(data, items=[item for item in data.items if item.id in bags], skipped=[*data.skipped, *skipped])
        if self.joined and (labelled or any(item.group for item in data.items)):
            data, bags = _by_patient(data, bags)
        opened = [self._opened[item.source] for item in data.items]
        dim, encoder = (opened[0].dim, opened[0].encoder) if opened else (1, "")
        spec = tiles_spec(dim, encoder, self.texts is not None)
        return replace(data, bags=StoredTiles(lambda item: bags[item.id], spec, self.texts))

    def _bag(self, item: Item) -> Bag:
        fine = self._opened[item.source]
        if self.coarse is None:
            return fine
        if (file := self._coarse_files.get(item.source.stem)) is None:
            raise DataError(f"no file of this slide below {self.coarse}; give its folder as --coarse-bags")
        coarse = open_bag(file)
        if coarse.dim != fine.dim:
            raise DataError(f"{file}: features are {coarse.dim} wide, those of {item.source} {fine.dim}")
        if coarse.encoder and fine.encoder and coarse.encoder != fine.encoder:
            raise DataError(f"{file}: features are of {coarse.encoder}, those of {item.source} of {fine.encoder}")
        of_fine, of_coarse = (_downsampling(each) for each in (fine, coarse))
        if of_coarse <= of_fine:
            raise DataError(
                f"{file}: its tiles are downsampled by {of_coarse:g}, no more than those of {item.source} by "
                f"{of_fine:g}; give the higher magnification as --bags, the lower one as --coarse-bags"
            )
        return ScaledBag((fine, coarse))

    def _of_one_encoder(self, data: DomainData) -> DomainData:
        """The set without the files that other encoders made than most."""
        made = {item.id: (self._opened[item.source].dim, self._opened[item.source].encoder) for item in data.items}
        if len(counts := Counter(made.values())) < 2:
            return data
        (dim, encoder), _ = counts.most_common(1)[0]
        usual = f"{dim} wide{f' and of {encoder}' if encoder else ''}"
        skipped = [
            (name, f"features are {other} wide{f' and of {of}' if of else ''}, most are {usual}; encode all alike")
            for name, (other, of) in made.items()
            if (other, of) != (dim, encoder)
        ]
        items = [item for item in data.items if made[item.id] == (dim, encoder)]
        return replace(data, items=items, skipped=[*data.skipped, *skipped])


def _files_in(folder: Path) -> dict[str, Path]:
    """Name without ending -> file of tile features; of several the first kind of `SUFFIXES`."""
    places = [place for name in FOLDERS if (place := folder / name if name else folder).is_dir()]
    files = [file for place in places for file in sorted(place.iterdir()) if file.suffix.lower() in SUFFIXES]
    ordered = sorted(files, key=lambda file: SUFFIXES.index(file.suffix.lower()))
    return {file.stem: file for file in reversed(ordered)}


def _without_ending(name: str) -> str:
    """The name of a slide without folders and without the ending of its file; one such as S1.2 stays whole."""
    return ENDING.sub("", Path(name).name)


def _downsampling(bag: Bag) -> float:
    """Pixels of the largest level per pixel of a tile as it was read; NaN where they are not known."""
    of_level, read = (bag.attributes.get(name, math.nan) for name in ("level0_side", "side"))
    return of_level / read


def _stem(item: Item) -> str:
    return item.source.stem


def _by_patient(data: DomainData, bags: dict[str, Bag]) -> tuple[DomainData, dict[str, Bag]]:
    """The slides of one patient as one sample, which is called as the first of them."""
    if not any(item.group for item in data.items):
        raise ConfigError(
            f"--unit patient: nothing says whose the slides of {data.name} are; name a column by --group-column"
        )
    slides: dict[str, list[Item]] = defaultdict(list)
    for item in data.items:
        slides[item.group or item.id].append(item)
    items, joined = [], {}
    for some in slides.values():
        first = some[0]
        for other in some[1:]:
            pair = f"{data.name}: '{first.id}' and '{other.id}' are of one patient"
            if other.split != first.split:
                raise DataError(f"{pair}, and in the splits {first.split or 'none'} and {other.split or 'none'}")
            if repr(other.class_label()) != repr(first.class_label()):
                raise DataError(f"{pair}, and of different classes; correct one, or omit --unit patient")
        if len(some) > 1:
            digest = FileHashes.of_files([item.source for item in some])
            first = first.with_(decode={"slides": len(some), "digest": digest})
        items.append(first)
        names = tuple(_stem(item) for item in some)
        joined[first.id] = JoinedBag(tuple(bags[item.id] for item in some), names) if len(some) > 1 else bags[first.id]
    note = f"Patients: {len(items)}, of {len(data.items)} slides."
    return replace(data, items=items, notes=[*data.notes, note]), joined


def _picture(path: Path, decode: dict[str, Any]) -> np.ndarray:
    """Where the tiles of a slide lie, grey on white; (H, W, 3) uint8."""
    bag = open_bag(path)
    return tile_layout(bag.coords(0), bag.count, bag.attributes.get("level0_side"))


def tile_layout(coords: Tensor | None, count: int, side: float | None) -> np.ndarray:
    """(H, W, 3) uint8, a pixel or more per tile; a square where nothing says where tiles lie.

    Args:
        coords: (T, 2) as of `Tiles`.
        side: of a tile in the pixels of coords; None to take the least distance between two.
    """
    if coords is None:
        edge = math.isqrt(max(count - 1, 0)) + 1
        places = np.stack(np.divmod(np.arange(count), edge), axis=1)
    else:
        places = coords.numpy()[:, ::-1] - coords.numpy()[:, ::-1].min(axis=0)
        apart = [steps[steps > 0] for steps in (np.diff(np.unique(places[:, axis])) for axis in (0, 1))]
        step = side or min((int(each.min()) for each in apart if len(each)), default=1)
        places = (places // max(step, int(places.max()) / SIDE, 1)).astype(np.int64)
    drawn = np.full((*(places.max(axis=0) + 3), 3), 255, np.uint8)
    drawn[places[:, 0] + 1, places[:, 1] + 1] = 128
    scale = max(1, SIDE // max(drawn.shape[:2]))
    return drawn.repeat(scale, axis=0).repeat(scale, axis=1)
