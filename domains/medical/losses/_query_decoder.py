"""Queries of findings and positions that look at the patches of an image: what `medklip` and `medslip` share.

Texts describe each finding and each position. A frozen text tower reads them once; a linear layer makes queries of
them, and a decoder lets the queries look at patches. What it gives for a query says whether the finding is there, and
is compared with the texts of positions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone, Output, RowLoss, option
from ....core.errors import ConfigError, DataError, UnknownNameError, did_you_mean
from ....core.losses import Draws
from ....core.runtime import Ranks, read_json

DESCRIBED = Path(__file__).parents[1] / "reports" / "descriptions.json"
KINDS = ("findings", "positions")
PRESENT, ABSENT = 1, -1
"""In column `findings`; all else is not learned. In `relations` absence is 0."""
NEVER = torch.iinfo(torch.int64).max


@cache
def described(kind: str) -> dict[str, str]:
    """Name -> sentence of the "findings" or "positions" that this package describes."""
    return read_json(DESCRIBED)[kind]


def descriptions_in(value: Any) -> Any:
    """For `option`: a JSON file of names with their descriptions, or such an object itself.

    Raises:
        ConfigError: the file cannot be read, or is no object of texts.
    """
    if not (isinstance(value, (str, Path)) and str(value).lower().endswith(".json")):
        return value
    try:
        content = read_json(Path(value))
    except DataError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(content, dict) or not all(isinstance(text, str) for text in content.values()):
        raise ConfigError('not an object of texts; give {"name": "a sentence about it", ...}')
    return content


class QueryDecoder(nn.TransformerDecoder):
    """Attention of queries to each other, then to patches, layer by layer; LayerNorm before each step and at the end.

    Args:
        width, heads, layers, hidden, dropout: of each layer and their number.
    """

    def __init__(self, width: int, heads: int, layers: int, hidden: int, dropout: float):
        layer = nn.TransformerDecoderLayer(width, heads, hidden, dropout, batch_first=True, norm_first=True)
        super().__init__(layer, layers, nn.LayerNorm(width))

    def maps(self, queries: Tensor, patches: Tensor) -> Tensor:
        """(B, Q, W) and (B, P, W) -> (layers, B, Q, P): where each query looks in each layer, the mean over heads."""
        x, made = queries, []
        for layer in self.layers:
            own = layer.norm1(x)
            asking = x + layer.self_attn(own, own, own, need_weights=False)[0]
            made.append(layer.multihead_attn(layer.norm2(asking), patches, patches)[1])
            x = layer(x, patches)
        return torch.stack(made)


class Stream(nn.Module):
    """A decoder, whether what it was asked for is there, and its answers among texts.

    Args:
        loss: whose options say how wide and deep it is.
        text_width: of the texts that answers are compared with; None: they are not.
    """

    def __init__(self, loss: QueryLoss, text_width: int | None):
        super().__init__()
        self.decoder = QueryDecoder(loss.width, loss.heads, loss.layers, loss.hidden, loss.dropout)
        self.dropout = nn.Dropout(loss.dropout)
        self.classifier = nn.Linear(loss.width, 2)
        self.contrast: Any = None if text_width is None else nn.Linear(loss.width, text_width)

    def forward(self, patches: Tensor, queries: Tensor) -> Tensor:
        """(B, P, W) and (Q, W) -> (B, Q, W), before dropout."""
        return self.decoder(queries.expand(len(patches), -1, -1), patches)

    def maps(self, patches: Tensor, queries: Tensor) -> Tensor:
        """The same -> (layers, B, Q, P)."""
        return self.decoder.maps(queries.expand(len(patches), -1, -1), patches)

    def products(self, answers: Tensor, book: Tensor) -> Tensor:
        """(B, Q, W) answers and (A, T) texts -> (B, Q, A)."""
        return self.contrast(answers) @ book.T


def drawn_places(keys: Tensor, allowed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of (B, Q, A) allowed places so many with the lowest keys: their indices (B, Q, K), no two alike, and which of
    them are allowed, where there are fewer."""
    index = keys.masked_fill(~allowed, NEVER).topk(min(count, keys.shape[2]), largest=False).indices
    return index, allowed.gather(2, index)


def mean_where(values: Tensor, mask: Tensor, ranks: Ranks) -> Tensor:
    """Mean over the marked entries of all ranks; 0 where none is marked."""
    total = ranks.total(torch.where(mask, values, 0.0).sum())
    return total / ranks.total(mask.sum().to(values.dtype)).clamp(min=1)


def existence_loss(logits: Tensor, present: Tensor, absent: Tensor, ranks: Ranks) -> Tensor:
    """Cross-entropy of (B, Q, 2) logits of "absent, present", where one of the two is known."""
    values = F.cross_entropy(logits.flatten(0, 1), present.long().flatten(), reduction="none")
    return mean_where(values.view(present.shape), present | absent, ranks)


def contrast_loss(
    true: Tensor, products: Tensor, negatives: Tensor, there: Tensor, learned: Tensor, ranks: Ranks
) -> Tensor:
    """Cross-entropy of the true text among others.

    Args:
        true: (B, Q) product of each answer with its true text.
        products: (B, Q, A) with all texts.
        negatives: (B, Q, K) which of them are the others.
        there: (B, Q, K) which of the others count.
        learned: (B, Q) which answers count.
    """
    others = products.gather(2, negatives).masked_fill(~there, -torch.inf)
    return mean_where(torch.cat([true[..., None], others], dim=2).logsumexp(dim=2) - true, learned, ranks)


