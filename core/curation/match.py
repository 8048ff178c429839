"""How well image and text match, told by a head that was trained to tell it, as a stage over shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image

from ..backbones.load import resolve_device
from ..errors import CapabilityError, ConfigError, DataError
from ..shards import Stage, Unreadable
from ..shards.sources import ShardRow
from .facts import eight_bits
from .pretrained import OFFLINE, loading, model_fingerprint, pretrained_folder, whole_model

if TYPE_CHECKING:
    import pyarrow

ITM, ITC, SCORER = "itm", "itc", "scorer"
"""Columns: probability of a match, cosine of image and text, and a hash of the model."""
TOKENS = 35
"""Of a text, those that BLIP's head was trained with."""
OTHERWISE = "tells no match of image and text; give one such as Salesforce/blip-itm-base-coco"


@dataclass(frozen=True)
class MatchStage(Stage):
    """Image and its text -> the probability that they match, and the cosine of both. A pair without a text has neither.

    The head for image-text matching of BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language
    Understanding and Generation (2022, arXiv 2201.12086), by which its authors filtered captions.

    Args:
        model: folder.
        fingerprint: of its files.
        tokens: of a text, at most; the rest is not read.
        device: "auto" or as torch calls it.
        precision: name of a type of torch.
    """

    model: str
    fingerprint: str
    tokens: int = TOKENS
    device: str = "auto"
    precision: str = "float32"
    name: str = field(default="score", init=False)

    @classmethod
    def of(cls, model: str, tokens: int = TOKENS, device: str = "auto", precision: str = "float32") -> MatchStage:
        """Of a folder, or of a model of the hub by its id.

        Raises:
            DataError: no such folder, or not cached and no network. ConfigError: no such precision, or no tokens.
        """
        if tokens < 3:
            raise ConfigError("tokens: give 3 or more; the first and the last are no words")
        folder = pretrained_folder(model)
        return cls(str(folder), model_fingerprint(folder), tokens, device, precision)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"model": self.fingerprint, "tokens": self.tokens, "precision": self.precision}

    @property
    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        return pa.schema([("id", pa.string()), (ITM, pa.float32()), (ITC, pa.float32()), (SCORER, pa.string())])

    def start(self, threads: int | None) -> Matcher:
        return Matcher.load(Path(self.model), resolve_device(self.device), getattr(torch, self.precision), self.tokens)

    def run(self, state: Matcher, rows: Iterator[ShardRow], batch_size: int) -> Iterator[pyarrow.Table | Unreadable]:
        import pyarrow as pa

        while batch := list(islice(rows, batch_size)):
            pictures, ids, texts = [], [], []
            for row in batch:
                if row.text_lost:
                    yield Unreadable(row.id, row.text_lost)
                    continue
                try:
                    pictures.append(eight_bits(row.read(), row.id))
                except DataError as error:
                    yield Unreadable(row.id, str(error))
                    continue
                ids.append(row.id)
                texts.append(row.text)
            if ids:
                itm, itc = state.columns(pictures, texts)
                scorer = [self.fingerprint] * len(ids)
                yield pa.table({"id": ids, ITM: itm, ITC: itc, SCORER: scorer}, self.schema)


@dataclass(frozen=True)
class Matcher:
    """What a worker holds: a model and its processor, which prepares images and texts for it.

    Args:
        tokens: of a text, at most.
    """

    model: Any
    processor: Any
    tokens: int = TOKENS

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype, tokens: int = TOKENS) -> Matcher:
        """From a folder; nothing is downloaded, and no code in it is run.

        Raises:
            CapabilityError: a model without a head for matching. DataError: a file is missing or damaged.
        """
        from transformers import AutoConfig, AutoProcessor, BlipForImageTextRetrieval

        with loading(folder):
            config = AutoConfig.from_pretrained(folder, **OFFLINE)
            if config.model_type != "blip":
                raise CapabilityError(f"{folder}: a model of kind '{config.model_type}' {OTHERWISE}")
            model = whole_model(BlipForImageTextRetrieval, folder, OTHERWISE, dtype=dtype)
            processor = AutoProcessor.from_pretrained(folder, **OFFLINE)
        return cls(model.to(device).eval(), processor, tokens)

    def columns(
        self, pictures: Sequence[Image.Image], texts: Sequence[str | None]
    ) -> tuple[list[float | None], list[float | None]]:
        """(match, cosine) of each pair; None where there is no text."""
        itm: list[float | None] = [None] * len(texts)
        itc: list[float | None] = [None] * len(texts)
        rows = [row for row, text in enumerate(texts) if text]
        if rows:
            match, cosine = self.scores([pictures[row] for row in rows], [texts[row] or "" for row in rows])
            for row, *two in zip(rows, match.tolist(), cosine.tolist()):
                itm[row], itc[row] = two
        return itm, itc

    @torch.inference_mode()
    def scores(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """How well each text matches its picture. The image is encoded once for both.

        Returns:
            (N,) probabilities of a match, and (N,) cosines; float32.
        """
        model, length = self.model, {"padding": "max_length", "truncation": True, "max_length": self.tokens}
        inputs = self.processor(images=list(pictures), text=list(texts), return_tensors="pt", **length)
        inputs = inputs.to(model.device, model.dtype)
        words = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        image = model.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state  # (N, P, W)
        joint = model.text_encoder(**words, encoder_hidden_states=image).last_hidden_state  # (N, L, W)
        alone = model.text_encoder(**words).last_hidden_state
        match = model.itm_head(joint[:, 0]).float().softmax(dim=1)[:, 1]  # of (no match, match)
        cosine = F.cosine_similarity(model.vision_proj(image[:, 0]).float(), model.text_proj(alone[:, 0]).float())
        return match, cosine
