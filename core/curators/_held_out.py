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
from ..errors import DataError, shortened
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
LIKE = 0.95
"""Of test images, the share whose nearest other one is less like them than what is dropped with its caption."""
DEFAULT_LIMITS, LEAST_LIMIT, USABLE = (0.95, 0.85), 0.5, 0.9999
"""Beyond `USABLE`, the same image differs from itself by the precision in which an encoder is run."""
NO_LIMIT = np.inf
BARE_HEXADECIMAL = re.compile(r"[0-9a-fA-F]{16}")
MARKS, INVISIBLE = ("Mn", "Mc"), "Cf"


@dataclass(frozen=True, eq=False)
class HeldOutTable:
    """Rows of a table.

    Args:
        place: file or folder.
        ids: of each row; its number where it has none.
        columns: name of `COMPARED` -> a value for each row, "" or 0 where there is none.
        named: of each row, whether its id is its own.
    """

    place: str
    ids: tuple[str, ...]
    columns: dict[str, list[Any]]
    named: tuple[bool, ...]


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


def normalised_caption(text: str) -> str:
    """A caption without case, punctuation, and differences of spelling that Unicode calls compatible.

    Combining marks stay, which are letters of many scripts, and "+" and "#": "C", "C++" and "C#" differ.
    """
    return " ".join(re.sub(r"[\W_]", _of_word, unicodedata.normalize("NFKC", text).casefold()).split())


def _of_word(match: re.Match[str]) -> str:
    sign = match[0]
    category = unicodedata.category(sign)
    if category == INVISIBLE or "\ufe00" <= sign <= "\ufe0f":  # joiners, and how the sign before is drawn
        return ""
    return sign if sign in "+#" or category in MARKS else " "


@dataclass(frozen=True, eq=False)
class HeldOutImages:
    """Features of the images of some test sets.

    Args:
        features: (M, D) float32 unit rows.
        ids: of each row; its number in its set where the file does not say.
        places: S files or folders.
        set_of: (M,) which of them each row is from.
        named: of each set, whether the ids are its own.
    """

    features: np.ndarray
    ids: tuple[str, ...]
    places: tuple[str, ...]
    set_of: np.ndarray
    named: tuple[bool, ...] = ()

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
        named = tuple(bool(each.ids) for each in targets)
        return cls(features, tuple(ids), places, np.repeat(np.arange(len(places)), counts), named)

    def rows_by_id(self) -> dict[str, list[int]]:
        """Id -> rows; of sets whose files tell ids."""
        rows: dict[str, list[int]] = {}
        for row, (id_, number) in enumerate(zip(self.ids, self.set_of.tolist())):
            if self.named[number]:
                rows.setdefault(id_, []).append(row)
        return rows

    def limits(self) -> tuple[float, float]:
        """Cosines from which on an image is a near copy of a test image, and from which on it is like one.

        Both follow from how alike different images are to the encoder. Of up to 2,048 test images, equal rows apart,
        the cosine with the nearest other one is taken. An image is like another from where 95 of 100 of these lie
        below, and a near copy from where one of a thousand would be if they were normal as Fisher's z, with the
        deviation of the lower side, in which no copies are. Of fewer than 40 images little can be learned: 0.95 and
        0.85 are taken unless these are higher. `NO_LIMIT` twice where the first is not below `USABLE`.
        """
        import torch

        from ..data import nearest_rows

        different = np.sort(np.unique([hash(row.tobytes()) for row in self.features], return_index=True)[1])
        few = len(self.features) < LEAST_SAMPLE
        if len(different) < 3:
            return DEFAULT_LIMITS if few else (NO_LIMIT, NO_LIMIT)
        rows = self.features if len(different) == len(self.features) else self.features[different]
        by_value = np.argsort(rows[:, 0], kind="stable")  # a sample that no order of the sets changes
        sample = by_value[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)]
        keys = torch.from_numpy(rows)
        cosines, index = (each.numpy() for each in nearest_rows(keys[torch.from_numpy(sample)], keys, 2))
        other = np.where(index[:, 0] == sample, cosines[:, 1], cosines[:, 0]).astype(np.float64)
        z = np.arctanh(np.clip(other, -1 + 1e-7, 1 - 1e-7))
        lower, middle, upper = np.quantile(z, (0.16, 0.5, LIKE))
        copy = max(float(np.tanh(middle + UNRELATED * (middle - lower))), LEAST_LIMIT)
        if few:
            copy = max(copy, DEFAULT_LIMITS[0])
        if copy >= USABLE:
            return NO_LIMIT, NO_LIMIT
        like = max(float(np.tanh(upper)), DEFAULT_LIMITS[1] if few else -1.0)
        return copy, min(like, copy)

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
    own = columns.pop("id", [None] * count)
    ids = [str(number) if id_ is None else str(id_) for number, id_ in enumerate(own)]
    made = {name: _hashes(column, path) if name == HASH else _texts(column) for name, column in columns.items()}
    return HeldOutTable(str(path), tuple(ids), made, tuple(id_ is not None for id_ in own))


def _files_of(folder: Path) -> list[Path]:
    """Parquet files of a folder, or of the folders of shards in it."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("*/part-*.parquet"))


def _schema(file: Path) -> list[str]:
    """Columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(file).names
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable table ({' '.join(str(error).split())}); write it again") from None


def _named(names: Iterable[str]) -> dict[str, str]:
    """Column of a file -> what it is called here."""
    column_of = {**{name: name for name in ("id", *COMPARED)}, "caption": TEXT}
    kept = {name: column_of[name] for name in names if name in column_of}
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


def _hashes(column: list[Any], path: Path) -> list[int]:
    """Hashes as numbers, 0 where there is none: from numbers, or decimal, "0x" or bare hexadecimal spellings.

    Bare ones have 16 digits, as imagehash writes them. One of decimal digits alone is hexadecimal where another in the
    column is, or where it begins with 0.
    """
    texts = ["" if value is None else str(value).strip() for value in column]
    bare = [isinstance(value, str) and bool(BARE_HEXADECIMAL.fullmatch(text)) for value, text in zip(column, texts)]
    hexadecimal = any(is_bare and (text[0] == "0" or not text.isdigit()) for text, is_bare in zip(texts, bare))
    numbers = []
    for text, is_bare in zip(texts, bare):
        base = 16 if text[:2].lower() == "0x" or (hexadecimal and is_bare) else 10
        try:
            number = int(text or "0", base)
        except ValueError:
            number = 2**64
        if not -(2**63) <= number < 2**64:
            raise DataError(
                f"{path}: column '{HASH}' holds {shortened(text, 40)!r}; give hashes of 64 bits, as whole numbers or "
                "as 16 hexadecimal digits"
            )
        numbers.append(number % 2**64)
    return numbers


def _texts(column: list[Any]) -> list[str]:
    return ["" if value is None else str(value) for value in column]
