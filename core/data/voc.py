"""Pascal VOC XML: `Annotations/*.xml` with their boxes, and these as a classification set of crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from ..contracts.items import DomainData
from ..errors import DataError
from ..runtime.reading import read_bytes, read_text
from .crops import MIN_SIDE, Box, ListedImage, crops_of, image_folders
from .files import Format
from .images import IMAGE

MOST_BYTES = 64 << 20
"""Of the annotation of one image."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc_crops(path: str | Path, formats: Sequence[Format] = (IMAGE,), min_side: float = MIN_SIDE) -> DomainData:
    """One item per box; classes sorted by name.

    Args:
        path: a folder with `Annotations/`, or a folder of XML files. Images are sought in it, in `JPEGImages/` and
            `images/`, and beside the annotations. `ImageSets/Main/{train,val,test}.txt` give the splits.
        formats: what counts as an image.
        min_side: shortest side of a box in pixels.

    Raises:
        DataError: no annotations there, one is malformed or declares a document type (entities could be expanded
            without end), a path leaves the folder, or fewer than two classes have boxes.
    """
    voc = VocSet.read(Path(path), formats)
    return crops_of([each for each in voc.images if each.boxes], voc.class_names, voc.folder, formats, min_side)


@dataclass(frozen=True)
class VocSet:
    """A folder of VOC annotations, read.

    Args:
        folder: of the set.
        images: all that have an annotation file.
    """

    folder: Path
    images: list[ListedImage]

    @classmethod
    def read(cls, path: Path, formats: Sequence[Format]) -> VocSet:
        """As `read_voc_crops`, but that any number of boxes and classes will do.

        Raises:
            DataError: no annotations there, or one is malformed or declares a document type.
        """
        files = cls.files(path)
        if not files:
            raise DataError(f"{path}: no VOC annotations; put the XML files into Annotations/")
        folder = path.parent if path.name == "Annotations" else path
        splits, roots = cls.splits(folder), (*image_folders(folder), files[0].parent)
        return cls(folder, [_read_annotation(file, roots, splits.get(file.stem, ""), formats) for file in files])

    @staticmethod
    def files(folder: Path) -> list[Path]:
        """XML files in `Annotations/`, or in the folder itself."""
        return sorted((folder / "Annotations").glob("*.xml")) or sorted(folder.glob("*.xml"))

    @staticmethod
    def names_in(file: Path) -> set[str]:
        """Classes of the objects of an annotation.

        Raises:
            DataError: it cannot be read, is malformed, or declares a document type.
        """
        return {_name(file, entry) for entry in _parsed(file).iter("object")}

    @staticmethod
    def splits(folder: Path, task: str = "Main") -> dict[str, str]:
        """Stem of an image -> split, from `ImageSets/<task>/`; test wins over val over train where lists overlap."""
        splits = {}
        for split in ("train", "val", "test"):
            listing = folder / "ImageSets" / task / f"{split}.txt"
            if listing.is_file():
                lines = read_text(listing, lenient=True).splitlines()
                splits.update({line.split()[0]: split for line in lines if line.strip()})
        return splits

    @property
    def class_names(self) -> list[str]:
        """Those that have boxes, sorted."""
        return sorted({box.name for image in self.images for box in image.boxes})


def _read_annotation(file: Path, roots: tuple[Path, ...], split: str, formats: Sequence[Format]) -> ListedImage:
    tree = _parsed(file)
    boxes, made_by = tuple(_box(file, entry) for entry in tree.iter("object")), _made_by(tree, "source/annotation")
    name, size = _image_name(tree, file, roots, formats), _listed_size(tree)
    return ListedImage(name, file, roots, boxes, split, size, made_by=made_by)


def _name(file: Path, entry: ElementTree.Element) -> str:
    name = (entry.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{file}: an object has no name; correct the file")
    return name


def _box(file: Path, entry: ElementTree.Element) -> Box:
    name, corners = _name(file, entry), entry.find("bndbox")
    try:
        x0, y0, x1, y1 = (float(corners.findtext(corner)) for corner in CORNERS)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{file}: object '{name}' has no usable bndbox; correct the file") from error
    ignored, made_by = (entry.findtext("difficult") or "").strip() == "1", _made_by(entry, "source")
    return Box(name, (x0, y0, x1, y1), None, ignored, made_by, _score(entry))


def _made_by(entry: ElementTree.Element, place: str) -> str:
    """The `source` that labels of ours name, "" of others."""
    written = (entry.findtext(place) or "").strip()
    return written if written in (Box.MODEL, Box.PERSON) else ""


def _score(entry: ElementTree.Element) -> float | None:
    try:
        score = float(entry.findtext("score") or "")
    except ValueError:
        return None
    return score if 0 <= score <= 1 else None


def _listed_size(tree: ElementTree.Element) -> tuple[int, int] | None:
    try:
        width, height = int(tree.findtext("size/width")), int(tree.findtext("size/height"))
    except (TypeError, ValueError):
        return None
    return (width, height) if min(width, height) > 0 else None  # some tools write 0


def _image_name(tree: ElementTree.Element, file: Path, roots: tuple[Path, ...], formats: Sequence[Format]) -> str:
    """The image's name as written, or, where that is missing or stale, the annotation's own with a known suffix."""
    written = tree.findtext("filename", "").strip()
    if any((root / written).is_file() for root in roots if written):
        return written
    guesses = [file.stem + suffix for fmt in formats for suffix in fmt.suffixes]
    existing = next((guess for guess in guesses if any((root / guess).is_file() for root in roots)), None)
    return existing or written or guesses[0]


def _parsed(file: Path) -> ElementTree.Element:
    """The tree of an annotation.

    Raises:
        DataError: it cannot be read, is not valid XML, or declares a document type.
    """

    def refuse(*_):
        raise DataError(f"{file}: declares a document type, which VOC files do not need; remove the DOCTYPE")

    try:
        content = read_bytes(file, most=MOST_BYTES)
        guard = expat.ParserCreate()
        guard.StartDoctypeDeclHandler = refuse
        guard.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{file}: not valid XML ({error}); correct it") from error
