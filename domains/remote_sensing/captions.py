"""Captioned images from above: the tables of RSITMD, RSICD and RS5M, Karpathy's JSON, WebDataset shards.

Tables have a name of an image and one caption per row, in UTF-8 or, as RSICD's, in GB18030; rows of one image belong
together wherever they stand. All other kinds are read as everywhere (`core/data/pairs`), RS5M's shards with
`img_content`, `img_name` and `caption` among them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...core.contracts import Captions, Decoded, DomainData, Item
from ...core.data import (
    IMAGE,
    CocoFile,
    Format,
    ItemCollector,
    Layout,
    PairSet,
    folders,
    loader,
    locate,
    read_pairs,
    shown,
)
from ...core.errors import ConfigError, DataError, shortened
from ...core.runtime import check_regular, read_json, read_start
from .box_captions import MASKS, read_captions_of_boxes
from .scene_sets import bare_name

ENCODINGS = ("utf-8-sig", "gb18030")
IMAGE_COLUMNS = ("filename", "image", "imagename", "imgname", "image_id", "path", "file", "filepath")
CAPTION_COLUMNS = ("title", "caption", "captions", "text", "sentence", "raw")
LANGUAGE_COLUMNS = ("language", "lang", "locale")
MOST_BYTES = 2 << 30
SPLIT_COLUMNS = ("split", "set")


def read_captions(
    path: Path,
    formats: tuple[Format, ...],
    root: str | None,
    max_pixels: int,
    language: str | None = None,
    class_names: Sequence[str] | None = None,
) -> DomainData:
    """Captioned images of whatever kind lies at `path`.

    Args:
        path: a table, a JSON of Karpathy's or COCO's shape, a tar shard, several by braces, or a folder of them; or
            boxes of COCO or a folder of images and masks, whose captions are made (`box_captions.py`).
        formats: what counts as an image beside a table; those of rasters are read so wherever they are named.
        language: captions of this language alone, of a table that has a column for it.
        class_names: of the values of masks.
        root: folder of the images; by default the file's own, and folders called images in it.
        max_pixels: most pixels of an image that is decoded.

    Raises:
        DataError: nothing there that can be read, or captions without images.
    """
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        return _of_table(path, formats, root, language)
    if language is not None:
        raise ConfigError(f"--language {language}: {path.name} is not a table with a column language; omit it")
    if _has_boxes(path):
        return read_captions_of_boxes(path, formats, class_names)
    return _of_pairs(path, formats, root, max_pixels)


def _has_boxes(path: Path) -> bool:
    """Whether it is a COCO file of boxes without captions, a folder with one, or one of images and masks."""
    if path.is_dir():
        captions = any(next(path.glob(name), None) for name in PairSet.FILES)
        return not captions and ((path / MASKS).is_dir() or bool(CocoFile.found_in(path)))
    if path.suffix.lower() != ".json":
        return False
    content = read_json(path)
    return CocoFile.is_shape_of(content) and all(
        "bbox" in some and "caption" not in some for some in content["annotations"][:1]
    )


def _of_table(path: Path, formats: tuple[Format, ...], root: str | None, language: str | None) -> DomainData:
    captions, splits, note = _captions_by_image(path, language)
    roots = [Path(root)] if root is not None else [path.parent, *_image_folders(path.parent)]
    collector = ItemCollector()
    for name, texts in captions.items():
        if (file := locate(name, roots, str(path))) is None:
            collector.skip(name, f"no such file below {roots[0]}")
        else:
            fields = {"target": Captions(tuple(dict.fromkeys(texts))), "split": splits.get(name, "")}
            collector.add_file(file, name, formats, **fields)
    if not collector.items:
        name, reason = collector.skipped[0]
        raise DataError(
            f"{path}: no image of its {len(captions)} captions can be read ({name}: {reason}); name their folder by "
            "--set data.root=FOLDER"
        )
    return collector.data_set(path, formats, kind="captions", name=path.stem, notes=[note] if note else [])


def _captions_by_image(path: Path, language: str | None) -> tuple[dict[str, list[str]], dict[str, str], str]:
    """Image -> captions, in order of first mention; image -> split; what is said of the encoding."""
    text, encoding = _decoded(path)
    reader = csv.reader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        header, *rows = [row for row in reader if any(cell.strip() for cell in row)] or [[]]
    except csv.Error as error:
        raise DataError(f"{path}: not a table ({error}); close its quotes") from None
    image, caption = _column(header, IMAGE_COLUMNS), _column(header, CAPTION_COLUMNS)
    if image is None or caption is None:
        what = "image" if image is None else "caption"
        listed = shortened(", ".join(header)) or "nothing"
        raise DataError(f"{path}: no column of the {what} (filename, title, ...); it has: {listed}")
    split, spoken, captions, splits = _column(header, SPLIT_COLUMNS), _column(header, LANGUAGE_COLUMNS), {}, {}
    if language is not None and spoken is None:
        raise ConfigError(f"--language {language}: {path} has no column language; omit it")
    languages: dict[str, None] = {}
    for row in rows:
        if len(row) <= max(image, caption, spoken or 0):
            raise DataError(
                f"{path}: a row has {len(row)} cells for {len(header)} columns; quote cells that hold commas"
            )
        if spoken is not None:
            languages[row[spoken].strip().lower()] = None
        if language is not None and row[spoken].strip().lower() != language.lower():
            continue
        if row[image].strip() and row[caption].strip():
            captions.setdefault(row[image].strip(), []).append(row[caption].strip())
            if split is not None and len(row) > split and row[split].strip() in ("train", "val", "test"):
                splits[row[image].strip()] = row[split].strip()
    if not captions and language is not None:
        raise ConfigError(f"--language {language}: {path} has no such captions; it has: {', '.join(languages)}")
    if not captions:
        raise DataError(f"{path}: no row has an image and a caption; give both in each row")
    return captions, splits, "" if encoding == ENCODINGS[0] else "The table is in GB18030, not UTF-8."


def _decoded(path: Path) -> tuple[str, str]:
    if check_regular(path) > MOST_BYTES:
        raise DataError(f"{path}: a table of more than {MOST_BYTES >> 30} GB; split it")
    content = read_start(path, MOST_BYTES)
    for encoding in ENCODINGS:
        try:
            return content.decode(encoding).replace("\0", ""), encoding
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path}: neither UTF-8 nor GB18030 text; save the file as UTF-8")


def _column(header: list[str], names: tuple[str, ...]) -> int | None:
    by_name = {bare_name(cell): place for place, cell in reversed(list(enumerate(header)))}
    return next((by_name[bare_name(name)] for name in names if bare_name(name) in by_name), None)


def _image_folders(folder: Path) -> list[Path]:
    """Folders beside a table whose names say that images lie in them ("images", "RSICD_images")."""
    return [inner for inner in folders(folder) if any(part in inner.name.lower() for part in Layout.CONTAINERS)]


def _of_pairs(path: Path, formats: tuple[Format, ...], root: str | None, max_pixels: int) -> DomainData:
    options = {"root": root} if root is not None else {}
    pairs = read_pairs(str(path), val=0.0, test=0.0, max_pixels=max_pixels, **options)
    base, divided = (path if path.is_dir() else path.parent), len(pairs.splits) > 1
    rasters = formats[0]
    items = [_item(pair, base, divided, rasters) for pair in pairs]
    return DomainData(
        items,
        (),
        _loader(max_pixels, rasters),
        kind="captions",
        name=pairs.name,
        skipped=list(pairs.skipped),
        notes=list(pairs.notes) if divided else [],
        licence=pairs.licence,
    )


def _item(pair: Any, base: Path, divided: bool, rasters: Format) -> Item:
    source, in_tar = Path(pair.source), pair.offset is not None
    decode = {"offset": pair.offset, "size": pair.size} if in_tar else {}
    if not in_tar and rasters.matches(source):
        decode = next(iter(rasters.expand(source)), {})
    return Item(
        pair.id if in_tar else shown(source, base),
        source,
        decode,
        Captions(pair.captions),
        group=pair.group,
        split=pair.split if divided else "",
        apart=in_tar,
    )


def _loader(max_pixels: int, rasters: Format) -> Callable[[Item], Decoded]:
    of_rasters = loader([rasters])

    def load(item: Item) -> Decoded:
        if "offset" not in item.decode and rasters.matches(item.source):
            return of_rasters(item)
        return IMAGE.load(item.source, {"max_pixels": max_pixels, **item.decode})

    return load
