"""Which kernels a training of towers may use: exact and repeatable ones, or, for its steps on a GPU, fast ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import deterministic

from ..contracts.backbone import Backbone
from ..contracts.options import as_text
from ..errors import CapabilityError
from ..runtime.distributed import world_size
from .settings import TrainingSettings
from .views import local_size

REPEATABLE_WORKSPACE = ":4096:8"
"""What cuBLAS needs to repeat itself; older torch refuses to be deterministic without it."""
NO_DETERMINISTIC_BACKWARD = ("linear", "bilinear", "bicubic", "trilinear")
"""Modes of `interpolate` whose backward pass on a GPU adds up in any order, as torch's page on determinism lists."""


def is_repeatable(settings: TrainingSettings, device: torch.device) -> bool:
    """Whether every run gives the same bits: on a GPU only where it is asked for, by the settings or of torch."""
    return device.type != "cuda" or settings.deterministic or torch.are_deterministic_algorithms_enabled()


def not_deterministic(backbone: Backbone, needs: Iterable[str]) -> list[str]:
    """Sentences on what differs from run to run on a GPU even where the training is to be deterministic.

    Args:
        needs: names of outputs.
    """
    resized = [what for what, run in _image_passes(backbone, needs).items() if resizes_in_backward(run)]
    return [
        f"deterministic=yes: positions are resized for {what}; the backward pass of torch's bicubic resize has no "
        "fixed order on a GPU, so two runs may differ; all else is deterministic"
        for what in resized
    ]


def resizes_in_backward(run: Callable[[], Tensor]) -> bool:
    """Whether a forward pass resizes something that is trained, in a way that has no deterministic backward pass."""
    with torch.random.fork_rng(), torch.enable_grad(), _Resizing() as seen:
        run()
    return seen.trained


def ask_for_determinism(device: torch.device, warn_only: bool) -> None:
    """After mmengine, which asks for it too.

    Args:
        warn_only: let kernels run that are known not to be deterministic.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", REPEATABLE_WORKSPACE)
        torch.use_deterministic_algorithms(True, warn_only=warn_only)


@contextmanager
def named_kernels() -> Iterator[None]:
    """A kernel that torch refuses, since it is not deterministic, is named in one line.

    Raises:
        CapabilityError: there was one.
    """
    try:
        yield
    except RuntimeError as error:
        kernel, lacking, _ = str(error).partition(" does not have a deterministic implementation")
        if not lacking:
            raise
        raise CapabilityError(
            f"deterministic=yes: torch has no deterministic {kernel}; omit it to train without this guarantee"
        ) from error


@contextmanager
def fast_kernels(enabled: bool) -> Iterator[None]:
    """Inside, float32 products and convolutions on a GPU are made in TF32, and cuDNN chooses kernels by trial. For the
    steps of a training alone: what is measured before, between and after them is exact float32."""
    if not enabled:
        yield
        return
    cudnn = torch.backends.cudnn
    products, convolutions = torch.get_float32_matmul_precision(), (cudnn.allow_tf32, cudnn.benchmark)
    torch.set_float32_matmul_precision("high")
    cudnn.allow_tf32 = cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32, cudnn.benchmark = convolutions


@contextmanager
def restored_determinism() -> Iterator[None]:
    """mmengine asks all of torch for deterministic kernels; what comes after the training (torchmetrics' counting
    among it, which then takes memory without bound) must not inherit that.

    With deterministic kernels torch also fills all memory that it is about to write, which would only show kernels that
    read before they write, and takes a quarter of a step's time on a CPU.
    """
    cudnn, enabled = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings, filled = (cudnn.deterministic, cudnn.benchmark), deterministic.fill_uninitialized_memory
    deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = settings
        deterministic.fill_uninitialized_memory = filled


def suits_channels_last(backbone: Backbone, settings: TrainingSettings) -> bool:
    """Whether convolutions are a tower's main work, on a GPU. FSDP shards weights in their usual order only."""
    usual = settings.parallel == "fsdp" and world_size() > 1
    return backbone.device.type == "cuda" and "image_blocks" not in backbone.capabilities and not usual


def to_channels_last(backbone: Backbone) -> list[nn.Parameter]:
    """Let the weights of convolutions lie as the fast kernels of a GPU want them: channels last. What a convolution
    with such weights gives lies so too, so that pixels need no turning.

    Returns:
        Those that lay otherwise; `contiguous` turns them back.
    """
    turned = [p for p in backbone.model.parameters() if p.ndim == 4 and p.is_contiguous()]
    for parameter in turned:
        parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return turned


def contiguous(parameters: list[nn.Parameter]) -> None:
    """Let parameters lie in their usual order, as files of weights want them."""
    for parameter in parameters:
        parameter.data = parameter.data.contiguous()


def _image_passes(backbone: Backbone, needs: Iterable[str]) -> dict[str, Callable[[], Tensor]]:
    """What is seen -> a pass of one image of that size."""
    size, channels = as_text(backbone.image_size), len(backbone.image_mean)
    passes = {f"images of {size} pixels": lambda: backbone.encode_image(backbone.blank_image())}
    if "hidden_local" in needs:
        crop = local_size(backbone)
        passes[f"local crops of {crop} pixels"] = lambda: backbone.hidden(torch.zeros(1, channels, crop, crop))
    return passes


class _Resizing(TorchFunctionMode):
    """Notes whether something with a gradient is interpolated."""

    trained = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.interpolate and kwargs.get("mode") in NO_DETERMINISTIC_BACKWARD and args[0].requires_grad:
            self.trained = True
        return func(*args, **kwargs)
