"""Published sets of composed queries, in their own files: which image and words are asked, and which images are right.

* CIRR: `captions/cap.rc2.val.json` ("Image Retrieval on Real-life Images with Pre-trained Vision-and-Language Models",
  Liu et al. 2021, arXiv 2108.04024).
* CIRCO: `annotations/val.json` ("Zero-Shot Composed Image Retrieval with Textual Inversion", Baldrati et al. 2023,
  arXiv 2303.15247).
* FashionIQ: `captions/cap.dress.val.json`, or the folder `captions` of all kinds of clothes ("Fashion IQ: A New Dataset
  Towards Retrieving Images by Natural Language Feedback", Wu et al. 2019, arXiv 1905.12794).
* domain conversion: lines "path domain class", where each image is asked with the name of each other domain ("Composed
  Image Retrieval for Training-Free Domain Conversion", Efthymiadis et al. 2024, arXiv 2412.03297).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..runtime.reading import read_json, text_lines

CIRR, CIRCO, FASHION_IQ, DOMAINS = "CIRR", "CIRCO", "FashionIQ", "domain conversion"
KEYS = {
    CIRR: ("reference", "caption", "img_set"),
    CIRCO: ("reference_img_id", "relative_caption"),
    FASHION_IQ: ("candidate", "captions"),
}
"""By which a file of objects is known."""
TARGETS = {CIRR: "target_hard", CIRCO: "gt_img_ids", FASHION_IQ: "target"}
HIDDEN = "the server of the set alone knows them; evaluate on its split val, or write answers for it with --submission"
END = ".? ,"
"""Left out at the end of a caption of FashionIQ, as released."""


@dataclass(frozen=True)
class ComposedQuery:
    """Args:
    reference: name of the image.
    texts: the words; where there are several, they say the same in another order.
    targets: names of the right images, the first that was asked for.
    members: names of images that are alike, of which the target is one; the reference is left out.
    part: of the set, where it has several.
    number: by which the server of the set knows it.
    """

    reference: str
    texts: tuple[str, ...]
    targets: tuple[str, ...]
    members: tuple[str, ...] = ()
    part: str = ""
    number: str = ""


@dataclass(frozen=True)
class ComposedSet:
    """Args:
    name: of `KEYS`, or `DOMAINS`.
    gallery: names of the images that are searched; None for all that an index holds.
    """

    name: str
    queries: Sequence[ComposedQuery]
    gallery: frozenset[str] | None = None

    @property
    def names(self) -> dict[str, None]:
        """All images that are named, in order."""
        of_queries = (name for query in self.queries for name in (query.reference, *query.targets, *query.members))
        return dict.fromkeys([*of_queries, *sorted(self.gallery or ())])

    def keys_of(self, path: str) -> str:
        """What an image is known by: of a list of domains its file's name, else that without its ending; of CIRCO the
        number."""
        if self.name == DOMAINS:
            return Path(path).name
        return Path(path).stem.lstrip("0") if self.name == CIRCO else Path(path).stem


def read_parts(place: Path, gallery: Path | None = None) -> list[ComposedSet]:
    """The sets of a file, or of a folder of FashionIQ's captions, which is a set for each kind of clothes.

    Args:
        gallery: as of `read_composed`.

    Raises:
        DataError: as of `read_composed`; a folder without such captions.
    """
    if not place.is_dir():
        return [read_composed(place, gallery)]
    if gallery is not None:
        raise DataError(f"--gallery {gallery}: the lists in image_splits say what is searched; omit it")
    files = sorted(place.glob("cap.*.val.json"))
    if not files:
        raise DataError(f"{place}: no cap.NAME.val.json there; give FashionIQ's folder captions, or one file")
    sets = [(file.name.split(".")[1], read_composed(file)) for file in files]
    return [replace(each, queries=[replace(query, part=kind) for query in each.queries]) for kind, each in sets]


def read_composed(file: Path, gallery: Path | None = None, truth: bool = True) -> ComposedSet:
    """The queries of a file.

    Args:
        gallery: of a list of domains, another that says what the images of the index are; by default the same.
        truth: whether it must tell what is right.

    Raises:
        DataError: it cannot be read, is none of these, or does not tell what is right.
    """
    if file.suffix.lower() != ".json":
        return _of_domains(file, gallery or file)
    if gallery is not None:
        raise DataError(f"--gallery {gallery}: {file.name} says itself which images are right; omit it")
    rows = read_json(file)
    name = next((name for name, keys in KEYS.items() if _all_have(rows, keys)), None)
    if name is None:
        raise DataError(
            f"{file}: none of the files of CIRR, CIRCO and FashionIQ, nor lines 'path domain class'; give one of these"
        )
    if truth and not _all_have(rows, (TARGETS[name],)):
        raise DataError(f"{file}: does not tell which images are right; {HIDDEN}")
    try:
        queries = [_QUERY[name](row, TARGETS[name] in row) for row in rows]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file}: not as {name} writes it ({type(error).__name__}: {error}); fetch it again") from error
    return ComposedSet(name, queries, _split_beside(file))


def _all_have(rows: Any, keys: Sequence[str]) -> bool:
    return bool(rows) and isinstance(rows, list) and all(isinstance(row, Mapping) and {*keys} <= {*row} for row in rows)


def _of_cirr(row: Mapping[str, Any], truth: bool) -> ComposedQuery:
    reference, targets = row["reference"], (row["target_hard"],) if truth else ()
    members = tuple(name for name in row["img_set"]["members"] if name != reference)
    if not {*targets} <= {*members}:
        raise ValueError(f"pair {row.get('pairid')} names a target outside its set")
    return ComposedQuery(reference, (row["caption"],), targets, members, number=str(row.get("pairid", "")))


def _of_circo(row: Mapping[str, Any], truth: bool) -> ComposedQuery:
    first = row["target_img_id"] if truth else None
    targets = (first, *(each for each in row["gt_img_ids"] if each != first)) if truth else ()
    number, reference = str(row.get("id", "")), str(row["reference_img_id"])
    return ComposedQuery(reference, (row["relative_caption"],), tuple(map(str, targets)), number=number)


def _of_fashion_iq(row: Mapping[str, Any], truth: bool) -> ComposedQuery:
    one, two = (text.strip(END) for text in row["captions"])
    texts = (f"{one} and {two}", f"{two} and {one}")
    return ComposedQuery(row["candidate"], texts, (row["target"],) if truth else ())


_QUERY = {CIRR: _of_cirr, CIRCO: _of_circo, FASHION_IQ: _of_fashion_iq}


def _split_beside(file: Path) -> frozenset[str] | None:
    """The images of the split that a file of captions is of, where the set's list of them lies beside it."""
    listed = file.parent.parent / "image_splits" / file.name.replace("cap.", "split.", 1)
    return frozenset(map(str, read_json(listed))) if listed != file and listed.is_file() else None


def _of_domains(file: Path, gallery: Path) -> ComposedSet:
    asked, shown = _listed(file), _listed(gallery)
    domains = list(dict.fromkeys(domain for _, domain, _ in shown))
    right: dict[tuple[str, str], list[str]] = {}
    for path, domain, of in shown:
        right.setdefault((domain, of), []).append(path)
    targets = {key: tuple(paths) for key, paths in right.items()}
    queries = [
        ComposedQuery(path, (target.replace("_", " "),), targets[target, of], part=f"{domain} to {target}")
        for path, domain, of in asked
        for target in domains
        if target != domain and (target, of) in targets
    ]
    if not queries:
        raise DataError(f"{file}: no class has images in two domains; give a list with both, or --gallery FILE")
    return ComposedSet(DOMAINS, queries, frozenset(path for path, _, _ in shown))


def _listed(file: Path) -> list[tuple[str, str, str]]:
    rows = []
    for number, line in enumerate(text_lines(file, "write lines 'path domain class'"), start=1):
        cells = line.rsplit(None, 2)
        if cells and len(cells) != 3:
            raise DataError(f"{file} line {number}: not 'path domain class'; correct it")
        if cells:
            rows.append((cells[0], cells[1], cells[2]))
    return rows
