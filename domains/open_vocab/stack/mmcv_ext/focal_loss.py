"""Focal loss by sigmoid and by softmax, from "Focal Loss for Dense Object Detection" (2017), arXiv 1708.02002.

A target outside 0 to C - 1 is nobody's class: under the sigmoid such a row is negative for all classes (mmdet writes
background as C), under the softmax it is ignored and has neither loss nor gradient. The weight of a class belongs to
the rows of that class; other rows have none, that is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import as_compiled, widened

SMALLEST = torch.finfo(torch.float32).tiny


@as_compiled
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `output` (N, C) with the loss of every class of every row.

    Args:
        input: (N, C) logits.
        target: (N,) int64.
        weight: (C,) or empty.
        gamma: how much well classified entries are lowered.
        alpha: weight of the positive entries; the negative ones have 1 - alpha.
    """
    score = widened(input).sigmoid()
    positive = (1 - score).pow(gamma) * _log(score)
    negative = score.pow(gamma) * _log(1 - score)
    output.copy_(_chosen(positive, negative, target, alpha) * _row_weights(weight, target, input)[:, None])


@as_compiled
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `grad_input` (N, C) with the derivative of each entry of the loss with respect to its logit."""
    score = widened(input).sigmoid()
    rest = 1 - score
    positive = rest.pow(gamma) * (rest - gamma * score * _log(score))
    negative = score.pow(gamma) * (gamma * rest * _log(rest) - score)
    grad_input.copy_(_chosen(positive, negative, target, alpha) * _row_weights(weight, target, input)[:, None])


@as_compiled
def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `output` (N,); `input` (N, C) is already a softmax."""
    score = _score_of_target(input, target)
    loss = -alpha * (1 - score).pow(gamma) * _log(score)
    output.copy_(_where_counted(loss * _row_weights(weight, target, input), target, input))


@as_compiled
def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill `grad_input` (N, C), with respect to the logits; `buff` (N,) gets the part that a row shares."""
    score = _score_of_target(input, target)
    rest = 1 - score
    shared = alpha * (gamma * rest.pow(gamma - 1) * score * _log(score) - rest.pow(gamma))
    shared = _where_counted(shared * _row_weights(weight, target, input), target, input)
    buff.copy_(shared)
    is_target = target[:, None] == torch.arange(input.shape[1], device=input.device)
    grad_input.copy_(shared[:, None] * (is_target.to(shared.dtype) - widened(input)))


def _log(probability: Tensor) -> Tensor:
    return probability.clamp(min=SMALLEST).log()


def _chosen(positive: Tensor, negative: Tensor, target: Tensor, alpha: float) -> Tensor:
    """(N, C): the positive term in the column of the target, the negative one elsewhere."""
    is_target = target[:, None] == torch.arange(positive.shape[1], device=positive.device)
    return torch.where(is_target, -alpha * positive, (alpha - 1) * negative)


def _row_weights(weight: Tensor, target: Tensor, scores: Tensor) -> Tensor:
    """(N,) weight of each row's class, 1 where weights are not given or the target is not a class."""
    if weight.numel() == 0:
        return widened(scores).new_ones(len(target))
    return _where_counted(widened(weight)[target.clamp(0, len(weight) - 1)], target, scores, otherwise=1)


def _score_of_target(scores: Tensor, target: Tensor) -> Tensor:
    column = target.clamp(0, scores.shape[1] - 1)
    return widened(scores).gather(1, column[:, None])[:, 0]


def _where_counted(values: Tensor, target: Tensor, scores: Tensor, otherwise: float = 0) -> Tensor:
    return values.masked_fill((target < 0) | (target >= scores.shape[1]), otherwise)