@dataclass(eq=False, repr=False, kw_only=True)
class QueryLoss(RowLoss):
    """Base of losses whose queries are findings."""

    frozen_towers: ClassVar[frozenset[str]] = frozenset({"text"})
    answers: ClassVar[bool] = True
    outputs: ClassVar[Mapping[str, Output]] = {
        "findings": Output(
            "findings: 1 present, -1 absent; others are not learned", ("B", "E"), "finding", column="findings"
        ),
        "relations": Output(
            "findings x positions: 1 the finding is there, 0 it is not; others are not learned",
            ("B", "R"),
            "finding",
            column="relations",
        ),
    }

    findings: dict[str, str] | None = option(
        None, "finding -> description, in the order of column findings; or a JSON file of that", parse=descriptions_in
    )
    positions: dict[str, str] | None = option(
        None, "position -> description, in the order of relations; or a JSON file of that", parse=descriptions_in
    )
    exclude: tuple[str, ...] = option((), "findings that are not learned, though queries of them are there")
    width: int = option(256, "width of queries and patches", low=1, high=65_536)
    heads: int = option(4, "attention heads of the decoder", low=1, high=1024)
    layers: int = option(4, "layers of the decoder", low=1, high=1000)
    hidden: int = option(1024, "width of the hidden layer of the decoder's feed-forward networks", low=1, high=65_536)
    dropout: float = option(0.1, "dropout in the decoder and on its answers", low=0, below=1)
    negatives: int = option(7, "wrong texts beside the right one, per answer", low=1, high=65_536)
    contrast_weight: float = option(
        1.0, "weight of answers that pick their text among others, 0 for none", low=0, high=10_000
    )

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.heads:
            raise ConfigError(f"{self.title}: width={self.width} does not divide into heads={self.heads}")
        for kind in KINDS:
            if getattr(self, kind) is None:
                setattr(self, kind, dict(described(kind)))
            if not getattr(self, kind):
                raise ConfigError(f"{self.title}: option {kind} names none; give a JSON object or file")
        for name in self.exclude:
            if name not in self.findings:
                raise UnknownNameError(
                    f"{self.title}: exclude={name} is not a finding; {did_you_mean(name, self.findings)}"
                )
        self.text_width = self.dim("embed_dim", "its queries")
        self.query_map = nn.Linear(self.text_width, self.width)
        self.draws = Draws()
        for kind in KINDS:  # drawn until `prepare` reads the descriptions
            self.register_buffer(f"book_of_{kind}", torch.randn(len(getattr(self, kind)), self.text_width))
        self.register_buffer("learned", torch.tensor([name not in self.exclude for name in self.findings]))

    @classmethod
    def named(cls, options: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Descriptions of what the data name, in their order: those given, else ours, else the name itself."""
        made = dict(options)
        for kind in KINDS:
            if names.get(kind):
                known = {**described(kind), **descriptions_in(options.get(kind) or {})}
                folded = {name.casefold(): text for name, text in known.items()}
                made[kind] = {name: folded.get(name.casefold(), name) for name in names[kind]}
        return made

    @torch.no_grad()
    def prepare(self, backbone: Backbone) -> None:
        for kind in KINDS:
            texts = backbone.encode_text(list(getattr(self, kind).values()), normalize=False)
            getattr(self, f"book_of_{kind}").copy_(texts)

    def after_step(self, model: nn.Module | None) -> None:
        self.draws.move()

    def known(self, out: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(B, E) bool: which findings are present, and which absent, of those that are learned.

        Raises:
            DataError: the data have another number of findings than there are descriptions.
        """
        findings = out["findings"]
        if findings.shape[1] != len(self.learned):
            raise DataError(
                f"{self.title}: {findings.shape[1]} findings per image, and {len(self.learned)} descriptions; give "
                f"one for each, in their order: --set loss.{self.name}.findings=FILE.json"
            )
        return (findings == PRESENT) & self.learned, (findings == ABSENT) & self.learned

    def related(self, out: Mapping[str, Any]) -> Tensor:
        """(B, E, A) numbers of column relations.

        Raises:
            DataError: the data have another number of them.
        """
        relations, shape = out["relations"].flatten(1), (len(self.book_of_findings), len(self.book_of_positions))
        if relations.shape[1] != shape[0] * shape[1]:
            raise DataError(
                f"{self.title}: {relations.shape[1]} relations per image, and {shape[0]} findings at {shape[1]} "
                f"positions are described; give the positions of the data: --set loss.{self.name}.positions=FILE.json"
            )
        return relations.unflatten(1, shape)

    @abstractmethod
    def seen(self, tokens: Tensor) -> tuple[Stream, Tensor]:
        """(B, P, D) patches -> what answers queries of findings, and the patches (B, P, W) that it looks at."""

    def logits_of(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """(B, P, D) patches and (Q, T) texts of findings -> (B, Q, 2) logits of "absent, present"."""
        stream, patches = self.seen(tokens)
        return stream.classifier(stream.dropout(stream(patches, self.query_map(texts))))

    def maps_of(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """The same -> (B, Q, P): where each query looks, the mean over layers and heads."""
        stream, patches = self.seen(tokens)
        return stream.maps(patches, self.query_map(texts)).mean(dim=0)


def image_map(width: int, out: int) -> nn.Sequential:
    """Patches -> what queries look at."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


def as_bert(module: nn.Module) -> None:
    """Weights drawn as the released code has them: N(0, 0.02) of linear layers and attention."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=0.02)
