"""ARL: texts and images are aligned with the entities of a knowledge graph, and reason and learn by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone, Output, RowLoss, option
from ....core.errors import ConfigError, DataError
from ....core.losses import Draws, HiddenWords
from ....core.runtime import Ranks
from ._co_attention import NOT_SEEN, PADDING, CoAttention, TextImagePair, as_mask
from ._entity_graph import EntityGraph, EntityScores, safetensors_file, start_embeddings
from ._mentions import Mentions, Words, covered, entity_words_in, triples_in
from ._patch_decoder import PatchDecoder, patch_errors, patches_of
from ._query_decoder import as_bert, described, mean_where

TERMS = ("align", "mlm", "mim", "itm")
SIDES = ("image", "text")
MENTIONS = frozenset({"entity_ids", "entity_words"})
IMAGE, TEXT = frozenset({"image_embedding", "image_tokens"}), frozenset({"text_embedding", "text_tokens", "text_mask"})
MASKED = frozenset({"masked_caption", "masked_caption_tokens", "masked_caption_labels"})
VISIBLE = frozenset({"visible_tokens", "visible", "patch_pixels"})
NEEDS = {
    "align": frozenset({"image_embedding", "text_embedding", "entity_ids"}),
    "mlm": IMAGE | MASKED | MENTIONS | {"text_mask"},
    "mim": TEXT | VISIBLE | MENTIONS,
    "itm": IMAGE | TEXT | MENTIONS | {"index"},
}
CAPTION, HIDDEN_WORDS, HIDDEN_PATCHES = ("tokens",), ("tokens", "draws"), ("pixels", "draws")
HIDDEN, REPLACED = 0.8, 0.1
"""Of the words that are asked for: the shares that are hidden, and that are another word; the rest stays."""
UNEVEN = 0.1
"""More of the words than their share may be asked for, since those of an entity are asked for together."""


@dataclass(eq=False, repr=False, kw_only=True)
class ArlLoss(RowLoss):
    """Align, Reason and Learn: Enhancing Medical Vision-and-Language Pre-training with Knowledge (Chen et al., 2022,
    arXiv 2209.07118).

    Two layers of graph attention over `triples` make a vector g_e of each entity. Image and text become one width W,
    with a vector that says which of the two they are.

        align   BCE of MLP(v) . g_e, whether entity e is mentioned, for the image's v and for the text's; added
        reason  in each co-attention layer up to K entities that the text mentions look at each other and at the image,
                beside the words that do; then each word takes from the entities that its words are part of
        learn   mlm  hidden words, those of an entity together; entities that lose words are not among the K
                mim  patches that are left out, drawn from what is known before layer `patch_layer`; each less its
                     mean, by its deviation
                itm  whether image and text belong together; about half of the images are exchanged

    with a forward pass each for mlm, mim and itm. Entities come with the words that mention them, which are looked for
    among the tokens of captions; those of an image are column `entities`, of all that was written of it. Entities start
    at `start`. What the image's vector shows is kept, for the adapter of the same name.

    Args:
        dims: "embed_dim", "text_width", "vocab_size", "patches" and "patch_values" of the towers.

    Raises:
        ConfigError: files that cannot be read or do not belong together, widths that do not divide into heads.
        CapabilityError: dims lacks one; an image tower without blocks, where patches are left out.
        DataError: images have another number of entities.

    Example:
        >>> import torch, vladapt
        >>> options = {"entities": {"edema": ["edema"], "lung": ["lung", "lungs"]}, "triples": {"edema": ["lung"]}}
        >>> loss = vladapt.build_loss("arl", {"embed_dim": 4}, mlm=0, mim=0, itm=0, width=8, heads=2, **options)
        >>> out = {"entity_ids": torch.tensor([[0, -100], [1, 0]]), "image_entities": torch.eye(2)}
        >>> sorted(loss({**out, "image_embedding": torch.eye(2, 4), "text_embedding": torch.eye(2, 4)}))
        ['align', 'align_image', 'align_text', 'loss']
    """

    differs: ClassVar[str] = (
        "towers are those of the backbone, in their shared space, and layers start at random (released: METER's); "
        "words that are no entity's are hidden token by token (released: whole words); each image is exchanged with "
        "a probability of one half (released: half of a batch); the decoder of patches learns its positions"
    )
    answers: ClassVar[bool] = True
    saved_with: ClassVar[Mapping[str, Any]] = {"align": 1.0, "mlm": 0.0, "mim": 0.0, "itm": 0.0}
    outputs: ClassVar[Mapping[str, Output]] = {
        "image_entities": Output(
            "entities: 1 where a text of the image mentions it, else 0", ("B", "E"), "finding", column="entities"
        ),
        "entity_ids": Output("entities that the caption mentions", ("B", "M"), "token", fields=CAPTION),
        "entity_words": Output("which tokens mention the first of them", ("B", "K", "L"), "mask", fields=CAPTION),
        "masked_caption": Output("the caption with words hidden", ("B", "D"), "raw", fields=HIDDEN_WORDS),
        "masked_caption_tokens": Output("its tokens", ("B", "L", "T"), "raw", fields=HIDDEN_WORDS),
        "masked_caption_labels": Output("ids of the hidden words", ("B", "L"), "token", fields=HIDDEN_WORDS),
        "visible_tokens": Output("the image and patches that are seen", ("B", "V", "D"), "raw", fields=HIDDEN_PATCHES),
        "visible": Output("which patches are seen", ("B", "P"), "mask", fields=HIDDEN_PATCHES),
        "patch_pixels": Output("pixels of each patch", ("B", "P", "S"), "raw", fields=HIDDEN_PATCHES),
    }

    entities: dict[str, tuple[str, ...]] | None = option(
        None,
        "entity -> words that mention it, or a file of that (JSON; a table of entity, text)",
        parse=entity_words_in,
    )
    triples: dict[str, tuple[str, ...]] | None = option(
        None, "head -> its tails, or a table with columns head, relation, tail; none: no edges", parse=triples_in
    )
    start: str | None = option(
        None, "safetensors file of start embeddings, a row per entity; none: drawn", parse=safetensors_file
    )
    whole_report: bool = option(True, "image: entities of column entities, of all its texts; no: of the caption alone")
    align: float = option(1.0, "weight of what is mentioned, 0 for none", low=0, high=10_000)
    mlm: float = option(1.0, "weight of hidden words, 0 for none", low=0, high=10_000)
    mim: float = option(1.0, "weight of patches that are left out, 0 for none", low=0, high=10_000)
    itm: float = option(0.1, "weight of whether image and text belong together, 0 for none", low=0, high=10_000)
    width: int = option(768, "width of image and text in the co-attention", low=1, high=65_536)
    heads: int = option(12, "attention heads there", low=1, high=1024)
    hidden: int = option(3072, "width of the hidden layer of its feed-forward networks", low=1, high=65_536)
    layers: int = option(6, "co-attention layers", low=1, high=1000)
    dropout: float = option(0.1, "dropout in the co-attention", low=0, below=1)
    entity_width: int = option(256, "width of entities", low=1, high=65_536)
    entity_heads: int = option(4, "attention heads of entities in the co-attention", low=1, high=1024)
    entity_hidden: int = option(1024, "width of the hidden layer of their feed-forward networks", low=1, high=65_536)
    entities_per_text: int = option(24, "entities of a caption that take part in the co-attention", low=1, high=1024)
    graph_width: int = option(64, "width of each head of the first graph layer", low=1, high=65_536)
    graph_heads: int = option(8, "heads of the first graph layer", low=1, high=1024)
    graph_dropout: float = option(0.2, "dropout in the graph layers", low=0, below=1)
    masked_words: float = option(0.15, "share of words and entities that are hidden", above=0, below=1)
    masked_patches: float = option(0.75, "share of patches that are left out", above=0, below=1)
    patch_layer: int = option(3, "co-attention layer before which patches are decoded, from 0", low=0, high=1000)
    decoder_width: int = option(384, "width of the decoder of patches", low=1, high=65_536)
    decoder_layers: int = option(5, "layers of the decoder of patches", low=1, high=1000)
    decoder_heads: int = option(6, "attention heads of the decoder of patches", low=1, high=1024)

    def __post_init__(self):
        super().__post_init__()
        self.weights = self.weights_of(TERMS)
        self.needs = frozenset().union(*(NEEDS[term] for term in self.weights))
        if self.align and self.whole_report:
            self.needs = self.needs | {"image_entities"}
        for name, heads in (("width", "heads"), ("entity_width", "entity_heads"), ("decoder_width", "decoder_heads")):
            if getattr(self, name) % getattr(self, heads):
                each = f"{name}={getattr(self, name)} does not divide into {heads}={getattr(self, heads)}"
                raise ConfigError(f"{self.title}: {each}")
        if self.entities is None:
            self.entities = {name: (name,) for name in described("findings")}
        if not self.entities:
            raise ConfigError(f"{self.title}: option entities names none; give a JSON object or a file")
        self._build_graph(list(self.entities))
        features = self.dim("embed_dim", "its maps of image and text")
        self.image_map, self.text_map = (nn.Linear(features, self.width) for _ in SIDES)
        self.kinds = nn.ParameterDict({side: nn.Parameter(0.02 * torch.randn(self.width)) for side in SIDES})
        self.scores = nn.ModuleDict({side: EntityScores(self.width, self.entity_width) for side in SIDES})
        if self.weights.keys() - {"align"}:
            self._build_reasoning()
        for name, module in self.named_children():
            if name != "graph":
                module.apply(as_bert)
        self.draws = Draws()
        self.words: Any = None  # by `prepare`

    def _build_graph(self, names: list[str]) -> None:
        place = {name: number for number, name in enumerate(names)}
        triples = self.triples or {}
        self.triples = {
            head: some for head in place if (some := tuple(tail for tail in triples.get(head, ()) if tail in place))
        }
        if triples and not self.triples:
            raise ConfigError(f"{self.title}: no triple joins two of the {len(place)} entities; check their names")
        edges = [(place[head], place[tail]) for head, tails in self.triples.items() for tail in tails]
        sizes = (self.entity_width, self.graph_width, self.graph_heads, self.graph_dropout)
        self.graph = EntityGraph(len(place), edges, *sizes)
        if self.start is not None:
            start = start_embeddings(Path(self.start), names, self.entity_width)
            self.graph.start = nn.Parameter(start.to(self.graph.start))
            self.start = None  # from here on part of the state

    def _build_reasoning(self) -> None:
        self.word_map = nn.Linear(self.dim("text_width", "its map of words"), self.width)
        of_entities = {name: getattr(self, name) for name in ("entity_width", "entity_heads", "entity_hidden")}
        sizes = {name: getattr(self, name) for name in ("width", "heads", "hidden", "dropout")}
        self.co_attention = CoAttention(self.layers, **sizes, **of_entities)
        if self.mlm:
            norm = nn.LayerNorm(self.width)
            last = nn.Linear(self.width, self.dim("vocab_size", "its words"))
            self.word_scores = nn.Sequential(nn.Linear(self.width, self.width), nn.GELU(), norm, last)
            self.hidden_word = nn.Parameter(0.02 * torch.randn(self.dim("text_width", "its hidden words")))
        if self.mim:
            if self.patch_layer > self.layers:
                raise ConfigError(f"{self.title}: patch_layer={self.patch_layer}, and there are {self.layers} layers")
            patches, values = (self.dim(name, "its decoder of patches") for name in ("patches", "patch_values"))
            shape = (self.decoder_width, self.decoder_layers, self.decoder_heads)
            self.decoder = PatchDecoder(self.width, patches, values, *shape)
        if self.itm:
            self.poolers = nn.ModuleDict({side: nn.Linear(self.width, self.width) for side in SIDES})
            self.match = nn.Linear(2 * self.width, 2)

    @classmethod
    def named(cls, options: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Entities of the options; where none are given, those of the data, by their names.

        Raises:
            ConfigError: options and data tell of other entities, or in another order.
        """
        made = dict(options)
        entities = entity_words_in(made["entities"]) if made.get("entities") is not None else None
        of_data = tuple(names.get("entities", ()))
        if entities is not None:
            made["entities"] = entities
        elif of_data:
            made["entities"] = {name: [name] for name in of_data}
        if isinstance(entities, Mapping) and of_data and tuple(entities) != of_data:
            raise ConfigError(
                f"loss '{cls.name}': its entities ({len(entities)}) are not those of the data ({len(of_data)}), or "
                "stand in another order; give one file to both: "
                f"--set data.entities=FILE --set loss.{cls.name}.entities=FILE"
            )
        return made

    # What it sees -------------------------------------------------------------------------------------------------

    def prepare(self, backbone: Backbone) -> None:
        if self.mim:
            backbone.need("image_blocks")
        self.words = Words(list((self.entities or {}).values()), backbone).to(backbone.device)
        if not self.words.longest:
            raise ConfigError(f"{self.title}: the text tower reads the words of no entity; give words of its language")

    def held_parameters(self) -> list[nn.Parameter]:
        return [self.hidden_word] if self.mlm else []

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Any) -> dict[str, Tensor]:
        tokens = batch["tokens"]
        mentions = self.words.find(tokens, backbone.word_mask(tokens), tokens.shape[1])  # all are labels
        taking_part = mentions.first(self.entities_per_text)
        made = {"entity_ids": mentions.ids, "entity_words": taking_part.covers(tokens.shape[1])}
        if self.mlm:
            made |= self._with_hidden_words(tokens, batch["draws"], mentions, backbone)
        return made | self._with_some_patches(batch, backbone) if self.mim else made

    def _with_hidden_words(self, tokens: Tensor, draws: Tensor, mentions: Mentions, backbone: Any) -> dict[str, Tensor]:
        """Each word is asked for by its own draw, those of an entity by that of the first of them."""
        length = tokens.shape[1]
        chosen, fate, other = (Draws.of_places(draws, row, length) for row in (1, 2, 3))
        chosen = chosen.gather(1, covered(mentions, length))
        asked = backbone.word_mask(tokens) & (chosen < self.masked_words)
        others = (other * backbone.vocab_size).long()
        shown = torch.where(asked & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED), others, tokens)
        words = backbone.embed_tokens(shown)
        words = torch.where((asked & (fate < HIDDEN))[..., None], self.hidden_word.to(words), words)
        read = backbone.text_tokens(tokens, words)
        return {
            "masked_caption": backbone.pool_text(read, backbone.token_mask(tokens), normalize=False),
            "masked_caption_tokens": read,
            "masked_caption_labels": torch.where(asked, tokens, PADDING),
        }

    def _with_some_patches(self, batch: Mapping[str, Tensor], backbone: Any) -> dict[str, Tensor]:
        pixels, prefix = batch["pixels"], backbone.image_prefix
        x = backbone.embed_image(pixels)
        count = x.shape[1] - prefix
        x, places = Draws.visible_tokens(x, prefix, batch["draws"], 1 - self.masked_patches)
        x = backbone.run_blocks("image", x)
        whole, patches = backbone.pool_image(x, normalize=False), backbone.project_patches(x)
        visible = torch.zeros(len(x), count, dtype=torch.bool, device=x.device).scatter(1, places, True)
        return {
            "visible_tokens": torch.cat([whole[:, None], patches], dim=1),
            "visible": visible,
            "patch_pixels": patches_of(pixels, backbone.image_grid(pixels)),
        }

    # The loss -----------------------------------------------------------------------------------------------------

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        entities = self.graph()  # (E, C)
        terms = {"align": self._align, "mlm": self._mlm, "mim": self._mim, "itm": self._itm}
        parts: dict[str, Tensor] = {}
        for name in self.weights:
            parts |= terms[name](out, entities, ranks)
        return {"loss": sum(weight * parts[name] for name, weight in self.weights.items()), **parts}

    def _align(self, out: Mapping[str, Any], entities: Tensor, ranks: Ranks) -> dict[str, Tensor]:
        of_text = mentioned(out["entity_ids"], len(entities))
        of_image = self._of_images(out["image_entities"]) if self.whole_report else of_text
        parts = {}
        for side, labels, logits in (
            ("image", of_image, self.image_logits(out["image_embedding"], entities)),
            ("text", of_text, self.scores["text"](self._of_text(out["text_embedding"]), entities)),
        ):
            parts[f"align_{side}"] = ranks.average(F.binary_cross_entropy_with_logits(logits, labels))
        return {"align": parts["align_image"] + parts["align_text"], **parts}

    def image_logits(self, features: Tensor, entities: Tensor) -> Tensor:
        """(B, D) features of images, not normalised, and (E, C) entities -> (B, E)."""
        return self.scores["image"](self._of_image(features), entities)

    def _mlm(self, out: Mapping[str, Any], entities: Tensor, ranks: Ranks) -> dict[str, Tensor]:
        labels = out["masked_caption_labels"]
        text = self._text(out["masked_caption"], out["masked_caption_tokens"])
        pair = self._pair(text, self._image(out), out, entities)
        loses_words = (out["entity_words"] & (labels >= 0)[:, None]).any(dim=2)  # (n, K)
        pair = replace(
            pair,
            entities=pair.entities.masked_fill(loses_words[..., None], 0.0),
            entity_mask=pair.entity_mask.masked_fill(loses_words, NOT_SEEN),
            covers=pair.covers.masked_fill(loses_words[..., None], 0.0),
        )
        hidden = HiddenWords(labels, min(1.0, self.masked_words + UNEVEN))
        words = self.co_attention(pair).text[:, 1:]
        count = ranks.total(hidden.count).clamp(min=1)
        return {"mlm": ranks.total(hidden.error(self.word_scores(hidden.among(words)))) / count}

    def _mim(self, out: Mapping[str, Any], entities: Tensor, ranks: Ranks) -> dict[str, Tensor]:
        text = self._text(out["text_embedding"], out["text_tokens"])
        pair = self._pair(text, self._of_image(out["visible_tokens"]), out, entities)
        visible = out["visible"].bool()
        drawn = self.decoder(self.co_attention(pair, self.patch_layer).image, visible)
        return {"mim": mean_where(patch_errors(drawn, out["patch_pixels"]), ~visible, ranks)}

    def _itm(self, out: Mapping[str, Any], entities: Tensor, ranks: Ranks) -> dict[str, Tensor]:
        shown, own = self.exchanged(out["index"], ranks)
        text = self._text(out["text_embedding"], out["text_tokens"])
        pair = self.co_attention(self._pair(text, ranks.columns(self._image(out))[shown], out, entities))
        first = {"text": pair.text[:, 0], "image": pair.image[:, 0]}
        pooled = torch.cat([self.poolers[side](first[side]).tanh() for side in ("text", "image")], dim=1)
        return {"itm": ranks.average(F.cross_entropy(self.match(pooled), (shown == own).long()))}

    def exchanged(self, index: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """(n,) which image of those of all ranks is shown with each text, for about half of them that of another; and
        (n,) which is its own. They depend on the seed, the step and the samples alone."""
        keys = self.draws.keys(ranks.gather(index), (1, 2))[:, 0]  # (N, 2)
        order = keys[:, 0].argsort()
        another = torch.zeros_like(order).scatter(0, order, order.roll(-1))
        own = torch.arange(len(keys), device=index.device)
        rows = ranks.own(len(index))
        return torch.where(keys[:, 1] > 0, another, own)[rows], own[rows]

    def after_step(self, model: nn.Module | None) -> None:
        self.draws.move()

    def _of_image(self, features: Tensor) -> Tensor:
        return self.image_map(features) + self.kinds["image"]

    def _of_text(self, features: Tensor) -> Tensor:
        return self.text_map(features) + self.kinds["text"]

    def _image(self, out: Mapping[str, Any]) -> Tensor:
        """(n, 1 + P, W), the whole image first."""
        return self._of_image(torch.cat([out["image_embedding"][:, None], out["image_tokens"]], dim=1))

    def _text(self, whole: Tensor, tokens: Tensor) -> Tensor:
        """(n, 1 + L, W), the whole text first."""
        return torch.cat([self._of_text(whole)[:, None], self.word_map(tokens) + self.kinds["text"]], dim=1)

    def _pair(self, text: Tensor, image: Tensor, out: Mapping[str, Any], entities: Tensor) -> TextImagePair:
        ids = out["entity_ids"][:, : out["entity_words"].shape[1]]
        there = ids != PADDING
        return TextImagePair(
            text,
            image,
            entities[ids.clamp(min=0)] * there[..., None],  # (n, K, C)
            as_mask(F.pad(out["text_mask"], (1, 0), value=True)),
            as_mask(there),
            F.pad(out["entity_words"].to(text), (1, 0)),
        )

    def _of_images(self, numbers: Tensor) -> Tensor:
        if numbers.shape[1] != (count := len(self.graph.start)):
            raise DataError(
                f"{self.title}: {numbers.shape[1]} entities per image, and {count} in option entities; "
                f"give one file to both: --set data.entities=FILE --set loss.{self.name}.entities=FILE"
            )
        return (numbers > 0).to(numbers)


def mentioned(ids: Tensor, count: int) -> Tensor:
    """(B, K) ids of entities, `PADDING` for none, -> (B, E) float, 1 where it is among them."""
    marks = torch.zeros(len(ids), count + 1, device=ids.device)
    return marks.scatter(1, torch.where(ids == PADDING, count, ids), 1.0)[:, :count]
