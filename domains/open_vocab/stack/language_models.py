"""GLIP and Grounding DINO of mmdet on today's transformers, whose version 5 dropped what mmdet's BERT parts call.

The parts: the tokenizer's `batch_encode_plus`; masks of token pairs, by which Grounding DINO keeps class names apart;
BERT layers inside GLIP's head, which call BERT's own attention with arguments it no longer has.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from ....core.backbones import ModelFolder
from ....core.errors import CapabilityError, DataError
from .import_hooks import after_import, before_import

ON_THE_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")
LOCAL_WAY = (
    "set model.language_model.name, and of GLIP model.bbox_head.lang_model_name too, to a folder with config.json, "
    "vocab.txt and the weights"
)
NO_PHRASES = (
    "give class names instead: a caption 'cat . dog' with custom_entities=True, or the transform vladapt.ClassPrompt"
)


def mend_language_models() -> None:
    """Mend mmdet's language parts where they are imported; what transformers still has is left to it."""
    before_import("mmdet.models.utils.vlfuse_helper", _return_chunking)
    after_import("mmdet.models.utils.vlfuse_helper", _mend_fusion)
    after_import("mmdet.models.language_models.bert", _mend_bert)
    after_import("mmdet.models.dense_heads.atss_vlfusion_head", _mend_head)
    after_import("mmdet.models.detectors.glip", _mend_noun_phrases)


def pair_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, (B, 1, 1 or L, L): 0 where a token is seen, the lowest number where not.

    Args:
        mask: (B, L) tokens that are there, or (B, L, L) pairs that see each other; true or 1.
    """
    seen = mask[:, None] if mask.ndim == 3 else mask[:, None, None]
    return torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill(seen == 0, torch.finfo(dtype).min)


def _return_chunking() -> None:
    """mmdet imports it from where it was; failing that, it goes on as if there were no transformers at all."""
    try:
        from transformers import modeling_utils, pytorch_utils
    except ImportError:
        return
    if not hasattr(modeling_utils, "apply_chunking_to_forward"):
        modeling_utils.apply_chunking_to_forward = pytorch_utils.apply_chunking_to_forward


def _mend_fusion(helper: ModuleType) -> None:
    """The BERT layer between GLIP's fusion blocks, whatever arguments BERT's own attention has by now."""
    layer, attention = helper.BertEncoderLayer, helper.BertAttention
    if helper.BertConfig is None:
        return

    def extended_mask(self, mask: Tensor, input_shape=None, device=None) -> Tensor:
        return pair_mask(mask, self.dtype)

    def attend(self, hidden_states: Tensor, attention_mask: Tensor | None = None, head_mask=None, **_) -> tuple[Tensor]:
        context = self.self(hidden_states, attention_mask, head_mask)[0]  # (B, L, W)
        return (self.output(context, hidden_states),)

    if not hasattr(layer, "get_extended_attention_mask"):
        layer.get_extended_attention_mask = extended_mask
    attention.forward = attend


def _mend_bert(bert: ModuleType) -> None:
    if bert.AutoTokenizer is None:
        return
    from transformers import PreTrainedTokenizerBase

    if not hasattr(PreTrainedTokenizerBase, "batch_encode_plus"):
        PreTrainedTokenizerBase.batch_encode_plus = PreTrainedTokenizerBase.__call__
    if not hasattr(bert.HFBertModel, "get_extended_attention_mask"):
        bert.HFBertModel = _with_pair_masks(bert.HFBertModel)
    bert.BertModel.__init__ = _from_folder(bert.BertModel.__init__, "name")


def _with_pair_masks(model: type) -> type:
    """A BERT that takes (B, L, L) masks again; transformers 5 would read them as something else."""

    class BertModel(model):
        def forward(self, input_ids=None, attention_mask: Tensor | None = None, **rest):
            if attention_mask is not None and attention_mask.ndim == 3:
                attention_mask = pair_mask(attention_mask, self.dtype)
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **rest)

    return BertModel


def _mend_head(head: ModuleType) -> None:
    """GLIP's head asks the language model's configuration how wide it is, before the language model is built."""
    head.VLFusionModule.__init__ = _from_folder(head.VLFusionModule.__init__, "lang_model_name")


def _from_folder(build: Callable, option: str) -> Callable:
    """`build` with the option, a folder or a name on the hub, as the folder it is found in."""

    @wraps(build)
    def built(self, *args, **options) -> None:
        bound = signature(build).bind(self, *args, **options)
        bound.apply_defaults()
        name = bound.arguments[option]
        bound.arguments[option] = model_folder(name)
        try:
            build(*bound.args, **bound.kwargs)
        except OSError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"language model '{name}': {reason}; {LOCAL_WAY}") from error

    return built


def model_folder(name: str) -> str:
    """The folder of a language model: itself, the hub's cache, or a download because the config names it.

    Raises:
        DataError: it is none of these, or its configuration asks for code.
    """
    folder = _folder(name)
    ModelFolder(Path(folder)).config()
    tokenizer = Path(folder) / "tokenizer_config.json"
    if tokenizer.is_file() and '"auto_map"' in tokenizer.read_text(encoding="utf-8", errors="replace"):
        raise DataError(f"{tokenizer}: names code of its own (auto_map), which is never run; {LOCAL_WAY}")
    return folder


def _folder(name: str) -> str:
    if Path(name).is_dir():
        return name
    if not ON_THE_HUB.fullmatch(name):
        raise DataError(f"language model '{name}': no such folder; {LOCAL_WAY}")
    return str(ModelFolder.of_hub(name, LOCAL_WAY).path)


def _mend_noun_phrases(glip: ModuleType) -> None:
    """A free caption needs nltk and its downloads: one line says so, and what needs neither."""
    find = glip.find_noun_phrases

    def find_noun_phrases(caption: str) -> list[str]:
        try:
            return find(caption)
        except (RuntimeError, LookupError, OSError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip("* ")), "no nltk")
            fault = f"caption '{caption}': its noun phrases are found by nltk ({reason})"
            raise CapabilityError(f"{fault}; {NO_PHRASES}") from error

    glip.find_noun_phrases = find_noun_phrases
