"""Sets whose images have captions in several languages, in the layouts that they are published in.

| set | layout |
|---|---|
| XTD10, 2020, arXiv 2012.05107 | `XTD10/test_image_names.txt`, `*/test_1kcaptions_LANG.txt`: 11 languages |
| Crossmodal-3600, 2022, arXiv 2205.12522 | `captions.jsonl`: `"image/key"`, `"de": {"caption"}`; 36 |
| xFlickr&CO of IGLUE, 2022, arXiv 2201.11732 | `annotations/LANG/test.jsonl`: `"img_path"`, `"sentences"`; 8 |
| Multi30k, 2016, arXiv 1605.00459 | `raw/SPLIT.LANG` or `raw/SPLIT.N.LANG`, or those packed, and `image_splits/` |

The images of XTD10 are COCO train2014: a tower that was tuned on COCO has seen them.
"""

from __future__ import annotations

import gzip
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...runtime.reading import check_regular, json_values, parse_json, text_lines
from .builder import PairBuilder
from .coco_captions import IMAGE_FOLDERS, USUAL_FOLDERS
from .file_finder import FileFinder
from .pair_set import PairSet
from .record_fields import BrokenRow, texts_of

ENGLISH = "en"
NAMES = {"jp": "ja"}
"""Codes of a set -> the language's usual one."""
COLUMN = "caption_"
"""How the further column of a language begins."""
FOLDERS = (*USUAL_FOLDERS, *IMAGE_FOLDERS, "train2014", "val2014", "images/train2014", "images/val2014", "image")
XTD_NAMES = "test_image_names.txt"
XTD_CAPTIONS = re.compile(r"test_1kcaptions_(\w+)\.txt")
XM_CAPTIONS = "captions.jsonl"
MOST_UNPACKED = 1 << 30
"""Bytes of a packed file of sentences at most."""


@dataclass(frozen=True)
class CaptionedImage:
    """An image of a set.

    Args:
        image: name of its file.
        captions: language -> captions.
        split: "train", "val", "test" or "".
        place: where it is listed, for messages.
    """

    image: str
    captions: Mapping[str, Sequence[str]]
    split: str
    place: str


@dataclass(frozen=True)
class MultilingualSet:
    """A set as it lies on a disk.

    Args:
        kind: for messages.
        listed_in: the file or folder that lists its images.
        base: folder that the images lie in, or in a folder of it.
        rows: reads it, anew each time.
        notes: sentences for the user.
    """

    kind: str
    listed_in: Path
    base: Path
    rows: Any
    notes: tuple[str, ...] = ()

    def read(
        self, root: Path | None = None, language: str | None = None, columns: Mapping[str, str] | None = None
    ) -> PairSet:
        """The images that have captions in a language, with these.

        Args:
            root: folder of the images; by default `base`, and the usual folders in it.
            language: its code; by default English where the set has it, else its first.
            columns: further columns that are kept: captions in another language are "caption_de".

        Raises:
            DataError: a file is malformed, the set lacks the language, or none of its images can be used.
        """
        base = root or self.base
        finder = FileFinder(base, [base / folder if folder else base for folder in FOLDERS])
        builder = PairBuilder(base, self.listed_in, unit="image")
        languages = sorted({code for row in self.rows() for code in row.captions})
        chosen = language and NAMES.get(language, language)
        main = chosen or (ENGLISH if ENGLISH in languages else next(iter(languages), ENGLISH))
        asked = [name.removeprefix(COLUMN) for name in columns or () if name.startswith(COLUMN)]
        for code in (main, *(NAMES.get(code, code) for code in asked)):
            if code not in languages:
                there = ", ".join(languages) or "none"
                raise DataError(f"{self.listed_in}: {self.kind} has no captions in '{code}'; give one of {there}")
        without = 0
        for number, row in enumerate(self.rows(), start=1):
            if not row.captions.get(main):
                without += 1
                continue
            name, reason = finder.find(row.image, row.place)
            if reason:
                builder.skip(row.image[:200], reason)
                continue
            further = {f"{COLUMN}{code}": row.captions.get(NAMES.get(code, code), ()) for code in asked}
            builder.add(name, row.captions[main], split=row.split, place=number, texts=further)
        if without:
            builder.notes.append(f"Images without a caption in '{main}', left out: {without}.")
        builder.notes += [f"Captions in '{main}', of {', '.join(languages)}.", *self.notes]
        return builder.build(name=f"{self.kind}-{main}")


