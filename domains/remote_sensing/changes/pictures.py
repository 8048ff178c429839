"""Pictures of a pair: both dates, what changed, and what was called changed."""

from __future__ import annotations

import numpy as np

from .target import CHANGED, IGNORED

HIT, ALARM, MISS, NOTHING = (40, 170, 80), (215, 60, 50), (50, 110, 220), (128, 128, 128)
FAINT = 0.35
"""Of the second date under what was called changed."""


def as_pictures(inputs: np.ndarray, labels: np.ndarray, called: np.ndarray, name: str) -> list[tuple[np.ndarray, str]]:
    """Four pictures of a tile with a caption each.

    Args:
        inputs: (2, C, H, W) in 0..1.
        labels: (H, W).
        called: (H, W) bool.
    """
    before, after = map(as_colours, inputs)
    truth = np.zeros((*labels.shape, 3), np.uint8)
    truth[labels == CHANGED] = 255
    truth[labels == IGNORED] = NOTHING
    return [(before, name), (after, "after"), (truth, "what changed"), (_compared(after, labels, called), "found")]


def as_colours(date: np.ndarray) -> np.ndarray:
    """(C, H, W) in 0..1 -> (H, W, 3) uint8, of the first three channels."""
    shown = date[:3] if len(date) >= 3 else np.repeat(date[:1], 3, axis=0)
    return np.ascontiguousarray((shown.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))


def _compared(after: np.ndarray, labels: np.ndarray, called: np.ndarray) -> np.ndarray:
    """The second date, faint, under hits, false alarms and misses."""
    shown = (after * FAINT).astype(np.uint8)
    changed, ignored = labels == CHANGED, labels == IGNORED
    for where, colour in ((called & changed, HIT), (called & ~changed & ~ignored, ALARM), (~called & changed, MISS)):
        shown[where] = colour
    shown[ignored] = NOTHING
    return shown


def marked(before: np.ndarray, after: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Both dates beside each other, and the second with what was called changed in red."""
    shown = after.copy()
    shown[called] = (0.4 * shown[called] + 0.6 * np.array(ALARM)).astype(np.uint8)
    gap = np.full((len(after), max(2, after.shape[1] // 64), 3), 255, np.uint8)
    return np.concatenate([before, gap, after, gap, shown], axis=1)
