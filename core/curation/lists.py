"""What was kept as lists: LIST.parquet with a weight per pair, which `pretrain` reads, and DataComp's array of ids."""

from __future__ import annotations

import io
import os
import re
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.pairs.pair_list import FORMAT, TAG, TYPES, list_schema
from ..errors import DataError, first_of, printable
from ..runtime.files import replacing, write_whole
from ..runtime.remote import is_url
from ..shards import ShardPlace
from ..shards.sources import ParquetSource, Source
from .decide import CAPTION
from .stored import database

if TYPE_CHECKING:
    import pyarrow

LIST, UIDS = "LIST.parquet", "uids.npy"
CAPTION_ITM = "caption_itm"
"""Of files of captions: the probability that one matches its image, of `curate caption --matcher`."""
PART = re.compile(r"part-\d+\.parquet")
UID = "^[0-9a-f]{32}$"
ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class KeptPairs:
    """The pairs that decisions keep, in ascending order of ids.

    Args:
        ids: (N,) strings, each once.
        weights: (N,) float32.
        captions: (N,) strings, of the pairs whose text a stage has changed; null for others.
    """

    ids: pyarrow.Array
    weights: np.ndarray
    captions: pyarrow.Array

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, decisions: Sequence[ShardPlace]) -> KeptPairs:
        """Those that all of some folders of decisions keep: `part-*.parquet` with the columns id, keep and weight.
        Weights are multiplied; of several changed texts of a pair that of the last folder counts.

        Raises:
            DataError: there are no decisions in one, they are damaged, an id occurs twice, or nothing is kept.
        """
        import pyarrow.compute as pc

        first, *others = [_kept_by(each) for each in decisions]
        for other in others:
            at = pc.index_in(first.ids, value_set=other.ids)
            both = at.is_valid().to_numpy(zero_copy_only=False)
            rows, theirs = np.flatnonzero(both), at.drop_null().to_numpy()
            weights = first.weights[rows] * other.weights[theirs]
            captions = pc.coalesce(other.captions.take(theirs), first.captions.take(rows))
            first = cls(first.ids.take(rows), weights, captions)
        if not len(first):
            raise DataError(f"{decisions[-1]}: nothing is kept; relax a rule")
        return first

    def beginning_with(self, prefix: str) -> range:
        """Positions of the ids that begin so; the last character of `prefix` is below U+D7FF."""
        after = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        names = _Names(self.ids)
        return range(bisect_left(names, prefix), bisect_left(names, after))


class Positions:
    """Finds ids among many by hashes of 16 bytes, 24 bytes of memory each.

    Args:
        ids: (N,) strings.
    """

    def __init__(self, ids: pyarrow.Array):
        blocks = range(0, len(ids), ROWS_AT_ONCE)
        digests = [_digests(ids[start : start + ROWS_AT_ONCE].to_pylist()) for start in blocks]
        whole = np.concatenate(digests) if digests else np.empty(0, "S16")
        self._order = np.argsort(whole, kind="stable")
        self._sorted = whole[self._order]

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """(M,) int64, where each is among them, -1 for none."""
        if not len(self._sorted) or not len(ids):
            return np.full(len(ids), -1)
        digests = _digests(ids)
        at = np.searchsorted(self._sorted, digests).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[at] == digests, self._order[at], -1)


