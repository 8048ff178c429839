"""Captions by a model of transformers that reads images and writes text, as a stage over shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..backbones.load import resolve_device
from ..errors import CapabilityError, ConfigError, DataError
from ..shards import Stage, Unreadable
from ..shards.sources import ShardRow
from .facts import eight_bits
from .match import ITC, ITM, SCORER, Matcher, MatchStage
from .pretrained import OFFLINE, loading, model_fingerprint, pretrained_folder, whole_model

if TYPE_CHECKING:
    import pyarrow


OF_CAPTION = "caption_"
"""Before the names of a matcher's columns."""
OTHERWISE = "writes no captions; give one such as blip, git or blip-2"


@dataclass(frozen=True)
class Writing:
    """How captions are written.

    Args:
        prompt: what the caption begins with, or for a model that takes turns, what it is asked; "" for none.
        tokens: at most, of a caption.
        top_p: captions are drawn from the likeliest words that together have this probability; 0 for the likeliest
            words alone. Drawn captions differ more from each other, and are better to train on (BLIP: Bootstrapping
            Language-Image Pre-training for Unified Vision-Language Understanding and Generation, 2022,
            arXiv 2201.12086).
        beams: sequences that are followed at once, where nothing is drawn.
        repetition: above 1, words that were written already are less likely.
        seed: of what is drawn.
    """

    prompt: str = ""
    tokens: int = 30
    top_p: float = 0.0
    beams: int = 1
    repetition: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.top_p and self.beams > 1:
            raise ConfigError("captions: beams are for captions that are not drawn; omit top_p, or beams")


@dataclass(frozen=True)
class CaptionStage(Stage):
    """Image -> caption. Of the same rows in the same batches come the same captions, on the same kind of device.

    Args:
        model: folder.
        fingerprint: of its files.
        writing: how.
        device: "auto" or as torch calls it.
        precision: name of a type of torch.
        matcher: tells how well each caption matches its image; None where nothing does.
    """

    model: str
    fingerprint: str
    writing: Writing = field(default_factory=Writing)
    device: str = "auto"
    precision: str = "float32"
    matcher: MatchStage | None = None
    name: str = field(default="caption", init=False)

    @classmethod
    def of(
        cls,
        model: str,
        writing: Writing | None = None,
        device: str = "auto",
        precision: str = "float32",
        matcher: str | None = None,
    ) -> CaptionStage:
        """Of a folder, or of a model of the hub by its id; and so the matcher.

        Raises:
            DataError: no such folder, or not cached and no network. ConfigError: no such precision.
        """
        folder = pretrained_folder(model)
        judge = None if matcher is None else MatchStage.of(matcher, device=device, precision=precision)
        return cls(str(folder), model_fingerprint(folder), writing or Writing(), device, precision, judge)

    @property
    def settings(self) -> Mapping[str, Any]:
        judged = {} if self.matcher is None else {"matcher": dict(self.matcher.settings)}
        return {"model": self.fingerprint, "precision": self.precision, **vars(self.writing), **judged}

    @property
    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        written = pa.schema([("id", pa.string()), ("caption", pa.string()), ("captioner", pa.string())])
        if self.matcher is None:
            return written
        return pa.schema(
            [*written, *(each.with_name(f"{OF_CAPTION}{each.name}") for each in list(self.matcher.schema)[1:])]
        )

    def start(self, threads: int | None) -> tuple[Captioner, Matcher | None]:
        captioner = Captioner.load(Path(self.model), resolve_device(self.device), getattr(torch, self.precision))
        return captioner, None if self.matcher is None else self.matcher.start(threads)

    def run(
        self, state: tuple[Captioner, Matcher | None], rows: Iterator[ShardRow], batch_size: int
    ) -> Iterator[pyarrow.Table | Unreadable]:
        import pyarrow as pa

        captioner, matcher = state
        while batch := list(islice(rows, batch_size)):
            pictures, ids = [], []
            for row in batch:
                try:
                    pictures.append(eight_bits(row.read(), row.id))
                    ids.append(row.id)
                except DataError as error:
                    yield Unreadable(row.id, str(error))
            if ids:
                captions = captioner.write(pictures, self.writing, _seed(self.writing.seed, ids))
                made: dict[str, Any] = {"id": ids, "caption": captions, "captioner": [self.fingerprint] * len(ids)}
                if matcher is not None and self.matcher is not None:
                    itm, itc = matcher.columns(pictures, captions)
                    scores = {ITM: itm, ITC: itc, SCORER: [self.matcher.fingerprint] * len(ids)}
                    made |= {f"{OF_CAPTION}{name}": values for name, values in scores.items()}
                yield pa.table(made, self.schema)


@dataclass(frozen=True)
class Captioner:
    """What a worker holds: a model and its processor, which prepares images and texts for it."""

    model: Any
    processor: Any

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> Captioner:
        """From a folder; nothing is downloaded, and no code in it is run.

        Raises:
            CapabilityError: a model that writes no captions. DataError: a file is missing or damaged.
        """
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        with loading(folder):
            config = AutoConfig.from_pretrained(folder, **OFFLINE)
            if type(config) not in AutoModelForImageTextToText._model_mapping:
                raise CapabilityError(f"{folder}: a model of kind '{config.model_type}' {OTHERWISE}")
            model = whole_model(AutoModelForImageTextToText, folder, OTHERWISE, dtype=dtype)
            processor = AutoProcessor.from_pretrained(folder, **OFFLINE)
            if (tokenizer := getattr(processor, "tokenizer", None)) is not None and not config.is_encoder_decoder:
                tokenizer.padding_side = "left"  # what is written follows the last word
        return cls(model.to(device).eval(), processor)

    @torch.inference_mode()
    def write(self, pictures: Sequence[Image.Image], writing: Writing, seed: int) -> list[str]:
        """A caption per picture, without the prompt.

        Args:
            seed: of what is drawn.
        """
        inputs = self._inputs(pictures, writing.prompt)
        drawn = {"do_sample": True, "top_p": writing.top_p, "top_k": 0} if writing.top_p else {"do_sample": False}
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            written = self.model.generate(
                **inputs,
                max_new_tokens=writing.tokens,
                num_beams=writing.beams,
                repetition_penalty=writing.repetition,
                **drawn,
            )
        words = inputs.get("input_ids")
        if words is not None and torch.equal(written[:, : words.shape[1]], words):  # a decoder alone repeats them
            written = written[:, words.shape[1] :]
        captions = self.processor.batch_decode(written, skip_special_tokens=True)
        return [_without_prompt(" ".join(caption.split()), writing.prompt) for caption in captions]

    def _inputs(self, pictures: Sequence[Image.Image], prompt: str) -> Any:
        if getattr(self.processor, "chat_template", None):
            asked = [{"type": "image"}, {"type": "text", "text": prompt or "Describe this image in one sentence."}]
            text = self.processor.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True)
            made = self.processor(
                images=[[each] for each in pictures], text=[text] * len(pictures), padding=True, return_tensors="pt"
            )
        elif prompt:
            made = self.processor(images=list(pictures), text=[prompt] * len(pictures), return_tensors="pt")
        else:
            made = self.processor(images=list(pictures), return_tensors="pt")
        return made.to(self.model.device, self.model.dtype)


def _without_prompt(caption: str, prompt: str) -> str:
    begins = prompt and caption.lower().startswith(prompt.lower())
    return caption[len(prompt) :].strip() if begins else caption


def _seed(seed: int, ids: Sequence[str]) -> int:
    digest = hashlib.blake2b(json.dumps([seed, *ids]).encode(errors="surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "little")
