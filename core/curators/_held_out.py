"""Test sets that pairs of a pool must not come from: features of their images, and tables of their hashes and texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.curator import IMAGE_FEATURES, TEXT, PairTable, Progress
from ..errors import DataError
from ..runtime.process import need_package
from ._kmeans import unit_rows
from ._targets import read_target

HASHES, HASH = ("sha256", "pixels_sha256"), "phash"
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
COMPARED = (*HASHES, HASH, TEXT)
"""Columns of a table that are compared with those of the pool."""
SEARCHED_WHOLE = 10_000
"""Test images up to which each pair is compared with all."""
CELLS_SEARCHED = 32
ROWS_AT_ONCE = 16_384
SAMPLE, LEAST_SAMPLE = 2048, 40
UNRELATED = 3.09
"""Standard deviations; one of a thousand draws of a normal distribution lies beyond."""
DEFAULT_LIMITS, LEAST_LIMIT, MOST_LIMIT = (0.95, 0.85), 0.5, 0.99


@dataclass(frozen=True, eq=False)
class HeldOutTable:
    """Rows of a table.

    Args:
        place: file or folder.
        ids: of each row; its number where there is no such column.
        columns: name of `COMPARED` -> a value for each row, "" or 0 where there is none.
    """

    place: str
    ids: tuple[str, ...]
    columns: dict[str, list[Any]]


def has_features(place: str) -> bool:
    """Whether a file or folder holds features, and not a table.

    Raises:
        DataError: there is nothing.
    """
    path = Path(place)
    if not path.exists():
        raise DataError(f"{place}: no such file or folder; give features or a table of a test set")
    if path.is_dir():
        files = _files_of(path)
        return not files or any(name.startswith(IMAGE_FEATURES) for name in _schema(files[0]))
    return Path(path.name.removesuffix(".gz")).suffix.lower() not in TABLES


def read_tables(places: Iterable[str]) -> list[HeldOutTable]:
    """Tables of test sets: CSV, TSV, JSON lines, or Parquet files, or folders of Parquet files.

    Raises:
        DataError: one is missing, cannot be read, or has none of the columns that are compared.
    """
    return [_read_table(Path(place)) for place in places]


def normalised(text: str) -> str:
    """A caption without case, punctuation, and differences of spelling that Unicode calls compatible."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


