"""From class names and templates to a text classifier: every distinct text is encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone, logit_facts
from ..contracts.features import TextClassifier
from ..contracts.items import spoken
from ..errors import CapabilityError, ConfigError, DataError

CHUNK = 256
"""Texts encoded at once."""
SHOWN = 80
"""Characters of a text in a message, at most."""
POSITIONS = ("end", "middle", "front")


def build_classifier(
    backbone: Backbone,
    class_names: Sequence[str],
    templates: Iterable[str],
    *,
    descriptions: Mapping[str, Sequence[str]] | None = None,
    negative_templates: Iterable[str] | None = None,
    sentences: Mapping[str, tuple[Sequence[str], Sequence[str]]] | None = None,
    store=None,
) -> TextClassifier:
    """The zero-shot classifier of some classes.

    A class's texts are its filled templates followed by its descriptions. Each text feature is scaled to length 1;
    their mean is `raw`, and that mean scaled to length 1 is the weight. The mean of the unscaled features is
    `unnormalized`.

    Args:
        backbone: encodes the texts.
        class_names: C names; underscores are read as spaces.
        templates: texts with `{}`; may be empty where there are descriptions.
        descriptions: class name -> sentences (`read_descriptions`).
        negative_templates: texts with `{}` that say the class is absent, for sets with several labels per image.
        sentences: class name -> texts that say it is there, and that say it is absent, in place of both kinds of
            templates, for the classes that have them.
        store: a `FeatureStore`; text features and the logit scale are then taken from it, or added to it.

    Raises:
        ConfigError: no template and no description, or a template without `{}`.
        DataError: no class, or a class without a description where others have one.
    """
    if not class_names:
        raise DataError("there are no class names to make a text classifier from")
    said = sentences or {}
    texts = _texts(class_names, check_templates(templates), descriptions, {name: said[name][0] for name in said})
    negatives = None
    if negative_templates:
        contrary = {name: said[name][1] for name in said}
        negatives = _texts(class_names, check_templates(negative_templates), None, contrary)
    encoded = _encode_distinct(backbone, [t for group in [*texts, *(negatives or [])] for t in group], store)
    prototypes = tuple(F.normalize(_rows(encoded, group), dim=-1) for group in texts)
    raw = torch.stack([ensemble(p) for p in prototypes])  # (C, D)
    facts = logit_facts(backbone) if store is None else store.backbone_facts(backbone)
    return TextClassifier(
        weights=F.normalize(raw, dim=-1),
        raw=raw,
        prototypes=prototypes,
        texts=tuple(tuple(group) for group in texts),
        class_names=tuple(class_names),
        logit_scale=facts["logit_scale"],
        logit_bias=facts["logit_bias"],
        negative=None if negatives is None else _weights(encoded, negatives),
        unnormalized=torch.stack([_rows(encoded, group).mean(dim=0) for group in texts]),
    )


def encoded_classes(backbone: Backbone, prompts: Sequence[Sequence[str]]) -> Tensor:
    """(C, D) unit rows of C lists of texts."""
    named = {str(number): texts for number, texts in enumerate(prompts)}
    return build_classifier(backbone, list(named), [], descriptions=named).weights


def _texts(class_names, templates, descriptions, said: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """C lists of texts; `said` are those of some classes in place of their templates."""
    if not templates and not descriptions:
        raise ConfigError("option templates=[] leaves no text for a class; give a template or descriptions")
    texts = []
    for name in class_names:
        if descriptions is not None and not descriptions.get(name):
            raise DataError(f"descriptions: class '{name}' has none; add at least one sentence")
        filled = list(said[name]) if name in said else fill(templates, name)
        texts.append(filled + list(descriptions[name] if descriptions else ()))
    return texts


def _encode_distinct(backbone: Backbone, texts: Sequence[str], store) -> dict[str, Tensor]:
    """Text -> (D,) feature."""
    distinct = list(dict.fromkeys(texts))
    if store is not None:
        features = store.text_features(backbone, distinct).to(backbone.device)
    else:
        chunks = [distinct[i : i + CHUNK] for i in range(0, len(distinct), CHUNK)]
        with torch.no_grad():
            features = torch.cat([backbone.encode_text(chunk, normalize=False) for chunk in chunks])
    return dict(zip(distinct, features.float()))


def _rows(encoded: dict[str, Tensor], texts: Sequence[str]) -> Tensor:
    return torch.stack([encoded[text] for text in texts])  # (T, D)


def _weights(encoded: dict[str, Tensor], texts: list[list[str]]) -> Tensor:
    return F.normalize(torch.stack([ensemble(_rows(encoded, group)) for group in texts]), dim=-1)  # (C, D)


@dataclass(frozen=True)
class TokenLayout:
    """What a tokenizer adds: `lead` tokens before the first word, `trail` after the last, `stop` for a full stop.

    Class attributes:
        PLACEHOLDER: the word that a context takes the place of.
        CHUNK_TOKENS: tokens at once where a caller does not say. A text tower of ViT-B/16's size holds some 1.5 GB for
            the backward pass of so many, and a larger batch of them is hardly faster on a CPU.
    """

    PLACEHOLDER: ClassVar[str] = "X"
    CHUNK_TOKENS: ClassVar[int] = 4096

    lead: int
    trail: int
    stop: int
    pad: int
    single: int

    @classmethod
    def of(cls, backbone: Backbone) -> TokenLayout:
        tokens = backbone.tokenize(
            [cls.PLACEHOLDER, "dog", "red", f"{cls.PLACEHOLDER}.", f"{cls.PLACEHOLDER} {cls.PLACEHOLDER}"]
        )
        lead = int((tokens[:3] != tokens[0]).any(dim=0).int().argmax())  # the first place where words differ
        pad = int(tokens[0, -1])
        single, stopped, double = cls.used_lengths(tokens, pad)[[0, 3, 4]].tolist()
        if double != single + 1:
            raise CapabilityError(
                f"backbone '{backbone.spec}': its tokenizer has no token for '{cls.PLACEHOLDER}', which prompt "
                "learning puts in the context's place; use another tower"
            )
        # Some tokenizers pad with the end-of-text token or drop full stops; a place is kept for each all the same.
        trail, stop = max(1, single - lead - 1), max(1, stopped - single)
        return cls(lead=lead, trail=trail, stop=stop, pad=pad, single=single)

    def words(self, tokens: Tensor) -> Tensor:
        """(N, L) tokens -> (N,) how many the text itself takes."""
        return self.used_lengths(tokens, self.pad) - self.single + 1

    @staticmethod
    def used_lengths(tokens: Tensor, pad: int = 0) -> Tensor:
        """(N, L) tokens, or a mask -> (N,) places up to the last that is not padding."""
        place = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        return (place * (tokens != pad)).amax(dim=1)

    @classmethod
    def at_once(cls, tokens: Tensor) -> int:
        """How many rows of (N, L) tokens go through a tower at once, where no activations are kept."""
        return max(1, cls.CHUNK_TOKENS // tokens.shape[1])


def tokenize(backbone, class_names: Sequence[str], n_ctx: int, layout: TokenLayout) -> tuple[Tensor, Tensor]:
    """Tokens (C, L) of the prompts "X ... X name.", and how many tokens each name takes, (C,).

    Raises:
        ConfigError: a name that does not fit beside the context.
    """
    names = [spoken(name) for name in class_names]
    context_length = backbone.context_length
    # Counted behind another word, as it stands in the prompt: some tokenizers split a text's first word differently.
    lengths = (
        layout.words(backbone.tokenize([f"{TokenLayout.PLACEHOLDER} {name}" for name in names]).to(backbone.device)) - 1
    )
    room = context_length - layout.lead - layout.trail - layout.stop - n_ctx
    if int(lengths.max()) > room:
        longest = class_names[int(lengths.argmax())]
        raise ConfigError(
            f"the class text '{shorten(longest, SHOWN, placeholder=' ...')}' takes {int(lengths.max())} tokens, "
            f"{max(room, 0)} are left beside {n_ctx} of context in this tower's {context_length}; shorten the text, or "
            "the context (n_ctx, ctx_init)"
        )
    place = " ".join([TokenLayout.PLACEHOLDER] * n_ctx)
    return backbone.tokenize([f"{place} {name}." for name in names]).to(backbone.device), lengths


def arrange(position: str, name_lengths: Tensor, n_ctx: int, lead: int, length: int) -> tuple[Tensor, Tensor]:
    """Where the fixed tokens and the context go.

    Returns:
        order: (C, L), for each place the place-holder prompt's token that belongs there.
        slots: (C, M), the places of the context vectors.
    """
    first = before(position, n_ctx)
    place = torch.arange(length, device=name_lengths.device)
    name = name_lengths[:, None]  # (C, 1)
    is_name = (place >= lead + first) & (place < lead + first + name)
    order = place + is_name * (n_ctx - first)  # names stand behind all M place-holders
    index = torch.arange(n_ctx, device=name_lengths.device)
    slots = lead + index + (index >= first) * name
    return order, slots


def before(position: str, n_ctx: int) -> int:
    """How many context vectors stand before the class name."""
    return {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]


def fill(templates: Iterable[str], class_name: str) -> list[str]:
    """One text per template, with the class's name in place of every `{}`.

    Raises:
        ConfigError: a template without `{}`, or not a text.
    """
    name = spoken(class_name)
    return [template.replace("{}", name) for template in check_templates(templates)]


def ensemble(features: Tensor) -> Tensor:
    """(T, D) text features of one class -> (D,): each row made unit, then the mean. Not normalised again."""
    return F.normalize(features.float(), dim=-1).mean(dim=0)


def check_templates(templates: Iterable[str]) -> list[str]:
    """The templates as a list, each known to be usable.

    Raises:
        ConfigError: a template without `{}`, or not a text.
    """
    if isinstance(templates, str):
        templates = [templates]
    checked = list(templates)
    for template in checked:
        if not isinstance(template, str) or "{}" not in template:
            raise ConfigError(
                f"template {template!r} has no place for the class name; write {{}} there, as in 'a photo of a {{}}.'"
            )
    return checked
