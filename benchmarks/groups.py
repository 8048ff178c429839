"""How well images that belong together are told from names and pixels, where no table says so.

    VLADAPT_DATA=DIR python benchmarks/groups.py

Sets are drawn: each picture is a smooth random field with a colour, a contrast and a texture of its own, of which a
share of the variance is that of its patient. Names say patients as people write them, as folders or in file names, in
words or not, or as a column. They are found if the images are grouped by patient, or the user is asked whether they
should be. Other sets have no patients: folders of sub-classes that look alike, numbers along which pictures drift,
beginnings and folders that name splits of different brightness, and words for subjects before numbers that mean
nothing. There grouping without asking is wrong. Last come real sets, whose names say no subject.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from usage import print_help

from vladapt.core.contracts.groups import OpenGroups
from vladapt.core.contracts.items import DomainData, Item, Label
from vladapt.core.data.class_folders import read_class_folders
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.group_candidates import settle_groups
from vladapt.core.data.verify import drop_unreadable

SIDE, CLASSES = 32, ("benign", "malignant")
REAL = (
    *("medical/pneumoniamnist", "medical/wbc_classification", "remote_sensing/whu_rs19", "remote_sensing/rsscn7"),
    *("general/grocery", "general/clothing"),
)
PATIENT_NAMES: dict[str, Callable[[str, int, int], str]] = {
    "folders pat001": lambda label, patient, n: f"{label}/pat{patient:03}/img{n}.png",
    "names person12_3": lambda label, patient, n: f"{label}/person{patient}_{n}.png",
    "names P-003_1": lambda label, patient, n: f"{label}/P-{patient:03}_{n}.png",
    "folders 0012": lambda label, patient, n: f"{label}/{patient:04}/{n}.png",
    "names ab12-1": lambda label, patient, n: f"{label}/ab{patient}-{n}.png",
    "names scan_1_12": lambda label, patient, n: f"{label}/x_{n}_{patient}.png",
    "column 'ward code'": lambda label, patient, n: f"{label}/{hashlib.md5(b'%d %d' % (patient, n)).hexdigest()}.png",
}
SHAPES = ((30, 10), (60, 3), (20, 2))
SETS, EXACT = 40, 0.08


def fields(draw: np.random.Generator, count: int) -> np.ndarray:
    """(count, 32, 32) smooth random fields of mean 0 and variance 1."""
    spectra = np.fft.rfft2(draw.standard_normal((count, SIDE, SIDE)))
    radius = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]) * SIDE
    radius[0, 0] = 1
    flat = np.fft.irfft2(spectra / radius ** draw.uniform(0.7, 1.8), s=(SIDE, SIDE))
    flat -= flat.mean(axis=(1, 2), keepdims=True)
    return flat / flat.std(axis=(1, 2), keepdims=True)


def pictures(draw: np.random.Generator, groups: np.ndarray, share: float) -> np.ndarray:
    """(N, 32, 32, 3) uint8, of whose variance the groups have a share."""
    count = groups.max() + 1
    shape = np.sqrt(share) * fields(draw, count)[groups] + np.sqrt(1 - share) * fields(draw, len(groups))
    own, common = draw.standard_normal((len(groups), 5)), draw.standard_normal((count, 5))
    look = np.sqrt(share) * common[groups] + np.sqrt(1 - share) * own
    grey = 128 + 12 * look[:, :1, None] + 25 * np.exp(0.25 * look[:, 1])[:, None, None] * shape
    return np.clip(grey[..., None] + 5 * look[:, None, None, 2:], 0, 255).astype(np.uint8)


def drawn_set(names: Sequence[str], shown: np.ndarray, columns: dict[str, Sequence[str]] | None = None) -> DomainData:
    """A set of pictures in class folders, as its reader leaves it."""
    digests = [hashlib.sha256(each.tobytes()).hexdigest() for each in shown]
    labels = [CLASSES.index(name.split("/")[0]) for name in names]
    rows = zip(names, digests, labels, strict=True)
    items = [Item(name, Path(name), decode={"digest": of}, target=Label(label)) for name, of, label in rows]
    picture = dict(zip(names, shown, strict=True))
    listed = {title: dict(zip(names, values, strict=True)) for title, values in (columns or {}).items()}
    return DomainData(items, CLASSES, lambda item: picture[item.id], open_groups=OpenGroups(listed))


def settled(data: DomainData) -> DomainData:
    with tempfile.TemporaryDirectory() as folder:
        return settle_groups(data, FileHashes(folder))


def with_patients(draw: np.random.Generator, kind: str, patients: int, each: int, share: float) -> DomainData:
    """Patients of one label each, or, in every third set, of either."""
    of = np.repeat(np.arange(patients), each)
    labels = of % 2 if draw.random() < 2 / 3 else draw.integers(0, 2, len(of))
    numbers = np.tile(np.arange(each), patients)
    names = [PATIENT_NAMES[kind](CLASSES[label], p, n) for label, p, n in zip(labels, of, numbers, strict=True)]
    columns = {"ward code": [f"w{p}" for p in of], "side": [f"{n % 2}" for n in numbers]}
    return drawn_set(names, pictures(draw, of, share), columns if kind.startswith("column") else None)


def is_found(data: DomainData, patients: int) -> bool:
    """Whether the images are grouped by patient, or the user is asked of that."""
    found = data.possible_groups
    return found.count == patients


def sub_classes(draw: np.random.Generator) -> DomainData:
    kinds, each = int(draw.integers(4, 30)), int(draw.integers(4, 20))
    of = np.repeat(np.arange(kinds), each)
    word = draw.choice(["kind {}", "type_{}", "{}", "breed-{}", "model{}", "group {}", "site{}"])
    names = [f"{CLASSES[k % 2]}/{word.format(k)}/{n:04}.png" for n, k in enumerate(of)]
    return drawn_set(names, pictures(draw, of, draw.uniform(0.05, 0.6)))


def drifting(draw: np.random.Generator) -> DomainData:
    count = int(draw.integers(80, 400))
    look = pictures(draw, np.arange(count), 0.0).astype(float)
    look += np.linspace(-1, 1, count)[:, None, None, None] * draw.uniform(5, 40)
    form = draw.choice(["img_{0:04}", "{0}", "DSC{0:05}", "2021-{1:02}-{2:02}_{0}", "cam{2}_{0:03}", "IMG ({0})"])
    names = [f"{CLASSES[n % 2]}/{form.format(n, 1 + 12 * n // count, n % 28 + 1)}.png" for n in range(count)]
    return drawn_set(names, np.clip(look, 0, 255).astype(np.uint8))


def split_names(draw: np.random.Generator) -> DomainData:
    count, parts = int(draw.integers(80, 400)), int(draw.integers(3, 11))
    of = draw.integers(0, parts, count)
    look = pictures(draw, np.arange(count), 0.0) * np.linspace(0.6, 1, parts)[of][:, None, None, None]
    split = [("train", "val", "test")[n % 3] for n in of]
    form = draw.choice(
        ["{c}/{s}_{n:04}", "{c}/fold{k}/{n}", "{c}/fold_{k}/{n}", "{c}/{s}_{c}_{n}", "{c}/{s}-fold{k}-{n}"]
    )
    names = [form.format(c=CLASSES[n % 2], s=split[n], k=of[n], n=n) + ".png" for n in range(count)]
    return drawn_set(names, look.astype(np.uint8))


def subject_words(draw: np.random.Generator) -> DomainData:
    count, each = int(draw.integers(80, 400)), int(draw.integers(2, 12))
    form = draw.choice(["case{0}_{1}", "patient-{0}-{1}", "P{0:03}/{1}", "subject {0}/{1}"])
    names = [f"{CLASSES[n % 2]}/{form.format(n // each, n % each)}.png" for n in range(count)]
    return drawn_set(names, pictures(draw, np.arange(count), 0.0))


def main() -> None:
    print(f"{'patients found, of the variance':34} {'8 %':>7} {'8-40 %':>7}")
    for patients, each in SHAPES:
        totals = [0, 0]
        for kind in PATIENT_NAMES:
            rates = []
            for column, highest in enumerate((EXACT, 0.4)):
                draws = [np.random.default_rng([patients, each, column, n]) for n in range(SETS)]
                sets = [with_patients(draw, kind, patients, each, draw.uniform(EXACT, highest)) for draw in draws]
                found = sum(is_found(settled(data), patients) for data in sets)
                totals[column] += found
                rates.append(f"{found / SETS:7.1%}")
            print(f"{f'{patients} x {each}, {kind}':34} {' '.join(rates)}", flush=True)
        count = SETS * len(PATIENT_NAMES)
        print(f"{f'{patients} x {each}, all':34} {' '.join(f'{total / count:7.1%}' for total in totals)}", flush=True)
    print(f"{'sets without patients':34} {'wrong':>7} {'asked':>7}")
    wrong_of_all = 0
    for kind, count in ((sub_classes, 70), (drifting, 65), (split_names, 65), (subject_words, 200)):
        found = [settled(kind(np.random.default_rng([7, n]))).possible_groups for n in range(count)]
        wrong, asked = sum(each.used for each in found), sum(each.asked for each in found)
        wrong_of_all += wrong if kind is not subject_words else 0
        print(f"{f'{kind.__name__}, of {count}':34} {wrong:7} {asked:7}", flush=True)
    print(f"{'the first three, of 200':34} {wrong_of_all:7}")
    for name in REAL:
        place = Path(os.environ.get("VLADAPT_DATA", "../shared/data")) / name
        data = read_class_folders(place) if place.is_dir() else None
        if data is not None:
            with tempfile.TemporaryDirectory() as folder:
                hashes = FileHashes(folder)
                found = settle_groups(drop_unreadable(data, hashes), hashes).possible_groups
            print(f"{name:34} {'used' if found.used else 'asked' if found.asked else 'nothing'}", flush=True)


if __name__ == "__main__":
    print_help(__doc__) or main()
