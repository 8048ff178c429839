"""A word drawn into an image, of which a model that reads may answer it.

"Multimodal Neurons in Artificial Neural Networks", Goh et al., 2021, doi 10.23915/distill.00030, sticks the name of
another class on a thing; drawn words as a test: "Disentangling visual and written concepts in CLIP", Materzyńska,
Torralba and Bau, 2022, arXiv 2206.07835.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHTS = (1 / 8, 1 / 5)
"""Of the letters, as shares of the shorter side, before a long word is made smaller."""
WIDEST = 0.9
SMALLEST = 6
"""Pixels, however long the word is."""
COLOURS = ("white", "black", "red", "yellow", "lime", "cyan")


def drawn_word(word: str, image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """The image with a word in PIL's own font, whose place, size and colour depend on the seed; `Corruption.change`.

    Args:
        image: (H, W, 3) or (H, W) uint8.
        severity: has no effect.
    """
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    size = rng.uniform(*HEIGHTS) * min(height, width)
    colour = COLOURS[int(rng.integers(len(COLOURS)))]
    x, y = rng.uniform(size=2)
    font = ImageFont.load_default(max(SMALLEST, size))
    length = font.getlength(word)
    if length > WIDEST * width:
        font = ImageFont.load_default(max(SMALLEST, font.size * WIDEST * width / length))
    picture = Image.fromarray(image).convert("RGB")
    draw, edge = ImageDraw.Draw(picture), max(1, round(font.size / 16))
    left, top, right, bottom = draw.textbbox((0, 0), word, font=font, stroke_width=edge)
    at = x * max(0.0, width - (right - left)) - left, y * max(0.0, height - (bottom - top)) - top
    outline = "white" if colour == "black" else "black"
    draw.text(at, word, fill=colour, font=font, stroke_width=edge, stroke_fill=outline)
    return np.asarray(picture if image.ndim == 3 else picture.convert("L"))


def has_letters(word: str) -> bool:
    """Whether PIL's own font has the letters of a word: those of Western European languages."""
    try:
        word.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return bool(word.strip())
