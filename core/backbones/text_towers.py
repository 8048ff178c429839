"""Text towers by themselves: an encoder of transformers as sentence-transformers publishes it, or that of a backbone.

Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks, 2019, arXiv 1908.10084. Of a published encoder
`modules.json` says how tokens become a sentence: how they are pooled, through which dense layers they go, and whether
the end is brought to unit length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.backbone import OF_TEXTS, Backbone
from ..errors import CapabilityError, ConfigError, DataError
from ..runtime.reading import read_json
from .checkpoints import file_digests, fit_weights, read_checkpoint
from .hf_source import (
    TOKENIZER_FILES,
    HfTokenizer,
    hf_folder,
    hf_tokenizer,
    quiet,
    stated_facts,
    weight_files,
)
from .hub import ModelFolder
from .tower_steps import TextTower, at_last_valid

MEAN, CLS, POOLER, MAX, LAST = "mean", "cls", "pooler", "max", "lasttoken"
POOLINGS = (MEAN, CLS, POOLER)
"""That a user may name; a published encoder may have the others of `_POOLED`."""
MODULES = "modules.json"
SUBFOLDERS = ("*_Pooling/config.json", "*_Dense/*")
ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU}
LONGEST = 512
"""Tokens of a text, where nothing published says it."""
_POOLED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    MEAN: lambda x, mask: (x * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1),
    CLS: lambda x, mask: x[:, 0],
    MAX: lambda x, mask: x.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(dim=1),
    LAST: at_last_valid,
}


class TextSide(ABC):
    """A text tower that another image tower is joined with.

    Attributes:
        spec: by which it is named.
        width: of its features.
        context_length: tokens of a text at most.
        capabilities: those of texts that it has, see `contracts/backbone.py`.
        identity: tells its weights and what is made of texts from any other's, JSON-able.
        licence: of its weights.
        settings: what builds it again beside its spec, JSON-able.
    """

    spec: str
    width: int
    context_length: int
    capabilities: frozenset[str]
    identity: Any
    licence: str
    settings: dict[str, Any]

    @abstractmethod
    def module(self) -> nn.Module:
        """With its weights, on the CPU."""

    @abstractmethod
    def tower(self, module: nn.Module) -> TextTower:
        """Its steps; (N, W) unprojected by the space of a join."""

    @abstractmethod
    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """Texts -> (N, context_length) int64."""

    @abstractmethod
    def token_mask(self, tokens: Tensor) -> Tensor:
        """(N, L) bool: tokens that take part."""

    @abstractmethod
    def encode(self, module: nn.Module, tokens: Tensor) -> Tensor:
        """(N, L) tokens -> (N, W), not normalised."""

    def save_companions(self, folder: Path) -> None:
        """Nothing: it is found by its spec."""


def text_side(spec: str, load: Callable[[str], Backbone], pooling: str | None = None, prefix: str = "") -> TextSide:
    """What `--text SPEC` names.

    Args:
        spec: `hf:` of an encoder of texts, or a backbone with texts.
        load: makes a backbone of a spec.
        pooling: one of `POOLINGS`, where nothing published says it.
        prefix: before every text ("query: ").

    Raises:
        ConfigError: a pooling for a backbone, none for an encoder that does not say its own, or one against what it
            says. CapabilityError: a backbone without texts. DataError: as of `load_backbone`.
    """
    family, _, rest = spec.partition(":")
    if family == "hf" and _is_text_encoder(folder := hf_folder(rest, SUBFOLDERS)):
        return EncoderOfTexts(spec, folder, pooling, prefix)
    if pooling is not None:
        raise ConfigError(f"--pooling {pooling}: --text {spec} is a backbone, which pools its texts itself; omit it")
    backbone = load(spec)
    if not backbone.has_text:
        raise CapabilityError(f"--text {spec}: has no text tower; give one that has, or hf: and an encoder of texts")
    return TextsOfBackbone(backbone, prefix)


def _is_text_encoder(folder: Path) -> bool:
    """Whether a folder holds a text tower alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as OF_WORDS
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as OF_TEXT

    kind = ModelFolder(folder).config().get("model_type", "")
    return (folder / MODULES).is_file() or kind in OF_TEXT or kind in OF_WORDS


@dataclass(frozen=True)
class TokenPooling:
    """How the tokens of a sentence become one vector.

    Args:
        mode: of `_POOLED`, or "pooler" for the encoder's own.
        dense: folders of dense layers that follow.
        unit: whether the end is brought to unit length.
    """

    mode: str
    dense: tuple[str, ...] = ()
    unit: bool = False