def write_list(
    kept: KeptPairs, sources: Sequence[Source], out: ShardPlace, name: str = LIST, captions: Sequence[str] = ()
) -> int:
    """Write where each pair that is kept lies, in the order of the sources. Of tars nothing is read.

    Args:
        kept: of decisions on these sources.
        sources: as a `Manifest` lists them: tars, Parquet files, and lists of images.
        out: a folder of this machine; an older list in it is replaced once the new one is whole.
        captions: files of `captions_in`, for the column `synthetic`.

    Returns:
        How many pairs have a caption by a model.

    Raises:
        DataError: a pair is in none of the sources, a source cannot be read, or the captions are of none of the pairs.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.check()
    listed, captioned = np.zeros(len(kept), bool), 0
    schema = list_schema()
    with replacing(Path(out.path(name))) as partial:
        with pq.ParquetWriter(partial, schema) as writer:
            for rows in _rows(kept, sources, out, listed):
                writer.write_table(pa.Table.from_pylist(rows, schema))
        if not listed.all():
            lost = np.flatnonzero(~listed)
            names = first_of([printable(kept.ids[int(row)].as_py()) for row in lost[:3]], 3)
            raise DataError(
                f"{len(lost):,} of {len(kept):,} pairs that are kept are in none of the sources ({names}); give the "
                "sources that the decisions were made of"
            )
        if captions:
            captioned = _add_captions(partial, captions)
    return captioned


def captions_in(captions: Path) -> list[str]:
    """The files of a folder of `curate caption`: shards with id and caption.

    Raises:
        DataError: no captions there, or of several models.
    """
    files = sorted(map(str, captions.glob("part-*.parquet"))) or sorted(map(str, captions.glob("*/part-*.parquet")))
    if not files or len({os.path.dirname(file) for file in files}) > 1:
        raise DataError(f"{captions}: holds captions of {'several models' if files else 'none'}; give a folder of one")
    return files


def _add_captions(listed: Path, files: Sequence[str]) -> int:
    """Write them into a list, but those that do not match their image where a matcher told so; returns how many pairs
    have one."""
    import pyarrow.parquet as pq

    matched = f"WHERE {CAPTION_ITM} > 0.5" if CAPTION_ITM in pq.read_schema(files[0]).names else ""
    with tempfile.TemporaryDirectory() as folder, database(Path(folder)) as base, replacing(listed) as partial:
        columns = ", ".join(f'l."{name}"' for name in TYPES if name != "synthetic")
        target, tag = str(partial).replace("'", "''"), f"{{'{TAG.decode()}': '{FORMAT.decode()}'}}"
        base.execute(
            f"""COPY (SELECT {columns}, c.caption AS synthetic
            FROM read_parquet(?, file_row_number = true) l
            LEFT JOIN (SELECT id, min(caption) AS caption FROM read_parquet(?) {matched} GROUP BY id) c ON l.id = c.id
            ORDER BY l.file_row_number) TO '{target}' (FORMAT parquet, KV_METADATA {tag})""",
            [str(listed), list(files)],
        )
        count = base.execute("SELECT count(synthetic) FROM read_parquet(?)", [str(partial)]).fetchone()
        if not count or not count[0]:
            matching = " that match their images" if matched else ""
            raise DataError(
                f"{os.path.dirname(files[0])}: captions of none of these pairs{matching}; caption the same sources"
            )
    return int(count[0])


def write_uids(kept: KeptPairs, out: ShardPlace, name: str = UIDS) -> int:
    """Write the ids as DataComp's tools read them: a sorted .npy of dtype "u8,u8", the upper 64 bits of each id first.

    DataComp: In search of the next generation of multimodal datasets, 2023, arXiv 2304.14108.

    Returns:
        How many.

    Raises:
        DataError: an id is not of 32 hexadecimal digits.
    """
    check_uids(kept)
    array = np.empty(len(kept), "u8,u8")
    for start in range(0, len(kept), ROWS_AT_ONCE):
        ids = kept.ids[start : start + ROWS_AT_ONCE].to_pylist()
        numbers = np.frombuffer(bytes.fromhex("".join(ids)), ">u8").reshape(-1, 2)
        array["f0"][start : start + len(ids)], array["f1"][start : start + len(ids)] = numbers[:, 0], numbers[:, 1]
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)  # ids ascend, and so do the numbers
    write_whole(Path(out.path(name)), buffer.getvalue())
    return len(kept)


def check_uids(kept: KeptPairs) -> None:
    """Raise the DataError of an id that is none of DataComp's."""
    import pyarrow.compute as pc

    wrong = pc.invert(pc.match_substring_regex(kept.ids, UID)).to_numpy(zero_copy_only=False)
    if wrong.any():
        name = printable(kept.ids[int(wrong.argmax())].as_py())
        raise DataError(
            f"{UIDS}: DataComp's ids are 32 hexadecimal digits, and {name!r} is not; write a list or tars instead"
        )