def multilingual_set(place: Path) -> MultilingualSet | None:
    """The set that lies at a file or folder; None where there is none of them.

    Raises:
        DataError: a part of its layout is missing.
    """
    if place.is_file():
        return _set_of_file(place)
    if (place / XM_CAPTIONS).is_file() and (there := _set_of_file(place / XM_CAPTIONS)):
        return there
    for folder in (place, place / "XTD10"):
        if (folder / XTD_NAMES).is_file():
            return _xtd(folder)
    for folder in (place, place / "annotations"):
        files = {file.parent.name: file for file in sorted(folder.glob("*/test.jsonl"))}
        if files and all({"img_path", "sentences"} <= _first_object(file).keys() for file in files.values()):
            base = folder.parent if folder.name == "annotations" else folder
            return MultilingualSet("xFlickrCO", folder, base, partial(_by_image, partial(_sentences, files, "test")))
    if (place / "raw").is_dir() and (place / "image_splits").is_dir():
        return _multi30k(place)
    return None


def _set_of_file(file: Path) -> MultilingualSet | None:
    if file.suffix.lower() != ".jsonl":
        return None
    first = _first_object(file)
    if "image/key" in first:
        return MultilingualSet("XM3600", file, file.parent, partial(_crossmodal, file))
    if {"img_path", "sentences"} <= first.keys():
        language, folder = file.parent.name, file.parent.parent
        base = folder.parent if folder.name == "annotations" else folder
        split = "test" if file.stem == "test" else ""
        rows = partial(_by_image, partial(_sentences, {language: file}, split))
        return MultilingualSet("xFlickrCO", file, base, rows)
    return None