def published_pooling(folder: Path) -> TokenPooling | None:
    """What `modules.json` says; None where there is none.

    Raises:
        DataError: a module that is not known, or a pooling of several parts.
    """
    if not (folder / MODULES).is_file():
        return None
    mode, dense, unit = MEAN, [], False
    for module in read_json(folder / MODULES):
        name, path = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        if name == "Pooling":
            mode = _pooling_mode(_inside(folder, path) / "config.json")
        elif name == "Dense":
            _inside(folder, path)
            dense.append(path)
        elif name == "Normalize":
            unit = True
        elif name != "Transformer":
            raise DataError(f"{folder / MODULES}: has a module '{name}', which is not known here; use another encoder")
    return TokenPooling(mode, tuple(dense), unit)


def _inside(folder: Path, path: str) -> Path:
    """A folder beside modules.json, and no other."""
    if not path or "/" in path.strip("/") or path.startswith((".", "/")):
        raise DataError(f"{folder / MODULES}: '{path}' is no folder beside it; copy or download it again")
    return folder / path


def _pooling_mode(file: Path) -> str:
    config = read_json(file)
    mode = config.get("pooling_mode")
    if mode is None:  # as they were written before sentence-transformers 5.2
        modes_on = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
        mode = [name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for name in modes_on]
    modes = [mode] if isinstance(mode, str) else list(mode or [MEAN])
    if len(modes) != 1 or modes[0] not in _POOLED:
        raise DataError(f"{file}: pools by {', '.join(map(str, modes))}; known here are {', '.join(_POOLED)}")
    return modes[0]


class EncoderOfTexts(TextSide):
    """An encoder of transformers.

    Args:
        spec: as the user wrote it.
        folder: with its files.
        pooling, prefix: as of `text_side`.
    """

    def __init__(self, spec: str, folder: Path, pooling: str | None, prefix: str):
        self.spec, self.folder, self.prefix = spec, folder, prefix
        self.capabilities = frozenset({"prompt", "trim"})
        self.pooling = _agreed(spec, published_pooling(folder), pooling)
        stated = ModelFolder(folder).config()
        self.weights = weight_files(folder)
        tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
        dense = [file for path in self.pooling.dense for file in sorted((folder / path).iterdir()) if file.is_file()]
        digests = file_digests([*self.weights, *tokenizer, *dense])
        self.context_length = _longest(folder, stated)
        how = [self.pooling.mode, self.pooling.unit, prefix, self.context_length]
        self.identity, self.licence = [stated_facts(stated), digests, how], ModelFolder(folder).licence
        self.settings = {"pooling": self.pooling.mode, "prefix": prefix}
        self.width = _out_features(folder, self.pooling, stated)

    def module(self) -> nn.Module:
        encoder = _built(self.folder)
        if self.pooling.mode == POOLER and getattr(encoder, "pooler", None) is None:
            raise ConfigError(f"--pooling {POOLER}: {self.spec} has none; give {MEAN} or {CLS}")
        return _Sentences(encoder, self.pooling, [_dense(self.folder / path) for path in self.pooling.dense])

    def tower(self, module: nn.Module) -> TextTower:
        return _SentenceTower(module)

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        return lambda texts: self._tokenizer([self.prefix + text for text in texts])

    @cached_property
    def _tokenizer(self) -> HfTokenizer:
        return hf_tokenizer(self.folder, self.context_length)

    def token_mask(self, tokens: Tensor) -> Tensor:
        words = self._tokenizer.tokenizer
        if words.pad_token_id != words.eos_token_id:
            return tokens != words.pad_token_id
        ended = tokens == words.eos_token_id  # padded by what ends it; a text that was cut has no end
        ends = torch.where(ended.any(dim=1), ended.int().argmax(dim=1), tokens.shape[1])[:, None]
        return torch.arange(tokens.shape[1], device=tokens.device) <= ends

    def encode(self, module: nn.Module, tokens: Tensor) -> Tensor:
        return module.of_words(module.words(tokens), self.token_mask(tokens))


