"""What methods share that put learned tokens inside the towers and train only these."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.contracts import Adapter, Backbone, ClassWeighting, Part, RandomCrops, has, option, spoken
from ...core.errors import ConfigError
from ...core.prompts import fill
from ...core.training import TowerAdapter

INIT_STD = 0.02
CROP = (0.08, 1.0)
"""Dassl's crop."""
TEXT_BLOCKS = frozenset({"image_blocks", "text_blocks", "prompt"})


@dataclass(eq=False, kw_only=True)
class TokenAdapter(TowerAdapter):
    """Base of the methods that train tokens inside the towers and nothing else, by SGD with Dassl's schedule: momentum
    0.9, one rate per epoch down a cosine."""

    tower_weights: ClassVar[bool] = False
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"image_blocks"})
    layer_decay: ClassVar[float] = 1.0  # no option: what trains lies beside the layers

    crops = has(RandomCrops, published_crop=CROP)
    weighting = has(ClassWeighting)
    batch_size: int = 4
    weight_decay: float = option(5e-4, "weight decay on all that trains", low=0)
    warmup: int = option(1, "epochs at a rate of 1e-5 before the cosine", low=0, high=100_000)

    @abstractmethod
    def _tokens(self, backbone: Backbone) -> dict[str, Any]:
        """What `Backbone.attach_prompts` takes: tokens of "image" and "text" to start from, "couplings"."""

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        return dict(self.DASSL)

    def _choose(self, backbone: Backbone) -> list[str]:
        prompts = backbone.attach_prompts(**self._tokens(backbone))
        attached = {
            tower: getattr(prompts, tower) for tower in ("image", "text") if getattr(prompts, tower) is not None
        }
        return [
            f"Trained tokens: {tokens.count} in the {tower} tower, new ones before {tokens.depth} of its blocks"
            for tower, tokens in attached.items()
        ]

    def _learned(self, trained: Backbone, base: Backbone) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in trained.prompts.state_dict().items()}

    def _put(self, backbone: Backbone) -> None:
        backbone.load_prompts(self.changed).requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class TextTokens(Part):
    """Tokens in the text tower too, and the words around them: a class's text is `ctx_init` with its first tokens
    replaced by the learned ones, then the class's name. As published, the domain's own prompts are not used.

    A method has `TEXT_BLOCKS` in `backbone_needs`, and no option `prompts_a_class`, since there is one.
    """

    ctx_init: str | None = option("a photo of a", "words that the first tokens start from; none: random")

    def class_texts(self, method: Adapter, backbone: Backbone, count: int) -> tuple[list[list[str]], list[str]]:
        """What `TowerAdapter._class_texts` gives, for so many tokens."""
        names = method.class_names_
        if not names:
            raise ConfigError(
                f"{method.name} writes texts around class names, and none are given; name them in the data"
            )
        words = words_after(backbone, self.ctx_init, count)[1]
        templates = [f"{words} {{}}.".strip()]
        return [fill(templates, name) for name in names], templates

    def start(self, backbone: Backbone, depth: int, count: int) -> Tensor:
        """(depth, n, W): the words' own embeddings at first, and random ones before the blocks after it."""
        words, _ = words_after(backbone, self.ctx_init, count)
        tokens = random_tokens(depth, count, backbone.width("text"))
        return tokens if words is None else torch.cat([words[None].cpu(), tokens[1:]])


def random_tokens(depth: int, count: int, width: int) -> Tensor:
    """(depth, n, W) from N(0, 0.02^2), drawn on the CPU so that every device starts alike."""
    return INIT_STD * torch.randn(depth, count, width)


def words_after(backbone: Backbone, words: str | None, count: int) -> tuple[Tensor | None, str]:
    """(n, W) embeddings of the first n tokens of some words, and the words behind them; (None, "") where there are
    fewer tokens than that, which then start at random.

    Raises:
        ConfigError: the tokens end inside a word.
    """
    parts = spoken(words or "").split()
    lengths = [0, *(_token_count(backbone, " ".join(parts[:end])) for end in range(1, len(parts) + 1))]
    if lengths[-1] < count:
        return None, ""
    if count not in lengths:
        raise ConfigError(
            f"option ctx_init='{words}': its first {count} tokens end inside a word; give other words, or "
            f"{', '.join(map(str, lengths[1:]))} tokens"
        )
    end = lengths.index(count)
    first = backbone.start_tokens()
    with torch.no_grad():
        embeddings = backbone.embed_tokens(backbone.tokenize([" ".join(parts)]).to(backbone.device))[0]  # (L, W)
    return embeddings[first : first + count].float(), " ".join(parts[end:])


def _token_count(backbone: Backbone, text: str) -> int:
    """Tokens of a text: those that it shares with a longer one."""
    short, long = backbone.tokenize([text, f"{text} dog"])
    return int((short != long).int().argmax()) - backbone.start_tokens()
