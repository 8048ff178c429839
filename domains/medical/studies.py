"""Studies: the views of one examination as one sample, whose parts they are.

A study has the labels of its report, not of each picture, and a finding may show in one view alone. Frontal views come
first, then lateral ones, then all others by name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from pathlib import Path, PurePosixPath

from ...core.contracts import Columns, Decoded, DomainData, Item, Target, UnequalParts
from ...core.data import FileHashes, Format, GroupNames, columns_beside, group_of
from ...core.errors import ConfigError, DataError, UnknownNameError
from .targets import SoftFindings, Viewed

STUDY = "study"
"""The unit of samples that are whole studies."""
AUTO, FOLDER = "auto", "folder"
STUDY_WORDS = ("study", "studies", "exam", "accession")
"""How the name of a column begins that tells studies, of those that group images by time, place or series."""
VIEW_COLUMNS = ("view", "view position", "projection", "frontal/lateral")
SIDE_COLUMNS = ("laterality", "image laterality", "side")
FRONTAL = frozenset({"frontal", "pa", "ap", "posteroanterior", "anteroposterior"})
PUBLISHED_FOLDER = re.compile(r"/(?:patient\d+/study\d+|p\d+/s\d+)(?=/[^/]+$)")
"""Of a study of CheXpert or MIMIC-CXR-JPG."""
LATERAL = frozenset({"lateral", "lat", "ll", "rl"})


@dataclass(frozen=True)
class StudyFacts:
    """What is known of images by their ids.

    Args:
        study: what the images of one study have in common.
        view: "PA", "LATERAL", ...
        laterality: the side of the body.
    """

    study: Mapping[str, Hashable] = field(default_factory=dict)
    view: Mapping[str, str] = field(default_factory=dict)
    laterality: Mapping[str, str] = field(default_factory=dict)

    def with_(self, other: StudyFacts) -> StudyFacts:
        """The same with what another source says, which is preferred."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return StudyFacts(*({**one, **{id_: value for id_, value in more.items() if value}} for one, more in pairs))


def studies_of(data: DomainData, named: str, formats: Sequence[Format]) -> DomainData:
    """A labelled set of images as one of studies.

    Args:
        data: as read, an image per item.
        named: the column that tells studies, "auto" to find it, or the header where the images are DICOM files;
            "folder" or "stem:REGEX" for what the names of the files say.
        formats: what the images are read by.

    Raises:
        ConfigError: nothing tells studies. UnknownNameError: there is no such column. DataError: as `as_studies`.
    """
    columns = None if data.columns is None else data.columns()
    if GroupNames.are_named_by(named):
        ids, classes = [item.id for item in data.items], [item.classes() for item in data.items]
        told = StudyFacts(dict(zip(ids, GroupNames(named).values(ids, classes), strict=True)))
    else:
        told = _by_headers(data.items, formats).with_(_by_columns(columns, named))
    if not any(told.study.values()):
        raise ConfigError(
            f"--unit study: nothing says which images of {data.name} are of one study; name a column of their table by "
            "--study-column, or give it folder or stem:REGEX for what the file names say"
        )
    return as_studies(data, told)


def new_studies(data: DomainData, paths: Sequence[str | Path], named: str, formats: Sequence[Format]) -> DomainData:
    """Unlabelled images as studies: as `studies_of`, by the table that lies in a folder, or by the folders of CheXpert
    and MIMIC-CXR-JPG; images of which nothing is known are a study each.

    Args:
        data: items whose ids begin with the paths.
        paths: as the user gives them.
    """
    if named == FOLDER:
        told = StudyFacts({item.id: str(PurePosixPath(item.id).parent) for item in data.items})
    elif GroupNames.are_named_by(named):
        # What a pattern finds in the name of a file; None for nothing.
        told = StudyFacts({item.id: GroupNames(named).values([item.id, item.id], [(), ()])[0] for item in data.items})
    else:
        places = {item.id: PUBLISHED_FOLDER.search(item.source.absolute().as_posix()) for item in data.items}
        by_folder = {id_: place.string[: place.end()] for id_, place in places.items() if place is not None}
        told = StudyFacts(by_folder).with_(_by_headers(data.items, formats))
        for folder in (path for path in map(Path, paths) if path.is_dir()):
            above = f"{folder.as_posix()}/"
            inside = [item.id.removeprefix(above) for item in data.items if item.id.startswith(above)]
            found = vars(_by_columns(columns_beside(folder, inside), named)).values()
            told = told.with_(StudyFacts(*({above + id_: value for id_, value in each.items()} for each in found)))
    return as_studies(data, told)