def _agreed(spec: str, published: TokenPooling | None, pooling: str | None) -> TokenPooling:
    if published is not None:
        if pooling not in (None, published.mode):
            raise ConfigError(f"--pooling {pooling}: {spec} was published with {published.mode}; omit it")
        return published
    if pooling is not None and pooling not in POOLINGS:
        raise ConfigError(f"--pooling {pooling}: is not known; give {', '.join(POOLINGS)}")
    if pooling is None:
        raise ConfigError(
            f"--text {spec}: does not say how its tokens become one vector (it has no {MODULES}); give `vladapt "
            f"join` --pooling {', '.join(POOLINGS[:-1])} or {POOLINGS[-1]}"
        )
    return TokenPooling(pooling)


def _longest(folder: Path, stated: dict[str, Any]) -> int:
    """Tokens of a text: what sentence-transformers cut at, else the positions of the encoder."""
    file = folder / "sentence_bert_config.json"
    longest = read_json(file).get("max_seq_length") if file.is_file() else None
    positions = stated.get("max_position_embeddings") or stated.get("n_positions") or LONGEST
    if stated.get("model_type") in ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"):
        positions -= 2  # these count from after the padding's
    return min(int(longest or LONGEST), int(positions))


def _out_features(folder: Path, pooling: TokenPooling, stated: dict[str, Any]) -> int:
    if pooling.dense:
        return int(read_json(folder / pooling.dense[-1] / "config.json")["out_features"])
    for name in ("hidden_size", "d_model", "dim", "emb_dim"):
        if stated.get(name):
            return int(stated[name])
    raise DataError(f"{folder / 'config.json'}: does not say how wide its vectors are; use another encoder")


def _built(folder: Path) -> nn.Module:
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as OF_TEXT

    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            auto = AutoModelForTextEncoding if config.model_type in OF_TEXT else AutoModel
            return auto.from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=False, weights_only=True
            ).float()
    except Exception as error:  # transformers, safetensors and torch raise many kinds for a bad file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{folder}: its text encoder cannot be read ({reason}); copy or download it again") from error


def _dense(folder: Path) -> nn.Module:
    """A dense layer of sentence-transformers, with its weights."""
    config = read_json(folder / "config.json")
    name = str(config.get("activation_function", "")).rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise DataError(f"{folder / 'config.json'}: its activation '{name}' is not known; use another encoder")
    layer = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    file = next(
        (folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()), None
    )
    if file is None:
        raise DataError(f"{folder}: has no weights; copy or download it again")
    state = {key.removeprefix("linear."): value for key, value in read_checkpoint(file).items()}
    fit_weights(layer, state, file, "a dense layer of sentence-transformers")
    return nn.Sequential(layer, ACTIVATIONS[name]())


class _Sentences(nn.Module):
    """Words -> one vector of a sentence."""

    def __init__(self, encoder: nn.Module, pooling: TokenPooling, dense: Sequence[nn.Module]):
        super().__init__()
        self.encoder, self.dense, self.pooling = encoder, nn.Sequential(*dense), pooling

    @property
    def words(self) -> nn.Module:
        """The table of word embeddings."""
        return self.encoder.get_input_embeddings()

    def of_words(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """(N, L, W) word embeddings and an (N, L) bool mask -> (N, D)."""
        made = self.encoder(inputs_embeds=embeddings, attention_mask=mask.long())
        if self.pooling.mode == POOLER:
            pooled = made.pooler_output
        else:
            pooled = _POOLED[self.pooling.mode](made.last_hidden_state, mask)
        pooled = self.dense(pooled)
        return F.normalize(pooled, dim=-1) if self.pooling.unit else pooled


class _SentenceTower(TextTower):
    masked = True

    def __init__(self, module: nn.Module):
        self.module, self.table = module, module.words

    def embed(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        return embeddings

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.module.of_words(x, mask)


class TextsOfBackbone(TextSide):
    """The text tower of a backbone."""

    def __init__(self, backbone: Any, prefix: str):
        self.backbone, self.prefix, self.spec = backbone, prefix, backbone.spec
        self.width, self.context_length = backbone.embed_dim, backbone.context_length
        self.capabilities, self.licence = backbone.capabilities & OF_TEXTS, backbone.licence
        self.identity, self.settings = [backbone.fingerprint, prefix], {"prefix": prefix}

    def module(self) -> nn.Module:
        return self.backbone.model

    def tower(self, module: nn.Module) -> TextTower:
        return self.backbone.text_tower

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        return lambda texts: self.backbone.tokenize([self.prefix + text for text in texts])

    def token_mask(self, tokens: Tensor) -> Tensor:
        return self.backbone.token_mask(tokens)

    def encode(self, module: nn.Module, tokens: Tensor) -> Tensor:
        return self.backbone.encode_text(tokens, normalize=False)
