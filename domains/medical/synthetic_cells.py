"""A synthetic set that looks like stained blood cells under a microscope: made by this code, from no patient and no
camera.

Five kinds of cells differ in the shape of the nucleus and in granules, as white blood cells do. Stain, brightness,
size, place, turn, blur, noise and neighbours vary at random and say nothing about the kind. Every image is drawn when
it is asked for, from its kind and number alone; nothing is stored.
"""

from __future__ import annotations

import numpy as np

from ...core.contracts import DomainData, Item, Label
from ...core.data import Drawing

KINDS = (
    "cell with a segmented nucleus",
    "cell with a round nucleus",
    "cell with a kidney-shaped nucleus",
    "cell with coarse granules",
    "cell fragment without a nucleus",
)
DRAWING = Drawing(__file__, "37c9411e5a4d460b922f33bfd8898312f0f2c4c6f2c607b00e6fb5fb2d3ef43f", "/")
SIDE = 80
IMAGES_PER_SPLIT = {"train": 24, "val": 8, "test": 28}
NOTE = (
    "Synthetic data: the sample set is drawn by vladapt itself, not taken from patients; "
    "its numbers show that the pipeline works, nothing about medicine. MedMNIST's sets tell methods apart."
)


def synthetic_cells() -> DomainData:
    """300 images of 5 kinds, with splits; the same on every machine."""
    splits = DomainData.drawn_splits(IMAGES_PER_SPLIT)
    items = [
        DRAWING.item(
            f"{split}/{kind.replace(' ', '-')}-{number:02d}",
            label,
            number,
            target=Label(label),
            split=split,
            kind=label,
            number=number,
        )
        for label, kind in enumerate(KINDS)
        for number, split in enumerate(splits)
    ]
    return DomainData.drawn("synthetic-cells", NOTE, items, render_item, KINDS)


def render_item(item: Item) -> np.ndarray:
    """(80, 80, 3) uint8."""
    return render(int(item.decode["kind"]), int(item.decode["number"]))


def render(kind: int, number: int) -> np.ndarray:
    """(80, 80, 3) uint8: cell `number` of a kind."""
    rng = np.random.default_rng([kind, number])
    canvas = _Canvas(rng)
    canvas.draw_background()
    PAINTERS[kind](canvas)
    return canvas.develop()


class _Canvas:
    """A field of view: light absorbed by each of three stains (red cells, cytoplasm, nucleus), (SIDE, SIDE) each."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.red, self.cytoplasm, self.nucleus = (np.zeros((SIDE, SIDE)) for _ in range(3))
        self.centre = SIDE / 2 + rng.uniform(-3, 3, 2)
        self.radius = rng.uniform(24, 29)
        self.turn = rng.uniform(0, 2 * np.pi)
        self.y, self.x = np.mgrid[:SIDE, :SIDE].astype(float)

    def blob(self, at, radius, stretch=1.0, turn=0.0, wobble=0.08, edge=1.5) -> np.ndarray:
        """(SIDE, SIDE) in 0..1: a soft-edged, slightly irregular ellipse."""
        dy, dx = self.y - at[0], self.x - at[1]
        u = np.cos(turn) * dx + np.sin(turn) * dy
        v = (-np.sin(turn) * dx + np.cos(turn) * dy) * stretch
        angle = np.arctan2(v, u)
        phase = self.rng.uniform(0, 2 * np.pi, 3)
        outline = 1 + wobble * sum(np.sin(k * angle + phase[k - 2]) / k for k in (2, 3, 4))
        return Drawing.soft((np.hypot(u, v) - radius * outline) / edge * 2)

    def polar(self, distance: float, angle: float) -> np.ndarray:
        """A point at a share of the cell's radius from its centre."""
        return self.centre + distance * self.radius * np.array([np.sin(angle), np.cos(angle)])

    def draw_background(self) -> None:
        """Pale red cells anywhere, the cell in the middle over them."""
        for _ in range(self.rng.integers(2, 5)):
            at, radius = self.rng.uniform(-5, SIDE + 5, 2), self.rng.uniform(9, 14)
            pale_middle = self.blob(at, radius * self.rng.uniform(0.3, 0.5), edge=5) * self.rng.uniform(0.2, 0.6)
            disc = self.blob(at, radius, self.rng.uniform(1, 1.3), self.rng.uniform(0, 3))
            self.red = np.maximum(self.red, disc - pale_middle)

    def body(self, share: float = 1.0) -> np.ndarray:
        """The cell's outline, painted into the cytoplasm."""
        outline = self.blob(self.centre, self.radius * share, self.rng.uniform(1, 1.2), self.turn)
        self.cytoplasm = np.maximum(self.cytoplasm, outline)
        self.red *= 1 - outline
        return outline

    def grains(self, inside: np.ndarray, count: int, size: tuple[float, float]) -> np.ndarray:
        """Small dark grains scattered inside an outline."""
        from scipy.ndimage import gaussian_filter

        places = np.argwhere(inside > 0.6)
        spots = np.zeros((SIDE, SIDE))
        spots[tuple(places[self.rng.integers(0, len(places), count)].T)] = 1
        width = self.rng.uniform(*size) * 0.85
        haze = gaussian_filter(spots, width) * 2 * np.pi * width**2  # 1 in the middle of a lone grain
        return inside / (1 + np.exp(-10 * (haze - 0.5)))

    def develop(self) -> np.ndarray:
        """Absorbed light to colours (Beer-Lambert), then blur, uneven light and noise."""
        from scipy.ndimage import gaussian_filter

        rng = self.rng
        stains = np.array([[0.10, 0.45, 0.40], [0.25, 0.35, 0.12], [0.75, 1.05, 0.35]])
        stains = stains * rng.uniform(0.85, 1.15, (3, 1)) * rng.uniform(0.92, 1.08, (3, 3))
        texture = 1 + 0.25 * gaussian_filter(rng.normal(size=(SIDE, SIDE)), 1.5) / 0.19
        layers = np.stack([self.red, self.cytoplasm, self.nucleus * np.clip(texture, 0.5, 1.5)])  # (3, SIDE, SIDE)
        absorbed = np.einsum("sc,shw->hwc", stains, layers)
        light = rng.uniform(0.9, 1.0) * (1 + 0.1 * (self.x - SIDE / 2) / SIDE * rng.uniform(-1, 1))
        image = light[..., None] * rng.uniform(0.96, 1.0, 3) * np.exp(-absorbed)
        image = gaussian_filter(image, (*[rng.uniform(0.3, 0.8)] * 2, 0))
        image = image + rng.normal(scale=rng.uniform(0.01, 0.02), size=image.shape)
        return Drawing.pixels(image)


