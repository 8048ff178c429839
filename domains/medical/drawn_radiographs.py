"""Drawn chest radiographs with reports: made by this code, from no patient and no report of anyone.

Five findings, each on a side or in a zone of the lungs, are drawn on a chest whose width, heart, ribs, exposure and
noise vary and say nothing. The report names what is there and where in varied words, denies some of what is not, leaves
the rest out, and of a faint finding says that it is possible. Left and right are the patient's: left is right in the
image. Everything follows from a seed and a number alone; nothing is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...core.contracts import DomainData, Item, Labels
from ...core.data import Drawing
from .targets import Phrases, Reported

SIDE = 64
DRAWING = Drawing(__file__, "radiograph/first", "/")
FINDINGS = ("Cardiomegaly", "Consolidation", "Lung Lesion", "Pleural Effusion", "Pneumothorax")
ZONES = ("right upper", "right lower", "left upper", "left lower")
POSITIONS = (*(f"{zone} zone" for zone in ZONES), "heart")
"""Where findings are: the columns of `relations`."""
PLACES = {
    "Cardiomegaly": ("heart",),
    "Consolidation": POSITIONS[:4],
    "Lung Lesion": POSITIONS[:4],
    "Pleural Effusion": ("right lower zone", "left lower zone"),
    "Pneumothorax": ("right upper zone", "left upper zone"),
}
"""Finding -> positions at which it may be."""
PRESENT, ABSENT, UNCERTAIN, UNMENTIONED = "present", "absent", "uncertain", "unmentioned"
SHARES = {PRESENT: 0.27, UNCERTAIN: 0.08, ABSENT: 0.35, UNMENTIONED: 0.3}
VALUES = {PRESENT: 1.0, ABSENT: -1.0, UNCERTAIN: 0.0, UNMENTIONED: float("nan")}
STUDIES_PER_SPLIT = {"train": 160, "val": 24, "test": 80}
WORDS = {
    "Cardiomegaly": ("the heart is enlarged", "there is cardiomegaly", "enlarged cardiac silhouette"),
    "Consolidation": ("there is consolidation in the {}", "airspace opacity in the {}", "{} consolidation"),
    "Lung Lesion": ("there is a nodule in the {}", "lung lesion in the {}", "{} pulmonary nodule"),
    "Pleural Effusion": (
        "there is a {} pleural effusion",
        "{} pleural effusion",
        "blunting of the {} costophrenic angle",
    ),
    "Pneumothorax": ("there is a {} pneumothorax", "{} apical pneumothorax", "{} pneumothorax is seen"),
}
DENIED = {
    "Cardiomegaly": ("the heart size is normal", "no cardiomegaly"),
    "Consolidation": ("no consolidation", "no airspace opacity is seen"),
    "Lung Lesion": ("no pulmonary nodule", "there is no lung lesion"),
    "Pleural Effusion": ("no pleural effusion", "there is no pleural effusion"),
    "Pneumothorax": ("no pneumothorax", "there is no evidence of pneumothorax"),
}
POSSIBLE = ("possible {}", "{} cannot be excluded", "questionable {}")
NAMED = {
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "{} consolidation",
    "Lung Lesion": "{} nodule",
    "Pleural Effusion": "{} pleural effusion",
    "Pneumothorax": "{} pneumothorax",
}
NOTE = (
    "Synthetic data: these radiographs and reports are drawn and written by vladapt itself, from no patient; "
    "their numbers show what a method can learn from reports, nothing about medicine."
)


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Study:
    """What a drawn radiograph shows, and what its report says.

    Attributes:
        states: finding -> of `VALUES`.
        places: finding that is present or uncertain -> the one of `POSITIONS` at which it is.
        report: the text.
    """

    states: Mapping[str, str]
    places: Mapping[str, str]
    report: str

    @property
    def target(self) -> Reported:
        """The report and what it says of each finding; the labels are what is drawn."""
        drawn = Labels(tuple(float(name in self.places) for name in FINDINGS))
        values = tuple(VALUES[self.states[name]] for name in FINDINGS)
        return Reported((self.report,), drawn, values, self._relations())

    def _relations(self) -> tuple[tuple[float, ...], ...]:
        """(E, P): 1 present there, 0 not there, NaN not known."""
        rows = []
        for name in FINDINGS:
            state, here = self.states[name], self.places.get(name)
            certain = state in (PRESENT, ABSENT)
            rows.append(tuple(float(place == here) if certain else float("nan") for place in POSITIONS))
        return tuple(rows)


def drawn_radiographs(per_split: Mapping[str, int] = STUDIES_PER_SPLIT, seed: int = 0) -> DomainData:
    """Studies of one view with a report each; the same on every machine.

    Args:
        per_split: split -> how many studies.
        seed: of the studies, other studies for another.
    """
    splits = DomainData.drawn_splits(per_split)
    items = [_item(seed, number, split) for number, split in enumerate(splits)]
    data = DomainData.drawn("drawn-radiographs", NOTE, items, render, FINDINGS, kind="captions")
    return replace(data, number_names={"findings": FINDINGS, "positions": POSITIONS})


def drawn_phrases(per_split: Mapping[str, int] = STUDIES_PER_SPLIT, seed: int = 0) -> DomainData:
    """The same studies with a phrase for each finding that is there, and the box of it; studies without one are left
    out. Arguments as of `drawn_radiographs`."""
    splits = DomainData.drawn_splits(per_split)
    items = [_item(seed, number, split) for number, split in enumerate(splits)]
    grounded = [item.with_(target=target) for item in items if (target := _phrases(item)) is not None]
    return DomainData.drawn("drawn-radiographs", NOTE, grounded, render, FINDINGS, kind="captions")


def study(seed: int, number: int) -> Study:
    """What study `number` of a seed shows and says."""
    rng = np.random.default_rng([seed, number, 0])
    states = dict(zip(FINDINGS, rng.choice(list(SHARES), size=len(FINDINGS), p=list(SHARES.values())).tolist()))
    shown = [name for name in FINDINGS if states[name] in (PRESENT, UNCERTAIN)]
    places = {name: str(rng.choice(PLACES[name])) for name in shown}
    return Study(states, places, _report(states, places, rng))


def render(item: Item) -> np.ndarray:
    """(64, 64, 3) uint8."""
    seed, number = int(item.decode["seed"]), int(item.decode["number"])
    return radiograph(study(seed, number), np.random.default_rng([seed, number, 1]))


def radiograph(shown: Study, rng: np.random.Generator) -> np.ndarray:
    """A study's image, (64, 64, 3) uint8; its chest is drawn by `rng`."""
    from scipy.ndimage import gaussian_filter

    chest = _Chest(rng)
    chest.add(shown)
    image = gaussian_filter(chest.density, rng.uniform(0.4, 0.8))
    image = rng.uniform(0.85, 1.05) * image + rng.normal(scale=rng.uniform(0.01, 0.025), size=image.shape)
    return np.repeat(Drawing.pixels(image)[..., None], 3, axis=2)