def _first_object(file: Path) -> dict[str, Any]:
    """The object of the first line that holds something; nothing where it is none, which other readers then refuse."""
    check_regular(file)
    line = next((line for line in text_lines(file) if line.strip()), "")
    try:
        row = json_values(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


# the layouts ---------------------------------------------------------------------------------------------------------


def _xtd(folder: Path) -> MultilingualSet:
    """Captions of some languages lie in folders beside that of the images' names (MIC, STAIR)."""
    above = folder.parent
    places = [folder, *(above / name for name in ("MIC", "STAIR"))]
    files: dict[str, Path] = {}
    for file in (file for place in places if place.is_dir() for file in sorted(place.iterdir())):
        if match := XTD_CAPTIONS.fullmatch(file.name):
            files.setdefault(NAMES.get(match[1], match[1]), file)
    if not files:
        raise DataError(f"{folder}: has {XTD_NAMES}, and no test_1kcaptions_LANG.txt; add them")
    note = "The images of XTD10 are COCO train2014: a tower that was tuned on COCO has seen them."
    names = folder / XTD_NAMES
    base = above if (above / "images").is_dir() or (above / "train2014").is_dir() else folder
    return MultilingualSet("XTD10", names, base, partial(_parallel, names, files, "test"), (note,))


def _multi30k(place: Path) -> MultilingualSet:
    """Task 1: a translation per image; task 2: five captions in each language, written independently."""
    files: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted((place / "raw").iterdir()):
        if file.suffix == ".gz" and file.with_suffix("").is_file():
            continue  # it lies there unpacked, too
        if match := re.fullmatch(r"(train|val|test_2016(?:_flickr)?)(?:\.(\d))?\.([a-z]{2})(?:\.gz)?", file.name):
            files[match[1]][match[3]].append(file)
    lists = {}
    for split in files:
        named = (place / "image_splits" / f"{split}{end}.txt" for end in ("", "_images"))
        if (found := next((file for file in named if file.is_file()), None)) is None:
            raise DataError(f"{place / 'image_splits'}: has no {split}.txt, the images of {split}; add it")
        lists[split] = found
    if not files:
        raise DataError(f"{place / 'raw'}: has no train, val or test_2016 sentences (train.en, train.de.gz); add them")

    def rows() -> Iterator[CaptionedImage]:
        for split, of in files.items():
            for number, several in enumerate(
                zip(*(_parallel(lists[split], group, split) for group in _groups(of)), strict=True)
            ):
                merged = {code: [text for row in several for text in row.captions.get(code, ())] for code in of}
                yield CaptionedImage(
                    several[0].image, merged, split.partition("_")[0], f"{lists[split]} line {number + 1}"
                )

    return MultilingualSet("Multi30k", place, place, rows, ("Of its test sets test_2016 is read.",))


def _groups(of: Mapping[str, Sequence[Path]]) -> list[dict[str, Path]]:
    """The n-th file of each language."""
    most = max(map(len, of.values()))
    return [{code: files[n] for code, files in of.items() if n < len(files)} for n in range(most)]


def _parallel(names: Path, files: Mapping[str, Path], split: str) -> Iterator[CaptionedImage]:
    """Line n of each file is the caption of the image that line n of the names tells."""
    readers = {code: _lines(file) for code, file in files.items()}
    number = 0
    for number, name in enumerate(_lines(names), start=1):
        captions: dict[str, list[str]] = {}
        for code, reader in readers.items():
            line = next(reader, None)
            if line is None:
                raise DataError(f"{files[code]}: {number - 1} lines, but {names.name} names more images; give one each")
            captions[code] = [line] if line else []
        yield CaptionedImage(name.partition("#")[0], captions, split, f"{names} line {number}")
    for code, reader in readers.items():
        if any(reader):
            raise DataError(f"{files[code]}: more lines than the {number} images of {names.name}; give one per image")


def _objects(file: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each line, which has a name of an image under a key."""
    for number, line in enumerate(text_lines(file), start=1):
        if line.strip():
            place = f"{file} line {number}"
            row = parse_json(place, line)
            if not isinstance(row, dict) or not isinstance(row.get(key), str):
                raise DataError(f"{place}: has no {key}; give one object per image")
            yield place, row


def _crossmodal(file: Path) -> Iterator[CaptionedImage]:
    for place, row in _objects(file, "image/key"):
        of = {code: each["caption"] for code, each in row.items() if isinstance(each, dict) and "caption" in each}
        captions = {NAMES.get(code, code): _texts(texts, place) for code, texts in of.items()}
        yield CaptionedImage(f"{row['image/key']}.jpg", captions, "test", place)


def _sentences(files: Mapping[str, Path], split: str) -> Iterator[CaptionedImage]:
    for code, file in files.items():
        for place, row in _objects(file, "img_path"):
            captions = {NAMES.get(code, code): _texts(row.get("sentences"), place)}
            yield CaptionedImage(row["img_path"], captions, split, place)


def _by_image(rows: Any) -> Iterable[CaptionedImage]:
    """One row per image, with the captions of all languages."""
    joined: dict[str, CaptionedImage] = {}
    for row in rows():
        earlier = joined.get(row.image)
        captions = dict(earlier.captions if earlier else {})
        for code, texts in row.captions.items():
            captions[code] = [*captions.get(code, ()), *texts]
        joined[row.image] = CaptionedImage(row.image, captions, row.split, earlier.place if earlier else row.place)
    return joined.values()


def _texts(values: Any, place: str) -> list[str]:
    try:
        return list(texts_of(values, "caption", lists=False))
    except BrokenRow as error:
        raise DataError(f"{place}: {error}") from error


def _lines(file: Path) -> Iterator[str]:
    """Without blanks at their ends; of a packed file too."""
    if file.suffix != ".gz":
        yield from (line.strip() for line in text_lines(file))
        return
    check_regular(file)
    read = 0
    try:
        with gzip.open(file) as packed, io.TextIOWrapper(packed, encoding="utf-8") as lines:
            while line := lines.readline(MOST_UNPACKED):
                read += len(line)
                if read > MOST_UNPACKED:
                    raise DataError(f"{file}: unpacks to more than {MOST_UNPACKED >> 30} GiB; unpack it yourself")
                yield line.strip()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be unpacked ({error}); replace it") from error