@dataclass(frozen=True, eq=False)
class HeldOutImages:
    """Features of the images of some test sets.

    Args:
        features: (M, D) float32 unit rows.
        ids: of each row; its number in its set where the file does not say.
        places: S files or folders.
        set_of: (M,) which of them each row is from.
    """

    features: np.ndarray
    ids: tuple[str, ...]
    places: tuple[str, ...]
    set_of: np.ndarray

    @classmethod
    def read(cls, places: tuple[str, ...], pairs: PairTable) -> HeldOutImages:
        """Of files and folders of features, which must be of the encoder of the pairs.

        Raises:
            DataError: one cannot be read, or is of another encoder.
        """
        targets = [read_target(place, pairs) for place in places]
        counts = [len(each.features) for each in targets]
        ids = [id_ for each in targets for id_ in each.ids or map(str, range(len(each.features)))]
        features = np.concatenate([each.features for each in targets]).astype(np.float32, copy=False)
        return cls(features, tuple(ids), places, np.repeat(np.arange(len(places)), counts))

    def limits(self) -> tuple[float, float]:
        """Cosines from which on an image is a near copy of a test image, and from which on it is like one.

        Both follow from how alike different images are to the encoder. Of up to 2,048 test images the cosine with the
        nearest other one is taken, as Fisher's z. An image is like another from their median on, and a near copy from
        where one of a thousand would be if they were normal, with the deviation of the lower side, in which no copies
        are. Of fewer than 40 images nothing can be learned, and 0.95 and 0.85 are taken.
        """
        import torch

        from ..data import nearest_rows

        if len(self.features) < LEAST_SAMPLE:
            return DEFAULT_LIMITS
        by_value = np.argsort(self.features[:, 0], kind="stable")  # a sample that no order of the sets changes
        sample = by_value[np.linspace(0, len(by_value) - 1, min(SAMPLE, len(by_value))).astype(np.int64)]
        rows = torch.from_numpy(self.features)
        cosines, index = (each.numpy() for each in nearest_rows(rows[torch.from_numpy(sample)], rows, 2))
        other = np.where(index[:, 0] == sample, cosines[:, 1], cosines[:, 0]).astype(np.float64)
        lower, middle = np.quantile(np.arctanh(np.clip(other, -0.9999, 0.9999)), (0.16, 0.5))
        copy = np.clip(np.tanh(middle + UNRELATED * (middle - lower)), LEAST_LIMIT, MOST_LIMIT)
        return float(copy), float(min(np.tanh(middle), copy))

    def nearest(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> tuple[np.ndarray, np.ndarray]:
        """(N,) float32 cosine of each pair with the test image nearest to it, and (N,) which row that is.

        Up to 10,000 test images are all compared; of more, those of the 32 cells of an inverted file that are nearest,
        where a near copy lies.
        """
        cosines, nearest = np.empty(len(pairs), np.float32), np.empty(len(pairs), np.int64)
        search = self._search_all if len(self.features) <= SEARCHED_WHOLE else self._index()
        for rows in pairs.blocks(ROWS_AT_ONCE):
            cosines[rows], nearest[rows] = search(unit_rows(pairs, IMAGE_FEATURES, rows))
            progress(rows.stop, len(pairs))
        return cosines, nearest

    def _search_all(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        from ..data import nearest_rows

        cosines, index = nearest_rows(torch.from_numpy(units), torch.from_numpy(self.features), 1)
        return cosines[:, 0].numpy(), index[:, 0].numpy()

    def _index(self) -> Any:
        from ..data import faiss_library

        faiss = faiss_library()
        count, width = self.features.shape
        cells = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFFlat(cells, width, int(4 * count**0.5), faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1
        index.train(self.features)
        index.add(self.features)
        index.nprobe = CELLS_SEARCHED

        def search(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            cosines, nearest = index.search(units, 1)
            return cosines[:, 0], nearest[:, 0]

        return search


def _read_table(path: Path) -> HeldOutTable:
    files = _files_of(path) if path.is_dir() else [path]
    columns: dict[str, list[Any]] = {}
    count = 0
    for file in files:
        read = _parquet if file.suffix == ".parquet" else _lines
        for rows in read(file):
            for name in {*columns, *rows} - {"rows"}:
                column = columns.setdefault(name, [None] * count)
                column += rows.get(name, [None] * rows["rows"])
            count += rows["rows"]
    if not set(columns) - {"id"}:
        raise DataError(f"{path}: has none of the columns {', '.join(COMPARED)}; give a table of the test set with one")
    ids = [str(number) if id_ is None else str(id_) for number, id_ in enumerate(columns.pop("id", [None] * count))]
    made = {
        name: [_hash(value, path) for value in column] if name == HASH else _texts(column)
        for name, column in columns.items()
    }
    return HeldOutTable(str(path), tuple(ids), made)


def _files_of(folder: Path) -> list[Path]:
    """Parquet files of a folder, or of the folders of shards in it."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("*/part-*.parquet"))


def _schema(file: Path) -> list[str]:
    """Columns of a Parquet file."""
    need_package("a table of a test set", "pyarrow", "shards")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(file).names
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable table ({' '.join(str(error).split())}); write it again") from None


def _named(names: Iterable[str]) -> dict[str, str]:
    """Column of a file -> what it is called here."""
    wanted = {**{name: name for name in ("id", *COMPARED)}, "caption": TEXT}
    kept = {name: wanted[name] for name in names if name in wanted}
    return {name: ours for name, ours in kept.items() if name == ours or ours not in kept}


def _parquet(file: Path) -> Iterator[dict[str, Any]]:
    names = _named(_schema(file))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(columns=list(names)):
            columns = {names[name]: batch.column(name).to_pylist() for name in names}
            yield {**columns, "rows": batch.num_rows}
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable table ({' '.join(str(error).split())}); write it again") from None


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    from ..data import read_table

    table = read_table(file)
    names = _named(table.columns)
    columns = {names[name]: [row.values.get(name) for row in table.rows] for name in names}
    yield {**columns, "rows": len(table.rows)}


def _hash(value: Any, path: Path) -> int:
    """A hash as a number, from one, or from its decimal or "0x" spelling; 0 where there is none."""
    try:
        return 0 if value in (None, "") else int(str(value).strip(), 0) % 2**64
    except ValueError:
        raise DataError(f"{path}: column '{HASH}' holds {value!r}; give whole numbers of 64 bits") from None


def _texts(column: list[Any]) -> list[str]:
    return ["" if value is None else str(value) for value in column]