class _Chest:
    """A chest from the front: density (SIDE, SIDE), 0 air to 1 bone. x grows to the patient's left."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1)
        self.y, self.x = y + rng.uniform(-0.03, 0.03), x + rng.uniform(-0.03, 0.03)
        self.lung_width, self.base = rng.uniform(0.15, 0.17), rng.uniform(0.76, 0.8)
        self.density = 0.62 + 0.05 * (self.y - 0.5)
        self.density -= 0.5 * self.ellipse(0.5, 0.5, 0.62, 0.75, edge=0.03, inverse=True)  # air beside the body
        for side in (-1, 1):
            self.density -= 0.42 * self.lung(side)
        spacing, phase = self.rng.uniform(0.075, 0.09), self.rng.uniform(0, 1)
        height = self.y + 0.9 * (np.abs(self.x - 0.5) - 0.23) ** 2
        ribs = np.clip(np.sin(2 * np.pi * (height / spacing + phase)) - 0.5, 0, None)
        self.density += 0.14 * ribs * (self.lung(-1) + self.lung(1))
        self.density += 0.3 * self.ellipse(0.5, 0.5, 0.045, 0.6)  # spine
        self._add_heart(rng.uniform(0.13, 0.155))

    def add(self, shown: Study) -> dict[str, Box]:
        """Draw the findings of a study. Gives the box around what is changed by each, by half or more of the most; of a
        large heart around the heart."""
        boxes = {}
        for name, place in shown.places.items():
            before = self.density.copy()
            strength = 1.0 if shown.states[name] == PRESENT else 0.5
            getattr(self, f"add_{name.lower().replace(' ', '_')}")(place, strength)
            change = self.heart if name == "Cardiomegaly" else np.abs(self.density - before)
            rows, columns = (np.flatnonzero((change >= change.max() / 2).any(axis=axis)) for axis in (1, 0))
            left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            boxes[name] = float(left), float(top), float(right), float(bottom)
        return boxes

    def ellipse(self, at_x, at_y, wide, high, edge=0.02, inverse=False) -> np.ndarray:
        """(SIDE, SIDE) in 0..1, 1 inside a soft-edged ellipse, or outside."""
        distance = (np.hypot((self.x - at_x) / wide, (self.y - at_y) / high) - 1) * min(wide, high) / edge
        return Drawing.soft(-2 * distance if inverse else 2 * distance)

    def lung(self, side: int) -> np.ndarray:
        """1 inside the lung on a side (1: the patient's left), which ends at the diaphragm."""
        centre = 0.5 + side * 0.235
        dome = self.base + 0.5 * (self.x - centre) ** 2 / self.lung_width
        floor = Drawing.soft((self.y - dome) / 0.012)
        return self.ellipse(centre, 0.5, self.lung_width, 0.38) * floor

    def add_cardiomegaly(self, place: str, strength: float) -> None:
        self._add_heart(0.17 + 0.08 * strength)

    def add_consolidation(self, place: str, strength: float) -> None:
        from scipy.ndimage import gaussian_filter

        at_x, at_y = self._centre(place)
        cloud = gaussian_filter(self.rng.normal(size=self.x.shape), 2.5)
        blob = self.ellipse(at_x, at_y, 0.11, 0.1, edge=0.05) * np.clip(1 + 2.5 * cloud, 0.3, 1.6)
        self.density += 0.34 * strength * blob * self.lung(self._side(place))

    def add_lung_lesion(self, place: str, strength: float) -> None:
        at_x, at_y = self._centre(place)
        size = self.rng.uniform(0.035, 0.05)
        self.density += 0.4 * strength * self.ellipse(at_x, at_y, size, size, edge=0.012)

    def add_pleural_effusion(self, place: str, strength: float) -> None:
        side = self._side(place)
        outward = side * (self.x - 0.5 - side * 0.235) / self.lung_width
        level = self.base - self.rng.uniform(0.1, 0.17) - 0.07 * np.clip(outward, -1, 1)  # higher at the chest wall
        fluid = Drawing.soft((level - self.y) / 0.012)
        self.density += 0.42 * strength * fluid * self.lung(side) * (1 - self.heart)

    def add_pneumothorax(self, place: str, strength: float) -> None:
        side = self._side(place)
        inner = self.ellipse(0.5 + side * 0.215, 0.56, self.lung_width * 0.8, 0.36, edge=0.012)
        air = self.lung(side) * (1 - inner) * (self.y < 0.55)
        rim = np.clip(1 - np.abs(inner - 0.5) * 4, 0, 1) * self.lung(side) * (self.y < 0.55)
        self.density += strength * (0.22 * rim - 0.2 * air)

    def _add_heart(self, wide: float) -> None:
        self.heart = self.ellipse(0.545 + 0.25 * (wide - 0.14), 0.63, wide, 0.16, edge=0.03)
        self.density = np.maximum(self.density, 0.68 * self.heart)

    def _centre(self, place: str) -> tuple[float, float]:
        """A point in a zone."""
        at_y = 0.33 if "upper" in place else 0.62
        return (
            0.5 + self._side(place) * (0.26 + self.rng.uniform(-0.03, 0.03)),
            at_y + float(self.rng.uniform(-0.05, 0.05)),
        )

    def _side(self, place: str) -> int:
        return 1 if place.startswith("left") else -1


def _report(states: Mapping[str, str], places: Mapping[str, str], rng: np.random.Generator) -> str:
    """Findings in any order, what is there in an impression as well."""
    sentences, seen = [], []
    for name in rng.permutation(FINDINGS).tolist():
        state = states[name]
        if state == UNMENTIONED:
            continue
        if state == ABSENT:
            sentences.append(str(rng.choice(DENIED[name])))
            continue
        where = _where(name, places[name])
        named = NAMED[name].format(where)
        wordings = WORDS[name] if state == PRESENT else [words.replace("{}", named) for words in POSSIBLE]
        sentences.append(str(rng.choice(wordings)).format(where))
        seen.append(named if state == PRESENT else f"possible {named}")
    findings = " ".join(f"{text[0].upper()}{text[1:]}." for text in sentences) or "The lungs are clear."
    impression = ", ".join(seen) or "no acute abnormality"
    return f"FINDINGS: {findings}\n\nIMPRESSION: {impression[0].upper()}{impression[1:]}."


def _phrases(item: Item) -> Phrases | None:
    """What is there for sure, in words of a report, each with its box."""
    seed, number = int(item.decode["seed"]), int(item.decode["number"])
    shown, words = study(seed, number), np.random.default_rng([seed, number, 2])
    boxes = _Chest(np.random.default_rng([seed, number, 1])).add(shown)
    names = [name for name in shown.places if shown.states[name] == PRESENT]
    texts = tuple(str(words.choice(WORDS[name])).format(_where(name, shown.places[name])) for name in names)
    labels = tuple(FINDINGS.index(name) for name in names)
    return Phrases(texts, labels, tuple((boxes[name],) for name in names), (SIDE, SIDE)) if names else None


def _where(name: str, place: str) -> str:
    """Words for a position: a side for what fills one, a zone for what lies in it."""
    return place.split()[0] if name in ("Pleural Effusion", "Pneumothorax") else place


def _item(seed: int, number: int, split: str) -> Item:
    which = {"seed": seed, "number": number}
    about = {"target": study(seed, number).target, "group": f"patient {number}", "split": split}
    return DRAWING.item(f"{split}/study-{number:04d}", seed, number, **about, **which)
