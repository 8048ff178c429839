"""Files of other tools, read as they lie, so that nothing is embedded or measured twice.

DataComp (2304.14108): FOLDER/HASH.parquet (uid, url, text, original_width, original_height, clip_..._similarity_score,
    sha256, ...), and beside it HASH.npz (b32_img, b32_txt, l14_img, l14_txt: features of OpenAI's CLIP, row by row).
img2dataset: FOLDER/00000.tar, and beside it 00000.parquet (url, caption, key, status, width, height, original_width,
    original_height, sha256 or md5, ...), which lists also what could not be downloaded.
clip-retrieval: FOLDER/metadata/metadata_0.parquet (image_path, caption, ...), FOLDER/img_emb/img_emb_0.npy, and
    FOLDER/text_emb/text_emb_0.npy, row by row; which model made them they do not say.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contracts.curator import CAPTION_FEATURES, IMAGE_FEATURES, TEXT
from ..errors import ConfigError, DataError, did_you_mean
from ..runtime.files import replacing
from ..shards.manifest import id_prefixes
from ..shards.task import settings_hash
from .facts import plain_columns

if TYPE_CHECKING:
    import pyarrow

DATACOMP, IMG2DATASET, CLIP_RETRIEVAL = "DataComp", "img2dataset", "clip-retrieval"
OF_DATACOMP = {"b32": "openai-vit-b-32", "l14": "openai-vit-l-14"}
"""How its arrays begin -> the encoder, as backbones are called here."""
OTHER_NAMES = {
    TEXT: ("text", "caption", "txt"),
    "width": ("width", "original_width"),
    "height": ("height", "original_height"),
}
"""Column -> what it is called in these files, the best first."""
NUMBER = re.compile(r"metadata_(\d+)\.parquet")
ROWS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class PeerFile:
    """Rows of one file.

    Args:
        table: Parquet.
        label: what ids begin with; "" where they have their own.
        arrays: column of features -> (file, name in it), of .npz, or of .npy with "" for the name.
    """

    table: Path
    label: str
    arrays: Mapping[str, tuple[Path, str]]


@dataclass(frozen=True, eq=False)
class PeerBlock:
    """Some rows.

    Args:
        ids: (n,) strings.
        columns: name -> (n,) array of Arrow.
        features: name -> (n, D) as they were stored.
    """

    ids: list[str]
    columns: Mapping[str, pyarrow.Array]
    features: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class PeerFiles:
    """What another tool wrote into a folder.

    Args:
        kind: `DATACOMP`, `IMG2DATASET` or `CLIP_RETRIEVAL`.
        folder: of the files.
        files: in order.
        encoders: ending of columns of features ("" where there is one encoder) -> the encoder.
    """

    kind: str
    folder: Path
    files: tuple[PeerFile, ...]
    encoders: Mapping[str, str]

    @classmethod
    def of(cls, folder: str | Path, encoder: str = "") -> PeerFiles | None:
        """Those of a folder; None where it is of none of these tools.

        Args:
            encoder: of clip-retrieval's features, which do not say it.

        Raises:
            DataError: files that belong together do not. ConfigError: features of an encoder that nobody names.
        """
        folder = Path(folder)
        if not folder.is_dir():
            return None
        if is_clip_retrieval(folder):
            return _clip_retrieval(folder, encoder)
        tables = sorted(folder.glob("*.parquet"))
        if not tables:
            return None
        names = set(_schema(tables[0]).names)
        if {"key", "status", "url"} <= names and any(table.with_suffix(".tar").is_file() for table in tables):
            with_tars = [PeerFile(each, each.stem, {}) for each in tables if each.with_suffix(".tar").is_file()]
            return cls(IMG2DATASET, folder, tuple(with_tars), {})
        if "uid" in names and "url" in names:
            return _datacomp(folder, tables)
        return None

    @classmethod
    def among(cls, sources: Sequence[str | Path], encoder: str = "") -> list[PeerFiles]:
        """Those of several folders. Of img2dataset's, ids begin as those of all their tars do: where two have one name,
        with the whole path.

        Raises:
            DataError, ConfigError: as of `of`; or a folder is given twice.
        """
        there = [(str(source), each) for source in sources if (each := cls.of(source, encoder)) is not None]
        own = {file: os.path.join(source, f"{file.label}.tar") for source, each in there for file in each.files}
        tars = {file: name for file, name in own.items() if file.label}
        labels = id_prefixes(list(tars.values()))
        return [
            replace(each, files=tuple(replace(f, label=labels[tars[f]]) if f in tars else f for f in each.files))
            for _, each in there
        ]

    @property
    def tars(self) -> list[Path]:
        """Of img2dataset."""
        return [file.table.with_suffix(".tar") for file in self.files] if self.kind == IMG2DATASET else []

    def has(self, column: str) -> bool:
        """Whether there is a column, whatever these files call it."""
        return any(name in self.columns for name in OTHER_NAMES.get(column, (column,)))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the plain columns: numbers, flags and strings."""
        return tuple(plain_columns(_schema(self.files[0].table)))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of features."""
        return tuple(self.files[0].arrays)

    def blocks_of(self, file: PeerFile, columns: Sequence[str], features: Sequence[str]) -> Iterator[PeerBlock]:
        """The rows of a file, some at a time, with some columns; of img2dataset those that were downloaded.

        Args:
            columns: of `columns`, or "text", "width" and "height" whatever these files call them.
            features: of `features`.

        Raises:
            DataError: a column is missing, a file is damaged, or has more or fewer rows than the one beside it.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(file.table) as opened:
                names = {name: self._named(name, file, opened.schema_arrow) for name in columns}
                ids = self._ids_in(opened.schema_arrow, file)
                status = ["status"] if self.kind == IMG2DATASET else []
                read = sorted({*names.values(), *ids, *status})
                arrays = {name: self._array(file, name, opened.metadata.num_rows) for name in features}
                start = 0
                for batch in opened.iter_batches(ROWS_AT_ONCE, columns=read, use_threads=False):
                    rows = np.arange(start, start + len(batch))
                    start += len(batch)
                    if status:
                        there = pc.equal(batch["status"], "success").fill_null(False)
                        batch, rows = batch.filter(there), rows[there.to_numpy(zero_copy_only=False)]
                    if not len(rows):
                        continue
                    parts = slice(rows[0], rows[-1] + 1) if len(rows) == rows[-1] - rows[0] + 1 else rows
                    yield PeerBlock(
                        self._ids(batch, ids, file, rows),
                        {name: batch[own] for name, own in names.items()},
                        {name: np.asarray(array[parts]) for name, array in arrays.items()},
                    )
        except (OSError, pa.ArrowException) as error:
            raise _damaged(file.table, error) from error

    def write(self, out: Path, columns: Sequence[str], features: bool) -> tuple[list[str], Path | None]:
        """As shards that a table of pairs is made of: what is there already is not written again.

        Args:
            out: folder that their folder is made in, under a name of what they are made of.
            columns: besides id and text.
            features: whether these are written too.

        Returns:
            Files with id, text and the columns; and the folder of features, as `embed --as parquet` writes it.
        """
        names = [TEXT, *(each for each in columns if each != TEXT)]
        facts = [
            [str(f.table), f.label, *_version(f.table), *(str(_version(p)) for p, _ in f.arrays.values())]
            for f in self.files
        ]
        made_of = {"kind": self.kind, "files": facts, "columns": names, "encoders": dict(self.encoders)}
        place, listed = out / settings_hash(made_of), []
        for number, file in enumerate(self.files):
            name = f"part-{number:08d}.parquet"
            listed.append(str(place / "facts" / name))
            self._write_file(place / "facts" / name, file, names, ())
            if features and self.features:
                self._write_file(place / "features" / name, file, (), self.features)
        return listed, place / "features" if features and self.features else None

    def _write_file(self, path: Path, file: PeerFile, columns: Sequence[str], features: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            writer = None
            for block in self.blocks_of(file, columns, features):
                made: dict[str, Any] = {"id": pa.array(block.ids, pa.string()), **block.columns}
                made |= {name: _lists(rows) for name, rows in block.features.items()}
                if features:
                    made |= {
                        f"encoder{ending}": pa.array([encoder] * len(block.ids), pa.string())
                        for ending, encoder in self.encoders.items()
                    }
                table = pa.table(made)
                writer = writer or pq.ParquetWriter(partial, table.schema)
                writer.write_table(table)
            if writer is None:
                raise DataError(f"{file.table}: has no rows that can be used; leave it out")
            writer.close()

    def _named(self, name: str, file: PeerFile, schema: pyarrow.Schema) -> str:
        own = next((each for each in OTHER_NAMES.get(name, (name,)) if each in plain_columns(schema)), None)
        if own is None:
            raise DataError(f"{file.table}: no column '{name}'; {did_you_mean(name, list(plain_columns(schema)))}")
        return own

    def _ids_in(self, schema: pyarrow.Schema, file: PeerFile) -> list[str]:
        name = {DATACOMP: "uid", IMG2DATASET: "key", CLIP_RETRIEVAL: "image_path"}[self.kind]
        if name not in schema.names and self.kind != CLIP_RETRIEVAL:
            raise DataError(f"{file.table}: no column '{name}', which the other files have; restore it")
        return [name] if name in schema.names else []

    def _ids(self, batch: pyarrow.RecordBatch, names: list[str], file: PeerFile, rows: np.ndarray) -> list[str]:
        if not names:  # texts alone
            return [f"{file.table.stem}:{row}" for row in rows]
        label = f"{file.label}:" if file.label else ""
        return [f"{label}{each}" for each in batch[names[0]].to_pylist()]

    def _array(self, file: PeerFile, name: str, rows: int) -> np.ndarray:
        if name not in file.arrays:
            raise DataError(f"{file.table}: no features '{name}' beside it; {did_you_mean(name, list(file.arrays))}")
        path, key = file.arrays[name]
        try:
            if key:
                with np.load(path, allow_pickle=False) as held:
                    array = held[key]
            else:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(path, error) from error
        if array.ndim != 2 or array.dtype.kind != "f" or len(array) != rows:
            fault = f"{key or 'it'} has shape {tuple(array.shape)} of {array.dtype}"
            raise DataError(f"{path}: {fault}, and {file.table.name} has {rows:,} rows; restore both")
        return array


def is_clip_retrieval(folder: Path) -> bool:
    """Whether a folder is one of clip-retrieval's."""
    return (folder / "metadata").is_dir() and any((folder / name).is_dir() for name in ("img_emb", "text_emb"))


def _datacomp(folder: Path, tables: list[Path]) -> PeerFiles:
    beside = [table.with_suffix(".npz") for table in tables]
    there = [path for path in beside if path.is_file()]
    if there and len(there) < len(tables):
        missing = next(path for path in beside if not path.is_file())
        raise DataError(f"{missing}: missing, though other files have features; restore it, or remove all .npz")
    names: dict[str, str] = {}
    encoders: dict[str, str] = {}
    for ending, encoder in OF_DATACOMP.items() if there else ():
        own = {IMAGE_FEATURES: f"{ending}_img", CAPTION_FEATURES: f"{ending}_txt"}
        own = {f"{kind}_{ending}": name for kind, name in own.items() if name in _arrays_in(there[0])}
        names |= own
        encoders |= {f"_{ending}": encoder} if own else {}
    files = [PeerFile(t, "", {name: (n, key) for name, key in names.items()}) for t, n in zip(tables, beside)]
    return PeerFiles(DATACOMP, folder, tuple(files), encoders)


def _clip_retrieval(folder: Path, encoder: str) -> PeerFiles:
    numbered = [(match[1], path) for path in (folder / "metadata").iterdir() if (match := NUMBER.fullmatch(path.name))]
    if not numbered:
        raise DataError(f"{folder}: no metadata/metadata_0.parquet; run clip-retrieval with --enable_metadata or texts")
    if not encoder:
        raise ConfigError(
            f"{folder}: clip-retrieval does not write which model made the features; name it by --encoder, such as "
            "openai-vit-b-32"
        )
    kinds = {IMAGE_FEATURES: "img_emb", CAPTION_FEATURES: "text_emb"}
    kinds = {kind: name for kind, name in kinds.items() if (folder / name).is_dir()}
    files = []
    for number, table in sorted(numbered, key=lambda each: int(each[0])):
        arrays = {kind: (folder / name / f"{name}_{number}.npy", "") for kind, name in kinds.items()}
        if missing := [path for path, _ in arrays.values() if not path.is_file()]:
            raise DataError(f"{missing[0]}: missing, though {table.name} is there; restore it, or remove that")
        files.append(PeerFile(table, "", arrays))
    return PeerFiles(CLIP_RETRIEVAL, folder, tuple(files), {"": encoder})


def _arrays_in(path: Path) -> set[str]:
    try:
        with np.load(path, allow_pickle=False) as held:
            return set(held.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _schema(path: Path) -> pyarrow.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _lists(rows: np.ndarray) -> pyarrow.Array:
    import pyarrow as pa

    count, width = rows.shape
    offsets = pa.array(np.arange(0, (count + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(rows).reshape(-1)))


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({' '.join(str(error).split())}); download it again")
