"""OnZeta: images come as a stream; class proxies follow them, and classes that are named too rarely are raised.

Take it without labels, for long streams of images in which each class occurs about as often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import option
from ._stream import Streamed


@dataclass(eq=False, kw_only=True)
class OnZeta(Streamed):
    """Online Zero-Shot Classification with CLIP (Qian and Hu, 2024, arXiv 2408.13320).

    The i-th of n images x comes with text features t; w, one row per class, starts as t, and rho as 0:

        q   ~ softmax(x.t / tau) exp(rho)
        rho <- max(0, rho - c_r / sqrt(i) (q - alpha / C))
        p   = softmax(x.w / tau_i)
        answer = b p + (1 - b) q,  b = beta sqrt(i / n)
        w   <- unit rows of w - c_w / (tau_i sqrt(i)) (p - q) x^T

    Rho raises classes to which the texts have given less than alpha / C of the images so far, and w moves from the
    texts, which lie apart from the images, to where the images of each class are. Each answer uses rho and w as the
    images before left them; beta limits the final weight of p. Logits are the logarithm of the answer. In a bag of
    views only the image itself counts.

    No label is used and nothing is chosen. The method assumes that every class gets a share of the images. After the n
    images of the fit b stays at beta. Tau is the inverse of the backbone's logit scale, 100 as published.

    Where it differs from the released code: C counts the classes of the text (there those among the test labels).

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: no unlabelled images, or of another width; several labels per image.

    Example:
        >>> adapter = build_adapter("onzeta")
        >>> report = adapter.fit(None, classifier, unlabeled=test.without_labels())
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    assumes: ClassVar[str] = "every class gets its share of the images, and that these are many"
    differs: ClassVar[str] = "classes are those of the text (released: those that occur among the test labels)"
    memory: ClassVar[tuple[str, ...]] = ("proxies", "rho")
    state: ClassVar[tuple[str, ...]] = (*Streamed.state, *memory)

    alpha: float = option(1.0, "share of the images that each class gets at least, times C", low=0, high=1)
    beta: float = option(0.8, "weight of the image proxies at the end of the stream", low=0, high=1)
    image_temperature: float = option(0.04, "tau_i, temperature of the image proxies", above=0)
    proxy_rate: float = option(0.5, "c_w, step size of the image proxies", low=0)
    balance_rate: float = option(20.0, "c_r, step size of the balance of the classes", low=0)

    def _start(self, support) -> None:
        self.proxies, self.rho = self.text.clone(), self.text.new_zeros(len(self.text))

    def _next(self, bag: Tensor) -> Tensor:
        image, step = bag[0], 1 / math.sqrt(self.seen)
        by_text = (self._scores(image[None])[0] + self.rho).softmax(dim=0)  # (C,)
        by_image = (self.proxies @ image / self.image_temperature).softmax(dim=0)
        weight = self.beta * math.sqrt(min(1.0, self.seen / self.length))
        answer = weight * by_image + (1 - weight) * by_text
        self.rho = (self.rho - self.balance_rate * step * (by_text - self.alpha / len(self.text))).clamp_min(0)
        move = self.proxy_rate * step / self.image_temperature
        self.proxies = F.normalize(self.proxies - move * torch.outer(by_image - by_text, image), dim=1)
        return answer.clamp_min(torch.finfo(answer.dtype).tiny).log()
