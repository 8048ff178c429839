"""The sample: clips of one object that moves, grows or turns, drawn by this code, with no camera and no licence.

The classes are four pairs, and the second clip of a pair is the first one played backwards: the same frames, so that
only their order tells the two apart. Every clip is drawn when it is asked for, from its pair and number alone.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ...core.contracts import Captions, DomainData, Item, Label
from ...core.data import Drawing

DRAWING, SEED = Drawing(__file__, "2"), 1
PAIRS = (
    ("moving left", "moving right"),
    ("moving down", "moving up"),
    ("growing", "shrinking"),
    ("turning clockwise", "turning anticlockwise"),
)
"""What an object does, and what it does where the clip is played backwards."""
MOTIONS = tuple(motion for pair in PAIRS for motion in pair)
SHAPES = ("disc", "square", "triangle", "star", "cross")
CORNERS = {"square": (4, None), "triangle": (3, None), "star": (5, 0.45), "cross": (4, 0.35)}
"""How many, and the radius of those between them as a share."""
COLOURS = {
    "red": (214, 48, 49),
    "green": (39, 174, 96),
    "blue": (41, 98, 210),
    "yellow": (241, 196, 15),
    "white": (245, 245, 245),
    "purple": (155, 48, 190),
}
FRAMES, SIDE, FINER = 8, 64, 3
CLIPS_PER_SPLIT = {"train": 16, "val": 4, "test": 10}
CAPTIONS = ("a {0} {1} is {2}", "a {1} that is {0}, {2}", "{2}: a {0} {1}")
NOTE = (
    "Drawn data: the sample's clips are drawn by vladapt itself, not filmed; its numbers show that the pipeline works, "
    "nothing about real video. UCF101 and HMDB51 tell methods apart."
)


def drawn_clips() -> DomainData:
    """240 clips of 8 motions, with splits; the same on every machine."""
    items = [
        _drawn_item(motion, number, split).with_(target=Label(motion))
        for motion in range(len(MOTIONS))
        for number, split in enumerate(DomainData.drawn_splits(CLIPS_PER_SPLIT))
    ]
    return DomainData.drawn("drawn-clips", NOTE, items, _load, MOTIONS, "clips")


def drawn_clip_pairs() -> DomainData:
    """240 captioned clips: the same, in words of object and motion."""
    items = [item.with_(target=Captions(_captions_of(item))) for item in drawn_clips().items]
    return DomainData.drawn("drawn-clips", NOTE, items, _load, kind="captions")


def _load(item: Item) -> np.ndarray:
    return draw_clip(int(item.decode["motion"]), int(item.decode["number"]))


def _drawn_item(motion: int, number: int, split: str = "") -> Item:
    """One clip without its target; the two of a pair belong together."""
    id_, group = f"{MOTIONS[motion].replace(' ', '-')}-{number:03d}", f"path {motion // 2} {number}"
    return DRAWING.item(id_, motion, number, group=group, split=split, motion=motion, number=number)


def object_of(pair: int, number: int) -> tuple[str, str]:
    """Colour and shape of what moves in the two clips of a pair."""
    rng = np.random.default_rng([SEED, pair, number])
    return str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))


def _captions_of(item: Item) -> tuple[str, ...]:
    """What is said of a clip."""
    motion = int(item.decode["motion"])
    colour, shape = object_of(motion // 2, int(item.decode["number"]))
    return tuple(text.format(colour, shape, MOTIONS[motion]) for text in CAPTIONS)


def draw_clip(motion: int, number: int, frames: int = FRAMES) -> np.ndarray:
    """(T, 64, 64, 3) uint8. The second motion of a pair is the first one backwards, frame for frame.

    Args:
        motion: position in `MOTIONS`.
        number: which clip of it.
        frames: T.
    """
    forward = _draw_first(motion // 2, number, frames)
    return forward[::-1].copy() if motion % 2 else forward


def _draw_first(pair: int, number: int, frames: int) -> np.ndarray:
    colour, shape = object_of(pair, number)
    rng = np.random.default_rng([SEED, pair, number, 1])
    across, size, reach = rng.uniform(0.3, 0.7), rng.uniform(0.16, 0.22), rng.uniform(0.26, 0.32)
    turn, sweep = rng.uniform(-0.6, -0.4) * np.pi, rng.uniform(0.6, 0.9) * np.pi
    ground = _ground(rng)
    clip = []
    for share in np.linspace(0, 1, frames):
        along, angle, radius, centre = 0.5 + reach * (2 * share - 1), turn, size, (across, across)
        if PAIRS[pair][0] == "moving left":
            centre = (1 - along, across)
        elif PAIRS[pair][0] == "moving down":
            centre = (across, along)
        elif PAIRS[pair][0] == "growing":
            radius = size * (0.5 + 1.6 * share)
        else:
            angle, radius = turn + share * sweep, 2 * size
        clip.append(_frame(ground, _lit(COLOURS[colour], centre), shape, centre, radius, angle))
    return np.stack(clip)


def _lit(colour: tuple[int, int, int], centre: tuple[float, float]) -> tuple[int, int, int]:
    """A colour in the light of a lamp on the left."""
    return tuple(round(value * (1.15 - 0.9 * centre[0])) for value in colour)


def _ground(rng: np.random.Generator) -> np.ndarray:
    """(192, 192, 3) uint8: of one colour, light on the left and dark on the right."""
    colour = rng.uniform(40, 130, 3)
    light = np.linspace(1.4, 0.2, SIDE * FINER)[None, :, None]
    return np.broadcast_to(colour * light, (SIDE * FINER, SIDE * FINER, 3)).astype(np.uint8)


def _frame(ground, colour, shape: str, centre, radius: float, angle: float) -> np.ndarray:
    """(64, 64, 3) uint8: the object, with a hand that shows how it is turned."""
    side = SIDE * FINER
    image = Image.fromarray(ground)
    draw = ImageDraw.Draw(image)
    x, y, r = centre[0] * side, centre[1] * side, radius * side
    if shape == "disc":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)
    else:
        corners, inner = CORNERS[shape]
        draw.polygon(Drawing.corners((x, y), r, corners, turn=angle, inner=inner), fill=colour)
    tip = (x + r * np.cos(angle), y + r * np.sin(angle))
    draw.line([(x, y), tip], fill=(15, 15, 15), width=max(2, round(r / 4)))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
