"""Backbones of open_clip: `open_clip:<arch>/<tag>`; as published, `open_clip:hf-hub:<owner>/<name>` or
`open_clip:<folder>`; `open_clip:<arch or config.json>@<checkpoint>`; with `@random` or `@random:<seed>` weights that
nothing has trained, to start from.

Reproducible scaling laws for contrastive language-image learning, 2023, arXiv 2212.07143, and the many models that
library carries: CLIP (arXiv 2103.00020), SigLIP (arXiv 2303.15343), CoCa, and others.

A checkpoint of OpenAI's own is recognised and gets QuickGELU; one of unknown origin that was trained with it needs the
`-quickgelu` spelling of its architecture (`ViT-B-32-quickgelu@file`). With `<arch>@<checkpoint>` pixels are made as all
released weights of that architecture want them, where they agree, else as CLIP does; a `config.json` says it in
`preprocess_cfg`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import torch
from open_clip import model as models
from open_clip import tokenizer as tokenizers
from torch import Tensor, nn

from ..contracts.images import ImageSize, height_and_width
from ..contracts.options import as_text
from ..errors import CapabilityError, ConfigError, DataError
from ..runtime.process import need_package
from ..runtime.reading import read_json
from .checkpoints import copy_files, fit_weights, read_checkpoint, resize_positions
from .hub import ModelFolder
from .last_stride import at_stride_one, is_timm_resnet
from .open_clip_folder import TEXT_MODEL
from .open_clip_source import OpenClipSource, described_source, find_open_clip
from .open_clip_timm import TimmMapTower, timm_tower_class
from .open_clip_towers import (
    RESNET_STRIDE,
    OpenClipBertTower,
    OpenClipTextTower,
    OpenClipVitTower,
    ResNetTower,
    resnet_grid,
)
from .tower_steps import ImageTower, TextTower, Undrawn, sized_like
from .two_tower import TwoTower, fingerprint

CUSTOM_BLOCK = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
POSITIONS = {"visual.positional_embedding": 1, "visual.attnpool.positional_embedding": 1}
BPE_WORDS = 49408
"""In CLIP's vocabulary. A text tower of fewer words has the first of them, which are the most frequent."""
BYTE_WORDS, MARKS = 512, 2
"""Single bytes, within and at the end of a word, come before what is joined; the marks of a text's ends come last."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")
BERTS = ("bert", "roberta", "xlm-roberta")
"""Kinds of text towers of transformers that are opened; others encode whole texts only."""
POOLERS = ("cls_last_hidden_state_pooler", "cls_pooler", "mean_pooler")
NO_BLOCKS = (ResNetTower, TimmMapTower)
LAST_STRIDE = "last_stride"
"""In `vision_cfg` of a ResNet whose last stage goes one cell at a time; open_clip itself knows no such key."""
TIMES = 8
"""So much larger than its file a model may be: files of half precision, or of fewer bits."""
MOST_TEXTS = 20_000
"""Texts that a tokenizer remembers: some megabytes."""
COMPANIONS = (*TOKENIZER_FILES, "special_tokens_map.json", "merges.txt")


def build(rest: str, *, spec: str, device: torch.device, image_size: ImageSize | None) -> OpenClipBackbone:
    """The backbone `open_clip:<rest>`; see `load_backbone`."""
    return OpenClipBackbone(find_open_clip(rest, image_size), spec, device)


def rebuild(
    description: dict, weights: Path, *, spec: str, device: torch.device, image_size: ImageSize | None
) -> OpenClipBackbone:
    """The backbone of weights that were trained here; `description` is that of the backbone they came from."""
    return OpenClipBackbone(described_source(description, weights, image_size), spec, device)


class OpenClipBackbone(TwoTower):
    """A model of open_clip.

    Args:
        source: its configuration, weights and preprocessing.
        spec: as the user wrote it.
        device: where its towers go when they are built.
    """

    family = "open_clip"

    def __init__(self, source: OpenClipSource, spec: str, device: torch.device):
        super().__init__()
        text = source.config.get("text_cfg") or {}
        self.source, self.spec, self.device = source, spec, device
        self.transform = source.transform
        self.licence, self.notes = source.licence, list(source.notes)
        if source.text_model is not None:
            _need_transformers("the text tower", spec)
        self.text_model = None if source.text_model is None else _read_text_model(source)
        if text and not text.get("hf_tokenizer_name"):
            # The last pair that is joined stands for a hidden word: "Cross-Modal Implicit Relation Reasoning and
            # Aligning for Text-to-Image Person Retrieval" (Jiang and Ye 2023, arXiv 2303.12501). Id 0 is padding, too.
            self.mask_token = _bpe_words(text) - MARKS - 1
            self.word_ids = range(1, self.mask_token)
        opened = _image_tower_class(source.config["vision_cfg"])
        self.turned = opened is not None and opened.turned
        self.embed_dim, self.has_text = source.config["embed_dim"], bool(text)
        self.context_length = text.get("context_length", 77) if text else 0
        self.capabilities = image_capabilities(source.config["vision_cfg"]) | self._text_capabilities()
        self.fingerprint = fingerprint("open_clip", source.config, source.identity, source.transform.spec)

    @property
    def description(self) -> dict:
        """All but the weights, JSON-able."""
        source = self.source
        return {"name": source.name, "config": source.config, "pixels": asdict(source.transform)}

    def save_companions(self, folder: Path) -> None:
        """open_clip's own configuration, and the tokenizer's files where it has its own."""
        transform = self.transform
        pixels = {"mean": transform.mean, "std": transform.std, "interpolation": transform.interpolation}
        config = {"model_cfg": self.source.config, "preprocess_cfg": {**pixels, "resize_mode": transform.mode}}
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        if self.source.folder is not None:
            copy_files(self.source.folder, folder, COMPANIONS)
        if self.source.text_model is not None:
            (folder / TEXT_MODEL).mkdir(exist_ok=True)
            copy_files(self.source.text_model, folder / TEXT_MODEL, ("config.json",))

    def set_last_stride(self) -> None:
        source, vision = self.source, self.source.config["vision_cfg"]
        timm_name = vision.get("timm_model_name")
        if not (is_timm_resnet(timm_name) if timm_name else _image_tower_class(vision) is ResNetTower):
            super().set_last_stride()
        if vision.get(LAST_STRIDE) == 1:
            return
        if self._model is not None:
            raise CapabilityError(f"backbone '{self.spec}' is built already; load it again to set its last stride")
        config = {**source.config, "vision_cfg": {**vision, LAST_STRIDE: 1}}
        self.source = replace(source, config=config, restrided=True)
        self.fingerprint = fingerprint("open_clip", config, source.identity, source.transform.spec)

    def build_model(self) -> nn.Module:
        source = self.source
        if source.weights is None:
            torch.manual_seed(source.seed)  # the caller puts the state back that the run is in
            return _empty_model(source)
        state = read_checkpoint(source.weights)
        with sized_like(source.weights, TIMES), Undrawn():
            model = _empty_model(source)
        if isinstance(model, models.CustomTextCLIP) and "text_projection" in state:
            state = models.convert_to_custom_text_state_dict(state)
        state.pop("text.transformer.embeddings.position_ids", None)  # no weights, and not written by newer versions
        for name in ("logit_scale", "logit_bias"):
            parameter = getattr(model, name, None)
            if parameter is not None and name in state:
                state[name] = state[name].reshape(parameter.shape)
        if source.resized or source.restrided:
            _resize(state, source)
        optional = ("logit_scale",) if isinstance(model, ImageOnly) else ()
        fit_weights(model, state, source.weights, source.name, optional)
        if source.resized and hasattr(model.visual, "trunk"):
            _set_timm_size(model.visual, source)
        return model

    def build_towers(self, model: nn.Module) -> tuple[ImageTower | None, TextTower | None]:
        vision, text = self.source.config["vision_cfg"], self.source.config.get("text_cfg") or {}
        image_tower = text_tower = None
        if "hidden" in self.capabilities:
            image_tower = _image_tower_class(vision)(model.visual)
        if "prompt" in self.capabilities:
            if self.text_model is not None:
                roberta = self.text_model["model_type"] != "bert"
                return image_tower, OpenClipBertTower(model.text, _pooler(text), roberta)
            owner = model.text if hasattr(model, "text") else model
            causal = not text.get("no_causal_mask", False)
            text_tower = OpenClipTextTower(owner, text.get("pool_type", "argmax"), causal)
        return image_tower, text_tower

    def build_tokenizer(self) -> Callable[[list[str]], Tensor]:
        text = self._text_config()
        options = dict(text.get("tokenizer_kwargs") or {})
        name = text.get("hf_tokenizer_name")
        if not name:
            return _simple_tokenizer(self.context_length, _bpe_words(text), json.dumps(options, sort_keys=True))
        _need_transformers("the tokenizer", self.spec)
        folder = self.source.folder
        if folder is not None and any((folder / file).is_file() for file in TOKENIZER_FILES):
            name = str(folder)
        if text.get("tokenizer_mode"):
            options["tokenizer_mode"] = text["tokenizer_mode"]
        return _hub_tokenizer(name, self.context_length, options, self.spec)

    def token_mask(self, tokens: Tensor) -> Tensor:
        text = self._text_config()
        pool = text.get("pool_type", "argmax")
        if self.text_model is not None:
            return tokens != self.text_model["pad_token_id"]
        if pool not in ("argmax", "eos"):
            return torch.ones_like(tokens, dtype=torch.bool)
        marks = tokens if pool == "argmax" else (tokens == text.get("eos_id", 2)).int()
        return torch.arange(tokens.shape[1], device=tokens.device) <= marks.argmax(dim=1, keepdim=True)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        features = self.model.visual(pixels)
        return features[0] if isinstance(features, tuple) else features

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        self._text_config()
        return self.model.encode_text(tokens, normalize=False)

    def _text_capabilities(self) -> frozenset[str]:
        if self.text_model is None:
            return text_capabilities(self.source.config)
        text = self.source.config["text_cfg"]
        opened = self.text_model.get("model_type") in BERTS and _pooler(text) in POOLERS
        return frozenset({"prompt", "text_blocks", "trim"}) if opened else frozenset()

    def _text_config(self) -> dict:
        text = self.source.config.get("text_cfg")
        if not text:
            raise CapabilityError(
                f"backbone '{self.spec}' has an image tower only; give a configuration with text_cfg and its weights"
            )
        return text


class ImageOnly(nn.Module):
    """The image tower alone, of a configuration without `text_cfg`."""

    def __init__(self, embed_dim: int, vision_cfg: dict, quick_gelu: bool = False):
        super().__init__()
        self.visual = models._build_vision_tower(embed_dim, vision_cfg, quick_gelu)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def image_capabilities(vision: dict) -> frozenset[str]:
    """What the tower of a `vision_cfg` can do."""
    tower = _image_tower_class(vision)
    if tower is None:
        return frozenset()
    return frozenset({"hidden", "image_tokens", "feature_maps"} | (set() if tower in NO_BLOCKS else {"image_blocks"}))


def text_capabilities(config: dict) -> frozenset[str]:
    """What the text tower of a configuration can do. Trimming is exact where what follows end-of-text is never seen."""
    text = config.get("text_cfg") or {}
    if not text or text.get("hf_model_name") or text.get("embed_cls") or _custom_blocks(text):
        return frozenset()
    causal, at_end = not text.get("no_causal_mask"), text.get("pool_type", "argmax") in ("argmax", "eos")
    return frozenset({"prompt", "text_blocks"} | ({"trim"} if causal and at_end else set()))


def _image_tower_class(vision: dict) -> type[ImageTower] | None:
    if vision.get("timm_model_name"):
        return timm_tower_class(vision["timm_model_name"])
    if isinstance(vision.get("layers"), (list, tuple)):
        return ResNetTower
    if isinstance(vision.get("attentional_pool"), str) or _custom_blocks(vision):
        return None
    return OpenClipVitTower


def _custom_blocks(tower: dict) -> bool:
    return tower.get("block_type") == "custom" or any(tower.get(key) for key in CUSTOM_BLOCK)


def _need_transformers(what: str, spec: str) -> None:
    """Raise CapabilityError where transformers, which builds a part of the model, is not installed."""
    need_package(f"{what} of backbone '{spec}'", "transformers", "hf")


def _pooler(text: dict) -> str:
    """Of a text tower that transformers builds; open_clip's default where the configuration names none."""
    return text.get("hf_pooler_type") or "mean_pooler"


