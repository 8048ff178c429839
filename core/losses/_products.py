"""In what precision a loss multiplies pairs: float32, or bf16 with sums in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..contracts.options import option
from ..runtime.ranks import Ranks

PRODUCTS = ("fp32", "bf16")
KEEPS_FLOAT32 = torch.__version__ >= (2, 8)
"""Whether a product of bf16 on a GPU can give its float32 sums as they are."""


def products_option() -> Any:
    """The option of a loss that says in what its products are computed."""
    words = "precision of the products of pairs; sums, exponentials and the sums of products are float32 in any case"
    return option("fp32", words, choices=PRODUCTS)


def with_all(a: Tensor, b: Tensor, ranks: Ranks, products: str) -> Tensor:
    """Products of this rank's rows with those of all ranks.

    Args:
        a: (n, D), this rank's rows.
        b: (m, D) of each rank.
        products: "fp32" or "bf16".

    Returns:
        (n, W m).
    """
    return multiplied(a, ranks.columns(b), products)


def multiplied(a: Tensor, b: Tensor, products: str) -> Tensor:
    """(n, D), (M, D) -> (n, M), with the gradients of products of that precision."""
    return a @ b.T if products == "fp32" else _Multiplied.apply(a, b, products)


class _Multiplied(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, products: str) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.products = products
        return product(a, b.T, products)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        a, b = ctx.saved_tensors
        return product(gradient, b, ctx.products), product(gradient.T, a, ctx.products), None


def product(a: Tensor, b: Tensor, products: str) -> Tensor:
    """a @ b, summed up in float32 at least, whatever its factors are rounded to."""
    if products == "fp32":
        return a @ b
    a, b = a.bfloat16(), b.bfloat16()
    if not a.is_cuda:
        return a.float() @ b.float()
    return torch.mm(a, b, out_dtype=torch.float32) if KEEPS_FLOAT32 else (a @ b).float()


def add_product(total: Tensor, a: Tensor, b: Tensor, products: str) -> None:
    """Adds a @ b in place."""
    if products == "fp32":
        torch.addmm(total, a, b, out=total)
    else:
        total += product(a, b, products)
