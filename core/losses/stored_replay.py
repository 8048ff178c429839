"""Replay of pairs of which only features are left: captions are to stay at the stored features of their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.loss import Loss
from ..contracts.options import option, require
from ..contracts.outputs import Output
from ..errors import CapabilityError
from ..runtime.files import read_tensors
from ._texts import encode_without_waiting

PAIRS = frozenset({"image_features", "text_features", "logit_scale"})
FIELDS = ("tokens", "draws")
STORED = {
    "stored.image": Output("stored image features of an earlier pair", fields=FIELDS),
    "stored.text": Output("text features of its caption", fields=FIELDS),
    "stored.row": Output("which of the stored pairs it is", ("B",), "row", fields=FIELDS),
}
PROBE = "A photo of 2 red kites, taken in 1987."
"""Read by the tokenizer of a file and by that of a training, which are to agree."""
DRAW = 3
"""Row of a sample's own draws by which its stored pair is chosen; masked words take the first three."""


@dataclass(eq=False, repr=False, kw_only=True)
class StoredReplay(Loss):
    """A baseline of ours, which goes beside the loss on new pairs: replay of earlier pairs, of which the images are
    gone. "Simple and Scalable Strategies to Continually Pre-train Large Language Models" (Ibrahim et al., 2024,
    arXiv 2403.08763) replays the data themselves.

    With each new sample comes a stored pair, drawn at random: the feature that its image had after the earlier
    training, and its caption, which goes through the text tower as it is now. InfoNCE, where stored images pick their
    caption among stored and new ones, and stored captions their image likewise. What the same stored pair gave twice
    is no wrong answer. New pairs are drawn into the same space by this, and gradients reach both towers.

    Raises:
        ConfigError: no file, or one that holds no pairs. DataError: a file is damaged.
        CapabilityError: features have another width than the towers'.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> out |= {"stored.image": torch.eye(4), "stored.text": torch.eye(4), "stored.row": torch.arange(4)}
        >>> sorted(vladapt.build_loss("stored-replay")(out))
        ['image_to_text', 'loss', 'text_to_image']
    """

    differs: ClassVar[str] = "ours: there is no published code; the tests check it against a loop"
    needs: ClassVar[frozenset[str]] = PAIRS | STORED.keys()
    outputs: ClassVar[Mapping[str, Output]] = STORED

    files: tuple[str, ...] = option(
        (), "files of stored pairs, replay.safetensors of earlier trainings; empty where features are given"
    )

    def __post_init__(self):
        super().__post_init__()
        self._stored: dict[str, Tensor] = {}  # no buffers: checkpoints need not hold them
        self._probes: list[Tensor] = []
        if not self.files:
            return
        parts = [read_replay_file(Path(file)) for file in self.files]
        widths = {part["images"].shape[1] for part in parts}
        if widths != {(self.dims or {}).get("embed_dim", min(widths))}:
            raise CapabilityError(
                f"{self.title}: {', '.join(self.files)} hold features of width {', '.join(map(str, sorted(widths)))}, "
                f"and these towers have {self.dims.get('embed_dim')}; store them anew with these towers"
            )
        lengths = {part["tokens"].shape[1] for part in parts}
        require(len(lengths) == 1, "files", list(self.files), "their captions were read by different tokenizers")
        self._probes = [part["probe"] for part in parts if "probe" in part]
        self._stored = {name: torch.cat([part[name] for part in parts]) for name in ("images", "tokens")}
        require(len(self._stored["images"]) > 1, "files", list(self.files), "they hold no pairs")

    def prepare(self, backbone: Backbone) -> None:
        """Raises the CapabilityError of captions that another tokenizer read."""
        if self._probes and not all(torch.equal(backbone.tokenize([PROBE]).cpu(), probe) for probe in self._probes):
            raise CapabilityError(
                f"{self.title}: the captions in {', '.join(self.files)} were read by another tokenizer than that of "
                f"'{backbone.spec}'; store them anew with these towers"
            )

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        if not self._stored:
            raise CapabilityError(f"{self.title} needs stored pairs; give --set loss.stored-replay.files=FILE")
        images, tokens = self._stored["images"], self._stored["tokens"]
        drawn = batch["draws"][:, DRAW, 0]
        rows = (drawn * len(images)).long().clamp(max=len(images) - 1)
        if images.device != drawn.device:
            self._stored = {name: value.to(drawn.device) for name, value in self._stored.items()}
            images, tokens = self._stored["images"], self._stored["tokens"]
        texts = encode_without_waiting(backbone, tokens[rows])
        return {"stored.image": images[rows], "stored.text": texts, "stored.row": rows}

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        images, texts, rows = out["stored.image"], out["stored.text"], out["stored.row"]
        again = (rows[:, None] == rows) & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)  # (N, N)
        again = F.pad(again, (0, len(out["image_features"])))  # (N, 2 N): new pairs are none of them

        def among(queries: Tensor, own: Tensor, new: Tensor) -> Tensor:
            logits = out["logit_scale"] * queries @ torch.cat([own, new]).T  # (N, 2 N)
            right = torch.arange(len(queries), device=queries.device)
            return F.cross_entropy(logits.masked_fill(again, -torch.inf), right)

        to_text = among(images, texts, out["text_features"])
        to_image = among(texts, images, out["image_features"])
        return {"loss": (to_text + to_image) / 2, "image_to_text": to_text, "text_to_image": to_image}


def read_replay_file(path: Path) -> dict[str, Tensor]:
    """ "images" (M, D) unit float32, "tokens" (M, L) and "probe" (1, L) of a file that a training wrote for replay.

    Raises:
        DataError: it is damaged, or no such file.
    """
    _, tensors = read_tensors(path, "store it again")
    images, tokens = tensors.get("images"), tensors.get("tokens")
    pairs = images is not None and tokens is not None and images.ndim == tokens.ndim == 2 and len(images) == len(tokens)
    require(pairs, "files", str(path), "give replay.safetensors of an earlier training")
    assert images is not None
    return {**tensors, "images": F.normalize(images.float(), dim=-1)}