def _segmented(canvas: _Canvas) -> None:
    inside, rng = canvas.body(), canvas.rng
    count = int(rng.integers(3, 6))
    angles = canvas.turn + np.linspace(0, rng.uniform(3.4, 4.6), count) + rng.uniform(-0.15, 0.15, count)
    for angle in angles:
        at = canvas.polar(rng.uniform(0.38, 0.52), angle)
        lobe = canvas.blob(at, canvas.radius * rng.uniform(0.22, 0.3), rng.uniform(1, 1.3), angle)
        canvas.nucleus = np.maximum(canvas.nucleus, lobe * inside)
    canvas.cytoplasm += 0.35 * canvas.grains(inside, 25, (0.5, 0.9))


def _round(canvas: _Canvas) -> None:
    inside, rng = canvas.body(canvas.rng.uniform(0.75, 1.0)), canvas.rng
    at = canvas.polar(rng.uniform(0, 0.15), canvas.turn)
    canvas.nucleus = canvas.blob(at, canvas.radius * rng.uniform(0.52, 0.7), rng.uniform(1, 1.15), canvas.turn) * inside


def _kidney(canvas: _Canvas) -> None:
    inside, rng = canvas.body(), canvas.rng
    whole = canvas.blob(canvas.centre, canvas.radius * rng.uniform(0.6, 0.72), rng.uniform(1, 1.2), canvas.turn)
    angle = rng.uniform(0, 2 * np.pi)
    bite = canvas.blob(canvas.polar(rng.uniform(0.5, 0.65), angle), canvas.radius * rng.uniform(0.33, 0.45))
    canvas.nucleus = np.clip(whole - bite, 0, 1) * inside


def _granular(canvas: _Canvas) -> None:
    inside, rng = canvas.body(), canvas.rng
    for side in (0, np.pi):
        at = canvas.polar(rng.uniform(0.28, 0.42), canvas.turn + side + rng.uniform(-0.4, 0.4))
        lobe = canvas.blob(at, canvas.radius * rng.uniform(0.28, 0.38), rng.uniform(1, 1.3), canvas.turn)
        canvas.nucleus = np.maximum(canvas.nucleus, lobe * inside)
    grains = canvas.grains(inside, int(rng.integers(45, 80)), (0.9, 1.7))
    canvas.red = np.maximum(canvas.red, 1.6 * grains * (1 - canvas.nucleus))


def _fragment(canvas: _Canvas) -> None:
    share = canvas.rng.uniform(0.3, 0.5)
    inside = canvas.body(share)
    canvas.nucleus = 0.45 * canvas.grains(inside, int(canvas.rng.integers(8, 18)), (0.6, 1.2))


PAINTERS = (_segmented, _round, _kidney, _granular, _fragment)
"""In the order of `KINDS`."""