def _kept_by(decisions: ShardPlace) -> KeptPairs:
    """Those that one folder keeps."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.large_string()
    ids, captions, weights = list[Any](), list[Any](), [np.empty(0, np.float32)]
    for name in decision_files(decisions):
        table = read_part(decisions, name, ("id", "keep", "weight"), (CAPTION,))
        chosen = table.filter(table["keep"])
        ids += chosen["id"].cast(kind).chunks
        captions += (
            chosen[CAPTION].cast(kind).chunks if CAPTION in table.column_names else [pa.nulls(len(chosen), kind)]
        )
        weights.append(chosen["weight"].to_numpy().astype(np.float32))
    whole, texts = (pa.chunked_array(each, kind).combine_chunks() for each in (ids, captions))
    order = pc.sort_indices(whole)
    kept = KeptPairs(whole.take(order), np.concatenate(weights)[order.to_numpy()], texts.take(order))
    twice = pc.equal(kept.ids[1:], kept.ids[:-1]).to_numpy(zero_copy_only=False)
    if twice.any():
        name = kept.ids[int(twice.argmax())].as_py()
        raise DataError(f"{decisions}: the id {printable(name)!r} occurs twice; make the ids unique")
    return kept


def decision_files(decisions: ShardPlace) -> list[str]:
    """Names of the files of a folder of decisions, in order.

    Raises:
        DataError: there is none.
    """
    names = sorted(name for name in decisions.listed("") if PART.fullmatch(name))
    if not names:
        raise DataError(f"{decisions}: no decisions in it (part-*.parquet); give the folder that a stage has written")
    return names


def read_part(
    decisions: ShardPlace, name: str, columns: Sequence[str] | None = None, where_there: Sequence[str] = ()
) -> pyarrow.Table:
    """Some columns of a part, or all.

    Args:
        where_there: columns that a part may lack.

    Raises:
        DataError: it is damaged, or lacks one of `columns`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with decisions.reached():
            content = pa.BufferReader(decisions.read(name) or b"")
        further = set(pq.read_schema(content).names) & set(where_there) if columns else ()
        return pq.read_table(content, columns=columns and [*columns, *further])
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{decisions.path(name)}: not a part of decisions ({reason}); run the stage again") from error


def _rows(
    kept: KeptPairs, sources: Sequence[Source], out: ShardPlace, listed: np.ndarray
) -> Iterator[list[dict[str, Any]]]:
    """Rows of the list, some at a time; `listed` becomes true where a pair was seen."""
    tars = [source for source in sources if not isinstance(source, ParquetSource)]
    positions: dict[str, np.ndarray] = {}
    for source in sorted(tars, key=lambda each: -len(each.label)):  # "a:b" before "a", of whose keys one may be "b:c"
        inside = kept.beginning_with(f"{source.label}:")
        mine = np.arange(inside.start, inside.stop)
        positions[source.name] = mine[~listed[mine]]
        listed[mine] = True
    among = Positions(kept.ids) if len(tars) < len(sources) else None
    for source in sources:
        place = _relative(source.name, out)
        if isinstance(source, ParquetSource):
            assert among is not None
            yield from _of_table(kept, source, place, out, among, listed)
            continue
        mine, skip = positions[source.name], len(source.label) + 1
        for start in range(0, len(mine), ROWS_AT_ONCE):
            rows = mine[start : start + ROWS_AT_ONCE]
            ids, captions = kept.ids.take(rows).to_pylist(), kept.captions.take(rows).to_pylist()
            yield [
                {"id": id_, "weight": weight, "source": place, "key": id_[skip:], "row": -1, "caption": caption}
                for id_, weight, caption in zip(ids, kept.weights[rows].tolist(), captions)
            ]


def _of_table(
    kept: KeptPairs, source: ParquetSource, place: str, out: ShardPlace, among: Positions, listed: np.ndarray
) -> Iterator[list[dict[str, Any]]]:
    def new(ids: list[str]) -> np.ndarray:
        where = among.of(ids)
        return (where >= 0) & ~listed[where]

    rows = source.listed(new)
    while some := list(islice(rows, ROWS_AT_ONCE)):
        where = among.of([row.id for _, row in some])
        listed[where] = True
        in_file = "bytes" in source.roles
        yield [
            {
                "id": row.id,
                "weight": weight,
                "source": place if in_file else _relative(row.path, out),
                "key": "",
                "row": number if in_file else -1,
                "caption": row.text if caption is None else caption,
            }
            for (number, row), weight, caption in zip(
                some, kept.weights[where].tolist(), kept.captions.take(where).to_pylist()
            )
        ]


def _relative(source: str, out: ShardPlace) -> str:
    """As the list names a source: relative to its folder where it lies in it, so that both can be moved together."""
    if is_url(source) or is_url(out.root):
        return source
    folder, whole = os.path.abspath(out.root), os.path.abspath(source)
    inside = Path(whole).is_relative_to(folder)
    return os.path.relpath(whole, folder) if inside else whole


class _Names:
    """Strings of Arrow as Python's, one at a time."""

    def __init__(self, ids: pyarrow.Array):
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> str:
        return self.ids[place].as_py()


def _digests(ids: Sequence[str]) -> np.ndarray:
    return np.frombuffer(b"".join(blake2b(i.encode(), digest_size=16).digest() for i in ids), "S16")