def as_studies(data: DomainData, told: StudyFacts) -> DomainData:
    """The images of one study and one group as one sample, its parts in the order of their views.

    A finding of one view is one of the study. The sample is called as its first image, and the digest of all its files
    in their order stands for its content.

    Raises:
        DataError: images of one study are in two splits, or have different classes.
    """
    images: dict[Hashable, list[Item]] = defaultdict(list)
    for item in data.items:
        study = told.study.get(item.id)
        images[(item.group, study) if study else (item.id,)].append(item)
    views, items, skipped, differing = {}, [], [], 0
    for some in images.values():
        some = sorted(some, key=lambda item: (_rank(told.view.get(item.id, ""), item.id), item.id))
        try:
            digest = FileHashes.of_files([item.source for item in some])
        except DataError as error:
            skipped.append((some[0].id, str(error)))
            continue
        labels = {repr(item.class_label()) for item in some}
        differing += len(labels) > 1
        decode = {"views": [item.decode for item in some], "digest": digest}
        target = _about(_common(some, data.name), some, told)
        items.append(some[0].with_(decode=decode, target=target))
        views[items[-1].source, digest] = some

    def members(item: Item) -> list[Item]:
        return views[item.source, item.decode["digest"]]

    def load(item: Item) -> Decoded:
        return UnequalParts.of([data.load(view) for view in members(item)])

    alone = sum(len(item.decode["views"]) == 1 for item in items)
    notes = [f"Studies: {len(items)}, of {len(data.items)} views; with a single view: {alone}."]
    if differing:
        notes.append(f"Studies whose views have different labels, which are joined: {differing}.")
    of = {"items": items, "load": load, "members": members, "notes": [*data.notes, *notes]}
    return replace(data, **of, skipped=[*data.skipped, *skipped])


def _by_columns(columns: Columns | None, named: str) -> StudyFacts:
    """What a table says."""
    if columns is None:
        return StudyFacts()
    if named == AUTO:
        usual = (name for name in columns.names if GroupNames.kind_of_column(name) == "study")
        name = next((name for name in usual if _plain(name).startswith(STUDY_WORDS)), None)
    elif (name := column_called(columns, (named,))) is None:
        raise UnknownNameError(
            f"--study-column {named}: {columns.place} has no such column; it has: {', '.join(columns.names)}"
        )
    study = {} if name is None else {id_: group_of(cell) for id_, cell in columns.cells(name).items()}
    patient = next(
        (column for column in columns.names if GroupNames.kind_of_column(column) in ("patient", "subject")), None
    )
    if patient is not None:  # whose studies may be numbered each from one
        whose = columns.cells(patient)
        study = {id_: each and (group_of(whose[id_]), each) for id_, each in study.items()}
    shown = (column_called(columns, names) for names in (VIEW_COLUMNS, SIDE_COLUMNS))
    return StudyFacts(study, *({} if each is None else columns.cells(each) for each in shown))


def column_called(columns: Columns, names: Sequence[str]) -> str | None:
    """The first column that is called so, in any case and with any separators."""
    by_name = {_plain(column): column for column in reversed(columns.names)}
    return next((by_name[plain] for plain in map(_plain, names) if plain in by_name), None)


def _plain(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def _by_headers(items: Sequence[Item], formats: Sequence[Format]) -> StudyFacts:
    """What DICOM files say of themselves."""
    from .dicom_header import read_header

    found = [(item.id, Format.of(item.source, formats)) for item in items]
    sources = {item.id: item.source for item in items}
    headers = {id_: read_header(sources[id_]) for id_, fmt in found if fmt is not None and fmt.name == "DICOM"}
    return StudyFacts(
        *({id_: getattr(header, name) for id_, header in headers.items()} for name in ("study", "view", "laterality"))
    )


def _rank(view: str, name: str) -> int:
    """0 of a frontal view, 1 of a lateral one, 2 of another."""
    words = set(re.findall("[a-z]+", (view or PurePosixPath(name).stem).casefold()))
    return 0 if words & FRONTAL else 1 if words & LATERAL or view.upper() == "L" else 2


def _common(items: Sequence[Item], name: str) -> Target | None:
    """What is known of a study, whose images are in one split and agree on their classes."""
    first = items[0]
    for other in items[1:]:
        pair = f"{name}: '{first.id}' and '{other.id}' are of one study"
        if other.split != first.split:
            raise DataError(
                f"{pair}, and in the splits {first.split or 'none'} and {other.split or 'none'}; correct one"
            )
        if repr(other.class_label()) != repr(first.class_label()) and not isinstance(first.class_label(), tuple):
            raise DataError(f"{pair}, and of different classes; correct one, or read them with --unit image")
    labels = [item.class_label() for item in items]
    if len(items) == 1 or not isinstance(labels[0], tuple):
        return first.target
    soft = _joined([item.training_label() for item in items])
    return SoftFindings(_joined(labels), soft)


def _joined(labels: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """(C,) the largest known value of each class."""
    return tuple(max((value for value in values if not isnan(value)), default=float("nan")) for values in zip(*labels))


def _about(target: Target | None, items: Sequence[Item], told: StudyFacts) -> Target | None:
    """The target with the views and sides of its images, in their order."""
    of = target.of if isinstance(target, Viewed) else target
    view, side = (
        ", ".join(filter(None, (known.get(i.id, "") for i in items))) for known in (told.view, told.laterality)
    )
    return Viewed(of, view, side) if view or side else of
