"""The medical domain: images, DICOM, NIfTI and MedMNIST files, classified; structures outlined in volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...core.contracts import Decoded, Domain, DomainData, Item
from ...core.data import Format
from ...core.errors import ConfigError, DataError, UnknownNameError, did_you_mean
from ...core.registry import load_domain
from .file_kinds import DICOM, ITK, NIFTI
from .intensity import MINMAX
from .reading import (
    OF_MODALITY,
    PAIR,
    PATIENT_UNIT,
    REPORTED,
    SLIDE_UNIT,
    STUDY_UNIT,
    VOLUME_UNIT,
    MedicalReading,
    prompts,
)
from .targets import GROUNDING

if TYPE_CHECKING:
    from ...core.contracts import Corruption

GENERAL = "general"
RADIOLOGY = "radiology"
PAIR_TEMPLATES = {"templates": ["{}"], "negative": ["no {}"]}
"""CheXzero: "Expert-level detection of pathologies from unannotated chest X-ray images via self-supervised learning"
(Tiu et al., 2022, doi 10.1038/s41551-022-00936-9)."""
NOTHING_FOUND = {
    "no finding": (
        ["no acute cardiopulmonary process.", "a normal radiograph.", "there is no abnormality."],
        ["there is an abnormality.", "an abnormal radiograph.", "there are acute findings."],
    )
}
"""Of radiology: what a template makes of it denies itself ("no evidence of no finding")."""
SIDED = frozenset({RADIOLOGY})
"""Modalities whose images have a left and a right side of the body."""
MASKS, VOLUMES = "segmentation", "volume-segmentation"
WORDS_OF_UNITS = {
    VOLUME_UNIT: {"image": "volume", "images": "volumes", "image.png": "volume.nii.gz"},
    STUDY_UNIT: {"image": "study", "images": "studies", "image.png": "study/"},
}
REGRESSION = "regression"
OPEN_VOCAB = "open-vocab"
OF_LABEL_SETS = {VOLUMES: ("class_names", "group_column", "fold", "max_pixels"), MASKS: ("class_names", "max_pixels")}
"""Tasks of outlined structures -> the options that they take."""
AS_READ = "as read"
SHOWN_WINDOWS = {DICOM: (MINMAX, "soft-tissue", "lung", "bone", "brain"), NIFTI: (MINMAX,), ITK: (MINMAX,)}
"""Kind of file -> windows that it is labelled in, besides its own."""


def check_modality(modality: str | None) -> str:
    """The modality's name, "general" for None.

    Raises:
        UnknownNameError: there are no prompts for it; the message names the nearest.
    """
    name = (modality or GENERAL).strip().lower()
    if name not in prompts():
        raise UnknownNameError(f"option modality: unknown modality '{modality}'; {did_you_mean(name, prompts())}")
    return name


@dataclass(eq=False)
class Medical(Domain):
    """Medical images named from a handful of labels, or found by what their reports say.

    Args:
        modality: chooses the prompts. Of data that are read it is said by the option of that name (in a recipe:
            `data = dict(modality="histology")`), else by the name of a MedMNIST file.
        prompts: "modality", or "pair" for a finding's name and "no" with it, likewise.
    """

    name = "medical"
    words: ClassVar[Mapping[str, str]] = {}
    tasks = ("classification", REPORTED, GROUNDING, MASKS, VOLUMES, REGRESSION)
    reading = MedicalReading
    judgements: ClassVar[Mapping[str, tuple[str, ...]]] = {REPORTED: ("finding-precision",)}
    searches_others = True
    not_for = (
        "Diagnosis, triage or any other decision about a patient: it is not a medical device and was not validated "
        "as one.",
    )
    views = 0  # of blood cells and X-rays, on `embedded`: views cost ten times the encoding, and few methods gain

    modality: str = GENERAL
    prompts: str = OF_MODALITY

    def __post_init__(self):
        self.modality = check_modality(self.modality)

    def read(self, path: str | Path, task: str | None = None, **options: Any) -> DomainData:
        """A labelled set of whatever kind lies at `path`.

        Class folders, manifests (csv, tsv, jsonl) and box annotations (COCO, VOC) of images, DICOM files and volumes
        (NIfTI, MHA, NRRD); published sets of radiographs (`layouts`); MedMNIST `.npz` files; folders of DICOM files
        with `label_tag`. A DICOM file's group is its patient's hashed id, that of a volume or a slice of it the subject
        or volume, so that splits share neither. With `unit="volume"` each volume or DICOM series is one sample, whose
        slices are its parts; with `unit="study"` each study, whose images are (`studies.py`).

        Args:
            path: file or folder.
            task: "classification", "retrieval" of images and their reports, "phrase-grounding", or
                "segmentation" of images with masks, as the domain open-vocab reads them, or "volume-segmentation" of
                sets of volumes with labels (`volumes/label_sets.py`), or "regression" of a table with a number per
                image.
            options: fields of `Reading`.

        Raises:
            DataError: nothing there that can be read.
            UnknownNameError: no option of that name, or a window that is the name of nothing.
            ConfigError: a value that is not usable, or an option that does not apply.
        """
        from ...core.data import read_numbers
        from .layouts.published import published_layout, read_layout
        from .medmnist import medmnist_facts
        from .reported import read_plain_folder, with_reports
        from .slides.stored import read_stored
        from .studies import studies_of

        task = self.check_task(task)
        reading, path = self.reading_of(options), Path(path)
        reading.check_column(task)
        if (stored := read_stored(path, reading, task)) is not None:
            return replace(stored, domain=replace(self, modality=reading.modality or self.modality))
        if reading.unit == SLIDE_UNIT:
            from .slides.samples import as_slides, check_slides

            check_slides(task)
        if task in OF_LABEL_SETS:
            return _label_set(path, reading, task)
        modality = self.modality
        otherwise = reading.label_column is not None or reading.label_tag is not None
        otherwise = otherwise or reading.unit in (VOLUME_UNIT, SLIDE_UNIT)
        otherwise = otherwise or task == REGRESSION
        if (layout := None if otherwise else published_layout(path)) is not None:
            unused = ("group_column", "root", "min_side", "study_column")
            _refuse_columns(reading, unused, f"the layout of {layout.name}", path)
            data = read_layout(layout, path, reading, task)
            modality = RADIOLOGY
        elif task == REGRESSION:
            data = read_numbers(path, reading.formats, reading)
        elif (array_file := _array_file(path)) is not None:
            modality = medmnist_facts(array_file).get("modality", modality)
            _refuse_columns(reading, ("label_column", "group_column"), "MedMNIST files", array_file)
            data = _read_arrays(array_file, reading)
        else:
            plain = read_plain_folder(path, reading.formats) if task == REPORTED else None
            data = plain or _read(path, reading)
        if reading.unit == SLIDE_UNIT:
            data = as_slides(data, reading)
        if reading.unit == STUDY_UNIT and layout is None:
            data = studies_of(data, reading.study_column, reading.formats)
        if task == REPORTED:
            data = with_reports(data, path, reading)
        notes = [*data.notes, *reading.notes_on_unused(data, task)]
        domain = replace(self, modality=reading.modality or modality, prompts=reading.prompts)
        return replace(data, notes=notes, domain=domain)

    def read_images(self, paths: Sequence[str | Path], **options: Any) -> DomainData:
        """Unlabelled images: image, DICOM, NIfTI and MedMNIST files, and folders of them.

        Args:
            paths: files and folders.
            options: as for `read`; what concerns labels is not used.

        Raises:
            DataError: a path does not exist, or nothing there can be read.
        """
        from ...core.data import read_unlabelled
        from .layouts.published import with_patients
        from .studies import new_studies

        reading = self.reading_of(options)
        if reading.may_be_stored(paths):
            from .slides.stored import read_new_stored

            if (stored := read_new_stored(paths, reading)) is not None:
                return replace(stored, domain=replace(self, modality=reading.modality or self.modality))
        if reading.unit == SLIDE_UNIT:
            from .slides.samples import as_slides, check_slides

            check_slides(self.tasks[0])
        arrays = [Path(p) for p in paths if Path(p).suffix.lower() == ".npz" and Path(p).is_file()]
        others = [p for p in paths if Path(p) not in arrays]
        parts = [_without_labels(path, reading) for path in arrays]
        if others or not arrays:
            parts.append(with_patients(read_unlabelled(others, formats=reading.formats), others, reading))
        if reading.unit == STUDY_UNIT and not arrays:
            return new_studies(parts[0], others, reading.study_column, reading.formats)
        if reading.unit == SLIDE_UNIT:
            parts = [as_slides(part, reading) for part in parts]
        domain = replace(self, modality=reading.modality or self.modality, prompts=reading.prompts)
        return replace(_joined(parts), domain=domain)

    def sample(self, task: str | None = None) -> DomainData:
        """300 synthetic cell images of 5 kinds, radiographs with reports or with phrases, or 20 small volumes with two
        structures, drawn on demand; no download."""
        from .drawn_radiographs import drawn_phrases, drawn_radiographs
        from .synthetic_cells import synthetic_cells

        task = self.check_task(task)
        if task == MASKS:
            return load_domain(OPEN_VOCAB).sample(task)
        if task == REGRESSION:
            return load_domain("natural").sample(task)
        if task == VOLUMES:
            return _drawn_volumes()
        if task in (REPORTED, GROUNDING):
            data = drawn_radiographs() if task == REPORTED else drawn_phrases()
            return replace(data, domain=replace(self, modality=RADIOLOGY))
        return replace(synthetic_cells(), domain=replace(self, modality="microscopy"))

    def words_of(self, reading: Mapping[str, Any]) -> Mapping[str, str]:
        """Of volumes, studies, and slides, by their pixels or by stored features of their tiles."""
        unit = reading.get("unit")
        if unit in (SLIDE_UNIT, PATIENT_UNIT) or reading.get("bags") is not None:
            return {"image": "slide", "images": "slides", "image.png": "slide.svs"}
        return WORDS_OF_UNITS.get(str(unit), self.words)

    def reading_for(self, options: Mapping[str, Any], backbone: str | None) -> Mapping[str, Any]:
        """Of slides the tile and resolution that a published encoder was made for.

        Raises:
            DataError: stored features of tiles are not of that encoder's width.
        """
        if options.get("bags") is not None:
            from .slides.stored import check_encoder

            check_encoder(options["bags"], backbone)
        if options.get("unit") != SLIDE_UNIT:
            return options
        from .slides.encoders import encoder_of

        if (encoder := encoder_of(backbone)) is None:
            return options
        stated = {name: value for name, value in options.items() if value is not None}
        return {"tile": encoder.tile, "mpp": encoder.mpp, **stated}

    def in_tiles(self, options: Mapping[str, Any]) -> bool:
        return self.reading_of(options).unit == SLIDE_UNIT

    def sample_as(self, task: str | None, options: Mapping[str, Any]) -> DomainData:
        """With `unit="slide"` 60 drawn slides, half of which show a lesion in a few of their tiles."""
        if self.reading_of(options).unit != SLIDE_UNIT:
            return self.sample(task)
        from .slides.drawn import LICENCE, NOTE, TABLE, slides_folder

        data = self.read(slides_folder() / TABLE, task, **options)
        return replace(data, name="drawn slides", licence=LICENCE, notes=[NOTE, *data.notes])

    def mask_scorer(self, data: DomainData):
        """Dice, HD95 and surface Dice of each structure."""
        from .segmenting import MaskScores

        return MaskScores(data)

    def templates(self, task: str | None = None) -> list[str]:
        """Templates of the modality."""
        return list(self._texts["templates"])

    def negative_templates(self, task: str | None = None) -> list[str]:
        """Templates of the modality that say a finding is absent."""
        return list(self._texts["negative"])

    def sentences(self, class_name: str, task: str | None = None) -> tuple[list[str], list[str]] | None:
        """Of radiology, what says that there is no finding."""
        return NOTHING_FOUND.get(class_name.strip().lower()) if self.modality == RADIOLOGY else None

    @property
    def kind_of_images(self) -> str:
        return PAIR if self.prompts == PAIR else self.modality

    @property
    def _texts(self) -> dict[str, list[str]]:
        return PAIR_TEMPLATES if self.prompts == PAIR else prompts()[self.modality]

    def transforms(self, backbone, train: bool, task: str | None = None) -> Callable[[Decoded], Any]:
        """The backbone's own preprocessing, of each slice of a volume; for training a mild augmentation before its
        normalisation, without flips where left and right tell organs apart or texts name them."""
        from ...core.backbones import EachPart

        if not train:
            return EachPart(backbone.preprocess(False))
        from .augment import MedicalAugment

        sided = self.modality in SIDED or task in (REPORTED, GROUNDING)
        flips = {"flip": 0.0} if sided else {}
        augment = MedicalAugment(backbone.image_size, tuple(backbone.image_mean), tuple(backbone.image_std), **flips)
        return EachPart(augment)

    @property
    def corruptions(self) -> Sequence[Corruption]:
        from .corruptions import CORRUPTIONS

        return CORRUPTIONS

    def part_names(self, item: Item, count: int) -> Sequence[str]:
        """The views of a study, and the slices of a volume by their number along the axis."""
        from .targets import Viewed
        from .volumes.slices import part_numbers

        if "views" in item.decode:
            views = item.target.view.split(", ") if isinstance(item.target, Viewed) else ()
            return views if len(views) == count else [f"view {number + 1}" for number in range(count)]
        if "slices" not in item.decode:
            return ()
        numbers = part_numbers(item.source, item.decode)
        return [f"{item.decode['axis']} slice {number}" for number in numbers] if len(numbers) == count else ()

    def picture(self, item: Item, load: Callable[[Item], Decoded]) -> dict[str, np.ndarray]:
        """As read; a scan in its full range too, and one of computed tomography in the usual windows."""
        stills = super().picture(item, load)
        fmt = None if "array" in item.decode else Format.of(item.source, self.reading().formats)
        windows = () if fmt is None else SHOWN_WINDOWS.get(fmt.name, ())
        if self.STILL not in stills:
            return stills  # the slices of a volume
        if windows:
            stills = {AS_READ: stills[self.STILL]}
        for window in windows:
            with suppress(DataError):  # no Hounsfield units: not a CT
                stills[window] = self.as_still(load(item.with_(decode={**item.decode, "window": window})))
        return stills


def _label_set(path: Path, reading: MedicalReading, task: str) -> DomainData:
    """Images or volumes with outlined structures."""
    taken = OF_LABEL_SETS[task]
    for field in fields(reading):
        if field.name not in taken and getattr(reading, field.name) != field.default:
            raise ConfigError(f"--set data.{field.name}: not used by {task}; omit it")
    if task == MASKS:
        from .layouts.published import published_layout, read_layout

        open_vocab = load_domain(OPEN_VOCAB)
        if (layout := published_layout(path)) is not None:
            return open_vocab.as_masks(read_layout(layout, path, reading, task))
        return open_vocab.read(path, task, **{name: getattr(reading, name) for name in taken})
    from .volumes import read_label_set

    return read_label_set(path, reading)


def _drawn_volumes() -> DomainData:
    from .drawn_volumes import NOTE, volumes_folder

    data = _label_set(volumes_folder(), MedicalReading(), VOLUMES)
    return replace(data, name="drawn volumes", licence="Apache-2.0 (made by vladapt)", notes=[NOTE])


def _read(path: Path, reading: MedicalReading) -> DomainData:
    from ...core.data import read_any
    from .dicom_folder import has_dicom_files, no_classes, read_dicom_folder

    if reading.label_tag is not None and path.is_dir():
        _refuse_columns(reading, ("label_column",), "DICOM files with label_tag", path)
        return read_dicom_folder(path, reading.formats, reading.label_tag, reading.group_column)
    try:
        return read_any(path, reading.formats, **reading.of_any())
    except DataError:
        if path.is_dir() and _lacks_classes(path, reading) and has_dicom_files(path, reading.formats):
            raise no_classes(path) from None
        raise


def _array_file(path: Path) -> Path | None:
    """The .npz to read: the path itself, or the only one in a folder that holds nothing else of use."""
    if path.suffix.lower() == ".npz" and path.is_file():
        return path
    inside = sorted(path.glob("*.npz")) if path.is_dir() else []
    alone = len(inside) == 1 and not any(entry.is_dir() for entry in path.iterdir())
    return inside[0] if alone else None


def _refuse_columns(reading: MedicalReading, names: Sequence[str], kind: str, path: Path) -> None:
    """Raise the ConfigError of a column that is named for data without a table."""
    for field in fields(reading):
        if field.name in names and getattr(reading, field.name) != field.default:
            raise ConfigError(f"option '{field.name}' does not apply to {kind} ({path}); omit it")


def _read_arrays(path: Path, reading: MedicalReading) -> DomainData:
    from .medmnist import is_medmnist, read_medmnist
    from .npz_rows import array_names

    if not is_medmnist(path):
        held = ", ".join(array_names(path)[:6]) or "nothing"
        raise DataError(
            f"{path}: not a MedMNIST file of train_images, train_labels, ...: it holds {held}; give such a file, or "
            "features by --features"
        )
    return read_medmnist(
        path,
        axis=reading.axis,
        slice_at=reading.slice,
        class_names=reading.class_names,
        max_pixels=reading.max_pixels,
    )


def _lacks_classes(path: Path, reading: MedicalReading) -> bool:
    from ...core.data import Layout, Table

    return Layout.of(path, reading.formats) is None and not any(
        file.suffix.lower() in Table.SUFFIXES for file in path.iterdir()
    )


def _without_labels(path: Path, reading: MedicalReading) -> DomainData:
    data = _read_arrays(path, replace(reading, class_names=None))
    rows = [item.with_(id=f"{path.name}/{item.id}", target=None, split="") for item in data.items]
    return replace(data.with_items(rows), class_names=())


def _joined(parts: Sequence[DomainData]) -> DomainData:
    """One set of several; each item is decoded as its own part would."""
    if len(parts) == 1:
        return parts[0]
    from .medmnist import load_row

    def load(item: Item) -> Decoded:
        return load_row(item) if "array" in item.decode else parts[-1].load(item)

    items = [item for part in parts for item in part.items]
    return DomainData(items, (), load, name="images", skipped=[pair for part in parts for pair in part.skipped])
