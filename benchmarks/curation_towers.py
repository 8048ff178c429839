"""Small towers for `curation.py`: convolutions over pictures and the words of a text, trained by InfoNCE as CLIP is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import cos, log, pi

import numpy as np
import torch
from curation_pool import NAMES, NUMBERS, PLACES, STARTS, TIMES, VAGUE, Pool, plural, prompts
from torch import Tensor, nn
from torch.nn import functional as F

from vladapt import build_loss

WIDTH, CHANNELS = 64, (16, 32, 64)
BATCH, RATE, DECAY, WARM_UP = 128, 5e-3, 0.05, 20
FIRST_TEMPERATURE, HIGHEST_SCALE = 0.07, 100.0
AT_ONCE = 1024
LONGEST = 14
"""Words of a text."""
TEXTS = (*STARTS, *VAGUE, *NUMBERS, *PLACES, *TIMES, *NAMES, *map(plural, NAMES), "at the by")
VOCABULARY = {word: 1 + number for number, word in enumerate(sorted({w for text in TEXTS for w in text.split()}))}


class Towers(nn.Module):
    """Both towers, and the temperature that they learn."""

    def __init__(self):
        super().__init__()
        steps: list[nn.Module] = []
        for before, after in zip((3, *CHANNELS), CHANNELS):
            steps += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.image = nn.Sequential(*steps, nn.Flatten(), nn.Linear(CHANNELS[-1] * 16, WIDTH))
        self.words = nn.EmbeddingBag(len(VOCABULARY) + 1, WIDTH, mode="mean", padding_idx=0)
        self.text = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))
        self.log_scale = nn.Parameter(torch.tensor(log(1 / FIRST_TEMPERATURE)))

    @property
    def temperature(self) -> float:
        return 1 / self._scale().item()

    def forward(self, images: Tensor, words: Tensor) -> dict[str, Tensor]:
        return {
            "image_features": self.of_images(images),
            "text_features": self.of_words(words),
            "logit_scale": self._scale(),
        }

    def of_images(self, images: Tensor) -> Tensor:
        """(N, 32, 32, 3) uint8 -> (N, 64) unit rows."""
        pixels = images.permute(0, 3, 1, 2).float().div(127.5).sub(1)
        return F.normalize(self.image(pixels), dim=-1)

    def of_words(self, words: Tensor) -> Tensor:
        """(N, L) numbers of words, 0 behind the last -> (N, 64) unit rows."""
        return F.normalize(self.text(self.words(words)), dim=-1)

    def _scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=HIGHEST_SCALE)


def trained(pool: Pool, rows: np.ndarray, samples: int, seed: int) -> Towers:
    """Fresh towers that have seen so many samples of some pairs, each as often as the others, but for one time.

    Args:
        rows: (M,) of the pool.
        seed: fixes the weights at the start and the order.
    """
    torch.manual_seed(seed)
    towers, loss = Towers().train(), build_loss("clip")
    optimizer = torch.optim.AdamW(towers.parameters(), RATE, weight_decay=DECAY)
    images, words, steps = torch.from_numpy(pool.images), numbers_of(pool.texts), samples // BATCH
    for step, batch in zip(range(steps), _batches(rows, seed)):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARM_UP, 0.5 + 0.5 * cos(pi * step / steps))
        optimizer.zero_grad()
        loss(towers(images[batch], words[batch]))["loss"].backward()
        optimizer.step()
    return towers.eval()


@torch.no_grad()
def features_of(towers: Towers, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """(N, 64) unit rows of pictures, and of texts."""
    images = [towers.of_images(some) for some in torch.from_numpy(pool.images).split(AT_ONCE)]
    return torch.cat(images).numpy(), towers.of_words(numbers_of(pool.texts)).numpy()


@torch.no_grad()
def class_features(towers: Towers) -> np.ndarray:
    """(24, 64) unit rows of the names of classes, the mean of their prompts."""
    means = torch.stack([towers.of_words(numbers_of(prompts(number))).mean(dim=0) for number in range(len(NAMES))])
    return F.normalize(means, dim=-1).numpy()


def answers(towers: Towers, tests: Pool, tail: np.ndarray) -> dict[str, float]:
    """What towers get right of clean pairs: accuracy, mean over classes; of the classes of the tail; R@1 both ways, of
    texts that are each other's equals.

    Args:
        tail: numbers of classes.
    """
    images, texts = features_of(towers, tests)
    of = tests.facts[:, 0]
    right = (images @ class_features(towers).T).argmax(axis=1) == of
    by_class = np.array([right[of == number].mean() for number in range(len(NAMES))])
    cosines, said = images @ texts.T, np.array(tests.texts)
    to_text, to_image = cosines.argmax(axis=1), cosines.argmax(axis=0)
    recall = ((said[to_text] == said).mean() + (said[to_image] == said).mean()) / 2
    return {"accuracy": by_class.mean().item(), "tail": by_class[tail].mean().item(), "recall": recall.item()}


def numbers_of(texts: Sequence[str]) -> Tensor:
    """(N, L) numbers of the words of each text, 0 behind the last."""
    rows = [[VOCABULARY[word] for word in text.split()] for text in texts]
    return torch.tensor([row + [0] * (LONGEST - len(row)) for row in rows])


def _batches(rows: np.ndarray, seed: int) -> Iterator[Tensor]:
    """Whole batches of random orders, one order after the other."""
    random, left = np.random.default_rng(seed), np.empty(0, rows.dtype)
    while True:
        while len(left) < BATCH:
            left = np.concatenate([left, random.permutation(rows)])
        yield torch.from_numpy(left[:BATCH])
        left = left[BATCH:]
