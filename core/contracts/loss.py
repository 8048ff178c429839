"""What is minimised: a module that says by name what it needs of a model's outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import CapabilityError, ConfigError
from .options import settle
from .outputs import OUTPUTS, SHARED, Output
from .shown import in_short

if TYPE_CHECKING:
    from ..runtime.gather import RankBatch
    from ..runtime.ranks import Ranks
    from .backbone import Backbone


OWN_EQUATIONS = "no fixture; the tests check it against the equations, computed directly, or against the library's own"
"""`differs` of a loss that has no code of its authors' to be compared with."""


@dataclass(eq=False, repr=False)
class Loss(nn.Module, ABC):
    """Base of all losses. A loss owns its heads and buffers, which are optimised and checkpointed with the model.

    A loss is a plain function of the global batch. `forward` gathers the outputs of all ranks before `compute` sees
    them, so that no loss knows of ranks: its value is that of one process with the whole batch, on every rank, and so
    are the gradients of what towers and heads hold, once they are averaged over ranks as DistributedDataParallel does
    (`core/runtime/ranks.py` says how they come about). It computes in float32 or higher, whatever the precision of the
    towers. One that compares each row with all others is better a `RowLoss`, whose work is shared out among ranks.

    `compute` changes nothing but what it notes for `after_step`: queues, means and prototypes move there, once per
    step.

    A loss is a `@dataclass(eq=False, repr=False, kw_only=True)` whose options are fields made by `option`
    (`core/contracts/options.py`). Heads and buffers are built, and options checked that depend on each other, in a
    `__post_init__` that calls `super().__post_init__()` first.

    Args:
        dims: widths that its heads are built with: "embed_dim", "image_width", "num_samples", ...

    Class attributes:
        needs: names that `out` must hold, of `core/contracts/outputs.py` or of `outputs`.
        outputs: what it may ask for besides, by name: of a column of the data, or made in `further_outputs`.
        teacher: None; "ema", the mean of the student over time, where `teacher.*` outputs are asked for; or "frozen".
        backbone_needs: capabilities that the towers must have besides those that `needs` asks for.
        frozen_towers: towers ("image", "text") that the loss wants frozen.
        n_prefix: learned vectors that it puts before the words of a text.
        finds: whether images and texts are to be searched by what it makes of them; see below.
        looks: whether, besides, the words of a text look at the patches of an image; see below.
        answers: whether an adapter of its name answers by what it learned, which compares no images with texts.
        compares: whether texts find images by what it learns, so that retrieval measures it; one that `answers` never.
        saved_with: options in place of its own with which it is saved, without what only its training needs.
        of_products: whether it sees the features of images and texts by their products alone, so that a matrix of
            similarities will do in their place.
        graph_changes: whether some steps reach other parameters than the first one does, of its heads or the towers.
        compiles: whether the towers may be compiled under it.
        shards: whether the towers may be sharded over processes under it.
        logit_scale_bounds: lowest and highest exponentiated logit scale, as published; None leaves it free.
        differs: where it differs, on purpose, from the authors' released code; docs/parity.md tells it.
        experimental: what in this loss is ours, where the paper's equation could not be had; "" otherwise.

    A loss with an "ema" teacher has `teacher_momentum(progress)`: the share of itself that the teacher keeps in a step.
    One with `n_prefix` has `text_prompt(embeddings, mask, batch)`: (B, L, T) word embeddings before the text tower ->
    what goes in, and its mask; and `prompt_prefix()`: what a text is given without the loss.
    One that `answers` is kept beside the towers with its options, its `dims` and its state, for an adapter of its name.
    One that `finds` has `embed_image(backbone, pixels)` and `embed_text(backbone, tokens)`, unit rows of `found_dim`
    whose products are similarities; with its options, its `dims` and its state it is kept beside the towers.
    One that `looks` finds, too, and has `words_of(backbone, text)`: the words of a text, (L, T) and (L,) bool, which of
    them are its own; and `look(patches, words)`: (P, D) image tokens -> (P,) how much these words look at each.
    """

    __repr__ = in_short

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    outputs: ClassVar[Mapping[str, Output]] = {}
    teacher: ClassVar[str | None] = None
    backbone_needs: ClassVar[frozenset[str]] = frozenset()
    frozen_towers: ClassVar[frozenset[str]] = frozenset()
    n_prefix: ClassVar[int] = 0
    finds: ClassVar[bool] = False
    looks: ClassVar[bool] = False
    answers: ClassVar[bool] = False
    compares: ClassVar[bool] = True
    saved_with: ClassVar[Mapping[str, Any]] = {}
    of_products: ClassVar[bool] = False
    graph_changes: ClassVar[bool] = False
    compiles: ClassVar[bool] = True
    shards: ClassVar[bool] = True
    logit_scale_bounds: ClassVar[tuple[float, float] | None] = None
    experimental: ClassVar[str] = ""
    differs: ClassVar[str] = ""

    dims: Mapping[str, int] | None = field(default=None, metadata={"option": None})

    def __post_init__(self):
        super().__init__()
        settle(self, self.title)
        self.dims = dict(self.dims or {})

    @property
    def title(self) -> str:
        """For messages: "loss 'clip'"."""
        return f"loss '{self.name or type(self).__name__}'"

    def forward(self, out: Mapping[str, Any], progress: float = 0.0) -> dict[str, Tensor]:
        """`{"loss": scalar, part: scalar, ...}`.

        Args:
            out: named outputs of towers and views, of this rank.
            progress: share of training done, 0 to 1.

        Raises:
            CapabilityError: `out` lacks something in `needs`.
            ConfigError: ranks hold different numbers of samples.
        """
        from ..runtime.gather import rank_batch

        lacking = sorted(name for name in self.needs if out.get(name) is None)
        if lacking:
            wanted = ", ".join(output_in_words(name, self.outputs) for name in lacking)
            raise CapabilityError(f"{self.title} needs {wanted}; the model gives {sorted(out)}")
        present = {name: value for name, value in out.items() if value is not None}
        return self.of_rank_batch(rank_batch(present, shared_of(self.outputs)), progress)

    def of_rank_batch(self, batch: RankBatch, progress: float) -> dict[str, Tensor]:
        """The same of a batch that several losses are computed of."""
        return self.of_whole_batch(batch.whole, progress)

    def of_whole_batch(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        """The same of outputs that hold the rows of all ranks already."""
        with _full_precision(out):
            return self.compute({name: _at_least_float32(value) for name, value in out.items()}, progress)

    @abstractmethod
    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        """The loss and its parts, of the whole batch."""

    @classmethod
    def named(cls, options: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Its options, once the data say what their numbers are of.

        Args:
            options: as given.
            names: of `DomainData.number_names`; empty where the data name nothing.
        """
        return dict(options)

    def prepare(self, backbone: Backbone) -> None:
        """Once, before the first step; may change the towers (a longer context, for instance)."""

    def before_epoch(self, extract: Extract) -> None:
        """Before each epoch; what it extracts is computed when it asks."""

    def after_step(self, model: nn.Module | None) -> None:
        """Once after each optimiser step."""

    def rate_of(self, name: str, head: float, bias: float | None) -> float:
        """Factor on the learning rate of a parameter of its own.

        Args:
            name: of the parameter.
            head: factor of what losses add to the towers (`head_rate`).
            bias: factor of biases (`bias_rate`); None: that of all else.
        """
        return bias if bias is not None and "bias" in name else head

    def further_views(self, backbone: Backbone) -> dict[str, Callable[[Tensor], Tensor]]:
        """Fields of a batch that its `outputs` name and that it makes of each image: name -> what makes the field of
        pixels (3, H, W) in 0..1. It draws from torch's generator, which is seeded for the sample and the field.

        Args:
            backbone: whose sizes and normalisation count.
        """
        return {}

    def teacher_outputs(self, batch: Mapping[str, Tensor], teacher: Backbone) -> dict[str, Tensor]:
        """As `further_outputs`, what an "ema" teacher gives, by names that begin with "teacher."; without gradients."""
        return {}

    def teacher_anchor(self, progress: float) -> tuple[nn.Module, float] | None:
        """Towers that an "ema" teacher is drawn to in each step, before it follows the student, and the share of itself
        that it keeps then; None: it follows the student alone."""
        return None

    def held_parameters(self) -> list[nn.Parameter]:
        """Those of its own or of the towers, after `prepare`, that it or the backbone reaches at any time: by a view,
        in `after_step`, by a hook on the gradient. Training by FSDP leaves them whole on each process."""
        return list(self.parameters()) if self.n_prefix else []

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """What it brings in `outputs` without a column, one row per sample, from the `fields` named there. A frozen
        teacher that it holds for this is a submodule in eval mode; its `train` has to leave it so.

        Args:
            batch: fields of a batch, or of a part of it; with "class_features" where it needs them.
            backbone: the towers that are trained.
        """
        return {}

    def weights_of(self, terms: Iterable[str]) -> dict[str, float]:
        """The options that weigh its terms; a term of weight 0 is left out.

        Raises:
            ConfigError: all weights are 0.
        """
        weights = {term: getattr(self, term) for term in terms if getattr(self, term)}
        if not weights:
            raise ConfigError(f"{self.title}: all weights are 0; give one above 0")
        return weights

    def need_teacher_width(self) -> None:
        """Raise the CapabilityError of a teacher whose features cannot be compared with those of the towers."""
        widths = [(self.dims or {}).get(name) for name in ("embed_dim", "teacher_dim")]
        if None not in widths and widths[0] != widths[1]:
            raise CapabilityError(
                f"{self.title} compares features of width {widths[0]} with a teacher's of {widths[1]}; give a teacher "
                "of the same width, or none for the towers before the training"
            )

    def dim(self, name: str, used_for: str) -> int:
        """A width the loss was told of.

        Raises:
            CapabilityError: it was not.
        """
        dims = self.dims or {}
        if name not in dims:
            raise CapabilityError(f"{self.title} needs dims['{name}'] for {used_for}; it was given {sorted(dims)}")
        return int(dims[name])


class RowLoss(Loss):
    """Base of losses over pairs, which every rank computes of its own rows against the columns of all ranks.

    `compute_rows` is written once, for one rank or several: `out` holds this rank's n rows, `ranks` what the others
    hold. Its value must be that of the global batch, on every rank; `ranks.average` makes it of means over own rows.
    On W ranks each then does 1 / W of the arithmetic, and holds n x N numbers where one process holds N x N. What all
    ranks are to compute alike, of all rows (statistics of a batch, for instance), is given by `ranks.whole`.

        text = ranks.columns(out["text_features"])  # (N, D)
        logits = out["logit_scale"] * out["image_features"] @ text.T  # (n, N)
        right = torch.arange(len(text))[ranks.own(len(logits))]
        return {"loss": ranks.average(F.cross_entropy(logits, right))}
    """

    def of_rank_batch(self, batch: RankBatch, progress: float) -> dict[str, Tensor]:
        with _full_precision(batch.out):
            rows = {name: _at_least_float32(value) for name, value in batch.out.items()}
            return self.compute_rows(rows, batch.ranks, progress)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        from ..runtime.ranks import ONE

        return self.compute_rows(out, ONE, progress)

    @abstractmethod
    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        """The loss and its parts, of the whole batch, from this rank's rows of it."""


Extract = Callable[[list[str]], dict[str, Tensor]]
"""What `before_epoch` is given: names of outputs -> (N, ...) of the training set, on the CPU."""


def output_in_words(name: str, brought: Mapping[str, Output] | None = None) -> str:
    """A name of an output with its meaning, for messages.

    Args:
        brought: outputs that losses bring.
    """
    known = {**(brought or {}), **OUTPUTS}
    return f"'{name}' ({known[name].meaning})" if name in known else f"'{name}'"


def shared_of(brought: Mapping[str, Output]) -> frozenset[str]:
    """Names that hold one value for the whole batch, of those known and those that losses bring."""
    return SHARED | {name for name, output in brought.items() if output.shared}


def _at_least_float32(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _full_precision(out: Mapping[str, Any]):
    device = next((value.device.type for value in out.values() if isinstance(value, Tensor)), "cpu")
    return torch.autocast(device, enabled=False)