def _read_text_model(source: OpenClipSource) -> dict:
    """config.json of the text tower that transformers builds, checked."""
    file = source.text_model / "config.json"
    stated = read_json(file, "copy or download it again")
    if not isinstance(stated, dict) or not isinstance(stated.get("model_type"), str):
        raise DataError(f"{file}: has no model_type; copy or download it again")
    ModelFolder.check_config(stated, str(file))
    padding = 0 if stated["model_type"] == "bert" else 1  # transformers' own, where none is stated
    return {"pad_token_id": padding, **stated}


def _empty_model(source: OpenClipSource) -> nn.Module:
    """The architecture with random weights; asks no network."""
    config = deepcopy(source.config)
    if config["vision_cfg"].pop(LAST_STRIDE, None) == 1:
        model = _empty_model(replace(source, config=config))
        at_stride_one(getattr(model.visual, "trunk", model.visual), source.name)
        return model if hasattr(model.visual, "trunk") else _with_positions(model, source.config["vision_cfg"])
    text, size = config.get("text_cfg"), config["vision_cfg"].get("image_size", 224)
    custom = config.pop("custom_text", False)
    if not isinstance(size, int) and _image_tower_class(config["vision_cfg"]) is ResNetTower:
        config["vision_cfg"]["image_size"] = min(size)  # open_clip builds squares of them
        model = _empty_model(replace(source, config=config | {"custom_text": custom}))
        return _with_positions(model, source.config["vision_cfg"])
    if config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["timm_model_pretrained"] = False
    try:
        if not text:
            return ImageOnly(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))
        if text.get("hf_model_name"):
            text["hf_model_name"], text["hf_model_pretrained"], custom = str(source.text_model), False, True
        if "multimodal_cfg" in config:
            from open_clip.coca_model import CoCa

            return CoCa(**config)
        return (models.CustomTextCLIP if custom else models.CLIP)(**config)
    except (TypeError, ValueError, RuntimeError, AssertionError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{source.name}: open_clip cannot build this configuration ({reason})") from error


def _with_positions(model: nn.Module, vision: dict) -> nn.Module:
    """The model whose ResNet's pool has a position for each cell of the images of its configuration."""
    pool, (rows, columns) = model.visual.attnpool, _grid(vision, vision["image_size"])
    width = pool.positional_embedding.shape[1]
    pool.positional_embedding = nn.Parameter(torch.randn(1 + rows * columns, width) / width**0.5)
    model.visual.image_size = vision["image_size"]
    return model


def _resize(state: dict[str, Tensor], source: OpenClipSource) -> None:
    """Resample the image tower's positions to those of the configuration."""
    vision = source.config["vision_cfg"]
    trained = {**vision, LAST_STRIDE: None} if source.restrided else vision
    for name, prefix in POSITIONS.items():
        if name in state:
            grid, own = _grid(vision, vision["image_size"]), _grid(trained, source.trained_size)
            if min(grid) < 1:
                size = as_text(vision["image_size"])
                raise ConfigError(f"image_size={size} is smaller than one patch of this backbone; give a larger one")
            stated = own[0] * own[1] == len(state[name]) - prefix
            state[name] = resize_positions(state[name], grid, prefix, own if stated else None)


def _grid(vision: dict, size: ImageSize) -> tuple[int, int]:
    """(h, w) of the positions that a tower of this configuration has for images of a size."""
    if _image_tower_class(vision) is ResNetTower:
        return resnet_grid(size, RESNET_STRIDE // 2 if vision.get(LAST_STRIDE) == 1 else RESNET_STRIDE)
    (height, width), (rows, columns) = height_and_width(size), height_and_width(vision.get("patch_size") or 16)
    return height // rows, width // columns


def _set_timm_size(visual: nn.Module, source: OpenClipSource) -> None:
    size = source.config["vision_cfg"]["image_size"]
    if not hasattr(visual, "set_input_size"):
        raise ConfigError(f"image_size={size}: this open_clip cannot resize {source.name}; update open_clip_torch")
    visual.set_input_size(size)


class _Tokenizer(tokenizers.SimpleTokenizer):
    """open_clip's own, which reads no text twice: prompts and class texts come again in every fit and every pass.

    Args:
        words: how many it has.
    """

    encoder: dict[str, int]
    bpe_ranks: dict[tuple[str, ...], int]
    all_special_ids: list[int]

    def __init__(self, words: int, **options):
        super().__init__(**options)
        self._read: dict[str, list[int]] = {}
        left_out = BPE_WORDS - words
        if left_out:
            joined = list(self.bpe_ranks)[:-left_out]
            self.bpe_ranks = {pair: rank for rank, pair in enumerate(joined)}
            table = list(self.encoder)
            table = table[: BYTE_WORDS + len(joined)] + table[BPE_WORDS - MARKS :]
            self.encoder = {word: number for number, word in enumerate(table)}
            self.decoder = dict(enumerate(table))
            self.vocab_size = len(table)
            self.all_special_ids = [number - left_out for number in self.all_special_ids]
            self.sot_token_id, self.eot_token_id = self.all_special_ids[:MARKS]

    def encode(self, text: str) -> list[int]:
        ids = self._read.get(text)
        if ids is None:
            if len(self._read) >= MOST_TEXTS:
                self._read.clear()
            ids = self._read[text] = super().encode(text)
        return list(ids)


@lru_cache(maxsize=8)
def _simple_tokenizer(context_length: int, words: int, options: str):
    """Its own tokenizer; one serves all models, since nothing else changes it."""
    return _Tokenizer(words, context_length=context_length, **json.loads(options))


def _bpe_words(text: dict) -> int:
    """Of open_clip's own tokenizer before a text tower: as many as it has rows for, CLIP's at most."""
    return max(BYTE_WORDS + MARKS + 1, min(BPE_WORDS, text.get("vocab_size", BPE_WORDS)))


def _hub_tokenizer(name: str, context_length: int, options: dict, spec: str):
    """A tokenizer of transformers, from a folder or the hub."""
    from .hub import hub_files

    local_way = "put its tokenizer.json next to the configuration"
    if not Path(name).is_dir():
        files = [*COMPANIONS, "sentencepiece.bpe.model", "spiece.model"]
        name = str(hub_files(name, files, f"it is the tokenizer of '{spec}'; {local_way}"))
    try:
        return tokenizers.HFTokenizer(name, context_length=context_length, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"tokenizer '{name}' of backbone '{spec}' cannot be read ({reason}); {local_way}") from error
