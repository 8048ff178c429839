"""What is learned on top of a frozen or trainable backbone: the contract that every method meets."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ..errors import CapabilityError, DataError
from ..runtime.files import kind_of, write_tensors
from ..runtime.process import threads_for
from ..runtime.progress import with_progress
from .features import Batch, FeatureSet, TensorLike, TextClassifier
from .options import options_of, require, settle
from .part_views import PartViews, averaged_views
from .parts import declared_parts, put_options
from .resources import OF_TOWERS, REQUIRED
from .shown import in_short

if TYPE_CHECKING:
    from ..metrics.presence import Presence
    from .backbone import Backbone

T = TypeVar("T")
ABILITIES = frozenset({"new_classes", "pairs", "channels", "streams", "examples", "attention"})
"""Score classes that it never saw (`for_classes`), learn pairs (`fit_pairs`), train the layer that takes channels,
learn from the images that it is asked about (`stream`), say what each labelled image adds to a score (`example_parts`)
and where in an image each class looks (`attention_maps`)."""
FORMAT = 1
"""Of the file of a fitted adapter."""
OF_FIT = ("scalars", "class_names", "backbone", "dim", "multilabel")
"""What the header of that file must say."""


@dataclass
class FitReport:
    """What a fit did.

    Args:
        adapter: its name.
        chosen: hyper-parameter name -> value used at prediction.
        chosen_on: on what they were chosen, in words ("val (20 images)", "defaults: fewer than 4 shots").
        val_score: the score reached there (accuracy, or macro AUROC with several labels), or None.
        history: one dict per training epoch (epoch, loss, lr, ...); empty where nothing is trained.
        notes: sentences a user should read.
        trained_parameters: how many numbers were learned by gradient descent; 0 where nothing is trained.
        judged: methods among which one was taken: "method", "score", "error" (its standard error), "metric", "taken".
    """

    __repr__ = in_short

    adapter: str
    chosen: dict[str, Any] = field(default_factory=dict)
    chosen_on: str = "nothing to choose"
    val_score: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trained_parameters: int = 0
    judged: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(eq=False)
class Adapter(ABC):
    """Base of all methods. A method is a `@dataclass(eq=False, kw_only=True)` whose fields are its options.

    Class attributes a method sets:
        needs: what `fit` needs, a subset of `NEEDS` of `contracts/resources.py`.
        optional: what `fit` uses where it is given, a subset of `NEEDS`.
        at_predict: the part of it still needed by `logits`.
        backbone_needs: capabilities that the backbone must have, of `contracts/backbone.py`.
        multilabel: whether labels (N, C) are accepted.
        label_free: whether a support without labels, or without images, will do.
        reads_bags: whether it takes parts as `bags`, one sample at a time, and never as one tensor `parts`; it then
            answers by them alone (`bag_logits`).
        text_free: whether `TextClassifier.without_texts` will do, which a backbone with an image tower alone gives.
        transductive: whether the engine passes the whole unlabelled test set once; a note warns of absent classes.
        tower_weights: whether `save` writes weights of the backbone, changed ones too, and not only what was added.
        transductive_unlabelled: whether it is passed that set where no image has a label, and only there.
        stands_absent_classes: whether such a method is made for sets that lack many of the classes.
        assumes: what it takes for granted of the unlabelled images, after "assumes that"; a note of each fit says it.
        state: names of what a fit makes and `save` writes: tensors, numbers, texts, lists of them, dicts of tensors.
        later_state: those that older files lack -> what they are then.
        cost_options: names of options that change speed and memory but no result.
        of_pairs: names of options that a fit on pairs alone reads.
        part_positions: parts of a sample that it has learned positions for; None: of any number.
        experimental: what of the method is ours, where its formula is not public; else "". A note of the fit.
        trained: names of the state's tensors that gradient descent made; a fit that trains others counts them itself.
        answers_by: loss that the backbone must have been trained by (`Loss.answers`), which answers; "" for none.
        differs: where it differs, on purpose, from the authors' released code; docs/parity.md tells it.
        can: what it does besides, a subset of `ABILITIES`.
        packages: package that it imports -> the extra of this project that brings it.
        presets: names of the published sets that its option `preset` takes.
        fixed: options of its base that it does not have -> their values.
        published: options of its own -> what papers have, which a protocol takes where the user gives none.
        published_views: preset -> `n_views` of each image that it classifies, as papers have them; None: on any set. A
            protocol and a preset that is asked for take them where there are images.

    A method implements `_fit` and `_logits`. Its options are fields made by `option`; what several must be together is
    checked in a `__post_init__`. One that trains the towers has "pixels" in `needs`, finds the images in
    `resources["images"]`, trains a copy of the backbone and implements `adapted`.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    optional: ClassVar[frozenset[str]] = frozenset()
    at_predict: ClassVar[frozenset[str]] = frozenset({"features"})
    backbone_needs: ClassVar[frozenset[str]] = frozenset()
    multilabel: ClassVar[bool] = False
    label_free: ClassVar[bool] = False
    reads_bags: ClassVar[bool] = False
    text_free: ClassVar[bool] = False
    transductive: ClassVar[bool] = False
    tower_weights: ClassVar[bool] = False
    transductive_unlabelled: ClassVar[bool] = False
    stands_absent_classes: ClassVar[bool] = False
    assumes: ClassVar[str] = ""
    state: ClassVar[tuple[str, ...]] = ()
    later_state: ClassVar[Mapping[str, Any]] = {}
    cost_options: ClassVar[frozenset[str]] = frozenset()
    of_pairs: ClassVar[frozenset[str]] = frozenset()
    trained: ClassVar[tuple[str, ...]] = ()
    part_positions: ClassVar[int | None] = None
    experimental: ClassVar[str] = ""
    answers_by: ClassVar[str] = ""
    differs: ClassVar[str] = ""
    can: ClassVar[frozenset[str]] = frozenset()
    packages: ClassVar[Mapping[str, str]] = {}
    presets: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[Mapping[str, Any]] = {}
    published: ClassVar[Mapping[str, Any]] = {}
    published_views: ClassVar[Mapping[str | None, int]] = {}

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        cls.__repr__ = in_short  # type: ignore[method-assign]  # `dataclass` leaves it
        put_options(cls, vars(cls).get("fixed", {}))

    def __post_init__(self):
        settle(self, f"adapter '{self.name}'" if self.name else type(self).__name__)
        for name in declared_parts(type(self)):
            for option, value in getattr(self, name).settled(self).items():
                setattr(self, option, value)
            if further := getattr(self, name).needs:
                self.needs = self.needs | further  # type: ignore[misc]  # of this one, by its options

    def fit(
        self,
        support: FeatureSet | None,
        classifier: TextClassifier,
        *,
        val: FeatureSet | None = None,
        unlabeled: FeatureSet | None = None,
        backbone=None,
        resources: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> FitReport:
        """Learn from labelled support features.

        Args:
            support: the shots, with labels; None, or no row, for methods that are `label_free`. It and the next two
                sets have parts where "parts" is in `needs`.
            classifier: the zero-shot text classifier of the same classes.
            val: labelled features for choosing hyper-parameters; never the test set.
            unlabeled: features without labels, for methods that need them: all test images of a transductive one; else
                the train images, those beyond the support of a method that is not `label_free`; the test images where
                there is no train split.
            backbone: the backbone, for methods with "text_encoder" or "pixels" in `needs`.
            resources: whatever else the method's docstring asks for, as in the table of `core/contracts/resources.py`.
            seed: fixes every random choice.

        Raises:
            CapabilityError: something in `needs` is missing, or the labels are of a kind the method refuses.
            ConfigError: an option is given that only a fit on pairs reads.
        """
        for each in options_of(type(self)) if self.of_pairs else ():
            if each.name in self.of_pairs:
                value = getattr(self, each.name)
                require(value == each.default, each.name, value, "it is for pairs; omit it")
        if support is None:
            made_by = "" if backbone is None else backbone.fingerprint
            none = torch.zeros(0, classifier.weights.shape[1], device=classifier.weights.device)
            support = FeatureSet(none, class_names=classifier.class_names, backbone=made_by)
        self._check_support(support, classifier, backbone, unlabeled)
        self._check_images(support, resources or {})
        self._check_resources(resources or {})
        support = self._with_or_without_parts(support)
        val, unlabeled = (None if each is None else self._with_or_without_parts(each) for each in (val, unlabeled))
        if backbone is not None:
            self.check_towers(backbone)
            self.attach(backbone)
        self.class_names_ = tuple(classifier.class_names or support.class_names)
        self.backbone_ = support.backbone
        self.dim_ = support.dim
        device, small = support.features.device, self.needs.isdisjoint(OF_TOWERS)
        val, unlabeled = (None if each is None else each.to(device) for each in (val, unlabeled))
        how = {"backbone": backbone, "resources": resources or {}, "seed": seed}
        with threads_for(support.features.numel() * len(classifier) if small else math.inf):
            report = self._fit(support, classifier.to(device), val=val, unlabeled=unlabeled, **how)
        self.fitted_ = True
        report.trained_parameters = report.trained_parameters or sum(getattr(self, n).numel() for n in self.trained)
        looks = self.transductive or "unlabeled" in self.needs
        if looks and unlabeled is not None and len(unlabeled) and not self.multilabel_:
            base = (resources or {}).get("base") if "base" in self.needs | self.optional else None
            report.notes += self._absent_classes(classifier, unlabeled, base)
        if self.experimental:
            report.notes.append(f"experimental, since the published formula is not available: {self.experimental}")
        return report

    def logits(self, batch: Batch | FeatureSet | TensorLike) -> Tensor:
        """(B, C) logits of a batch, or of a bare (B, D) tensor or array of features.

        Raises:
            CapabilityError: not fitted, or features of another width than those of the fit.
        """
        batch = self._checked(batch)
        logits = [self._logits(view) for view in batch.by_view()]
        if batch.part_views is None or len(logits) == 1:
            return logits[0]
        return averaged_views(torch.stack(logits), batch.part_views.average, getattr(self, "multilabel_", False))

    def predict(self, batch: Batch | FeatureSet | TensorLike) -> Tensor:
        """(B,) class indices, or (B, C) probabilities of each label where an image may have several."""
        logits = self.logits(batch)
        return logits.sigmoid() if getattr(self, "multilabel_", False) else logits.argmax(dim=-1)

    def attach(self, backbone: Backbone) -> Adapter:
        """Remember the backbone that runs at prediction; `fit` and `load_adapter` do it. Returns self."""
        self._attached = backbone
        return self

    @property
    def towers(self) -> Backbone:
        """The attached backbone.

        Raises:
            CapabilityError: there is none.
        """
        backbone = getattr(self, "_attached", None)
        if backbone is None:
            cure = "give it one: load_adapter(path, backbone)"
            raise CapabilityError(f"adapter '{self.name}' runs the backbone at prediction; {cure}")
        return backbone

    @abstractmethod
    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        """Set every attribute named in `state`."""

    @abstractmethod
    def _logits(self, batch: Batch) -> Tensor:
        """(B, C) logits."""

    def adapted(self, backbone: Backbone) -> Backbone:
        """The backbone whose features `logits` takes: the one given, unless the method changed the towers.

        Args:
            backbone: that of the fit, which stays as it is: changed towers are another one, built once and kept.

        Raises:
            CapabilityError: towers were changed, and not of this backbone.
        """
        return backbone

    def for_classes(
        self, backbone: Backbone | None, class_names: Sequence[str], classifier: TextClassifier | None = None
    ) -> Adapter:
        """The fitted method on classes that it never saw.

        Args:
            backbone: that of the fit, for methods that encode texts.
            class_names: the new classes.
            classifier: their zero-shot text classifier, for methods that have no prompts of their own.

        Raises:
            CapabilityError: the method has no scores for other classes.
        """
        raise CapabilityError(f"adapter '{self.name}' has no scores for classes it never saw; learn a prompt (coop)")

    def fit_pairs(self, source, backbone: Backbone, **how: Any) -> FitReport:
        """Learn from image-text pairs, where "pairs" is among what it `can`.

        Args:
            source: a `PairSource` of `core/training/sources.py`. backbone: whose towers are trained, in a copy.
            how: `view`, `validate`, `place`, `seed`.

        Raises:
            CapabilityError: the method learns no pairs.
        """
        raise CapabilityError(f"adapter '{self.name}' cannot learn from pairs; use full, lora or lit")

    def stream(self, batch: Batch | FeatureSet | TensorLike) -> Tensor:
        """(B, C) logits of images in turn, where "streams" is in `can`: what each changes, others find, `save` keeps.

        Raises:
            CapabilityError: it judges each image alone.
        """
        raise CapabilityError(f"adapter '{self.name}' learns nothing from the images it predicts; omit --stream")

    def example_parts(self, batch: Batch, classes: Tensor) -> Tensor | None:
        """What each labelled image adds to a logit of each image of a batch, where "examples" is in `can`.

        Args:
            batch: B images, as `logits` takes them.
            classes: (B,) int64, the class whose logit is looked at.

        Returns:
            (B, N V): of the N images of the support in their order V numbers each (one per view that the method
            keeps), one image's after the other's. What the logit has besides their sum does not come from single
            images. None where what was fitted is no such sum.

        Raises:
            CapabilityError: its logits are no such sums.
        """
        raise CapabilityError(f"adapter '{self.name}' adds up no labelled images; take a cache, such as tip-adapter")

    def attention_maps(self, batch: Batch) -> Tensor:
        """(B, C, h, w): how much each class looks at each patch, of a batch with the `patch_tokens` of single images,
        where "attention" is in `can`; the sum over patches is 1.

        Raises:
            CapabilityError: its classes look at no patches.
        """
        raise CapabilityError(f"attention: adapter '{self.name}' has none of its own; omit --explain-method")

    @property
    def magnifications(self) -> int:
        """Of the bags that a fitted method with `reads_bags` answers by."""
        return 1

    def bag_logits(self, bag: Tensor | tuple[Tensor, ...]) -> Tensor:
        """(C,) logits of the parts (T, D) of one sample, or of several `magnifications` a tuple of these, the finest
        first, of a method with `reads_bags`; traced, they hold for any T.

        Raises:
            CapabilityError: the method needs more than the parts of one sample.
        """
        raise CapabilityError(f"adapter '{self.name}' answers by more than the parts of one sample; use logits")

    def attention(self, bag: Tensor) -> Tensor | None:
        """(K, T) weights by which a method on bags looks at the parts of one, (T, D), with sums of 1: K is C where each
        class weighs them anew, else 1. None where it has none to show: then only its answers without a part tell.

        Raises:
            CapabilityError: not fitted.
        """
        self.check_fitted()
        return None

    def deciding(self, bag: Tensor) -> Tensor | None:
        """As `attention`, by which explanations name parts: how much each counts for a class. By default that itself;
        another where a class may look at what speaks against it."""
        return self.attention(bag)

    @property
    def as_published(self) -> bool:
        """Whether published settings (a preset) are asked for: they go before defaults, not before what is given."""
        return self.options.get("preset") is not None

    @classmethod
    def published_options(cls, labelled: bool = True) -> dict[str, Any]:
        """Options that papers have where ours differ: those of its own, and of bases that it shares with others.

        Args:
            labelled: whether images are labelled.
        """
        return {
            **cls.published,
            **{k: v for each in declared_parts(cls).values() for k, v in each.kind.published.items()},
        }

    def settled(self, report: FitReport) -> dict[str, Any]:
        """Options by which another fit does what this one ended with: what it chose, where an option can say it."""
        return {name: value for name, value in report.chosen.items() if name in self.options}

    def repeated(self) -> dict[str, Any]:
        """Options by which a fit on other images repeats this one, search of settings included."""
        return self.options

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments this adapter was built with, defaults included."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    def to(self, device) -> Adapter:
        """Move what was learned to `device`; returns self. Dicts of tensors stay: they go into a backbone."""
        for name in self.state:
            value = getattr(self, name, None)
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def save(self, path: str | Path) -> Path:
        """Write what was learned to one safetensors file (tensors, and JSON in its header). Returns the path.

        A dict of tensors lies in it as "<attribute>/<key>".

        Raises:
            DataError: nothing is fitted, or the file cannot be written.
        """
        if not getattr(self, "fitted_", False):
            raise DataError(f"adapter '{self.name}' is not fitted; there is nothing to save")
        values = {name: getattr(self, name) for name in self.state}
        dicts = [name for name, value in values.items() if _holds_tensors(value)]
        tensors = {name: value.detach().cpu() for name, value in values.items() if isinstance(value, Tensor)}
        for name in dicts:
            # Cloned: tensors that share memory, as tied weights do, could not be written.
            tensors.update({f"{name}/{key}": value.detach().cpu().clone() for key, value in values[name].items()})
        header = {
            "format": FORMAT,
            "adapter": self.name,
            "options": self.options,
            "scalars": {k: v for k, v in values.items() if not isinstance(v, Tensor) and k not in dicts},
            "dicts": dicts,
            "tensors": {name: kind_of(tensor) for name, tensor in tensors.items()},
            "class_names": list(self.class_names_),
            "backbone": self.backbone_,
            "dim": self.dim_,
            "multilabel": self.multilabel_,
        }
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_tensors(path, tensors, header)

    def restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Adapter:
        """Take what `read_adapter_file` gives of a saved adapter of this kind; returns self.

        Args:
            path: of the file, for messages.

        Raises:
            DataError: the file lacks something.
        """
        if lacking := [key for key in OF_FIT if key not in header]:
            raise DataError(f"{path}: its header lacks {', '.join(lacking)}; fit again")
        values = {**self.later_state, **header["scalars"], **tensors}
        for name in header.get("dicts", ()):
            values[name] = {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}
        if missing := [name for name in self.state if name not in values]:
            raise DataError(f"{path}: lacks {', '.join(missing)} of adapter '{self.name}'; fit again")
        for name in self.state:
            setattr(self, name, values[name])
        self.class_names_ = tuple(header["class_names"])
        self.backbone_, self.dim_, self.multilabel_ = header["backbone"], header["dim"], header["multilabel"]
        self.fitted_ = True
        return self

    def check_kind(self, *, several_labels: bool, text_encoder: bool) -> None:
        """Refuse what no fit could use, before anything is computed for it.

        Args:
            several_labels: whether images have several labels.
            text_encoder: whether there is a backbone with a text tower.

        Raises:
            CapabilityError: the method takes one label per image, or needs a text tower.
        """
        if several_labels and not self.multilabel:
            cure = "choose a method that takes several, for instance linear-probe"
            raise CapabilityError(f"adapter '{self.name}' takes one label per image, these have several; {cure}")
        if "text_encoder" in self.needs and not text_encoder:
            lacking = "trains through the text tower, which a features file does not have"
            raise CapabilityError(f"adapter '{self.name}' {lacking}; give --data and --backbone")

    def check_parts(self, features: FeatureSet) -> None:
        """Refuse samples without parts, where the method needs parts, and stored ones, where it needs all at once.

        Raises:
            CapabilityError: they have none, or too many to be held.
        """
        if "parts" in self.needs and features.stored_bags is not None and not self.reads_bags:
            lacking = f"adapter '{self.name}' needs all parts of all samples at once, and these are read one by one"
            cure = "choose one that reads bags, such as abmil, or that takes their means, such as linear-probe"
            raise CapabilityError(f"{lacking}; {cure}")
        if "parts" in self.needs and not features.has_parts and len(features):
            lacking = f"adapter '{self.name}' needs the parts of each sample (frames, slices, windows)"
            raise CapabilityError(f"{lacking}; these are single images: give clips, volumes, or image_parts in a file")

    def check_part_count(self, count: int) -> None:
        """Raise the CapabilityError of samples with more parts than `part_positions`."""
        if self.part_positions is not None and count > self.part_positions:
            raise CapabilityError(
                f"adapter '{self.name}' has positions for {self.part_positions} parts (frames, slices), and a sample "
                f"has {count}; read fewer of each"
            )

    def check_sample(self, pixels: Callable[[], Tensor], views: PartViews | None = None) -> None:
        """`check_part_count` by one sample, before any is encoded.

        Args:
            pixels: gives those of the sample, (3, H, W) or (T, 3, H, W); nothing is told by one that cannot be read.
            views: of which the T are.
        """
        if self.part_positions is None:
            return
        with suppress(DataError):
            shape = pixels().shape
            self.check_part_count(shape[0] // (views.count if views else 1) if len(shape) == 4 else 1)

    def check_towers(self, backbone: Backbone) -> None:
        """Raise the CapabilityError that names towers with what the method needs, unless these have it."""
        if not self.text_free:
            backbone.need_texts(f"adapter '{self.name}'")
        backbone.check_channels(f"adapter '{self.name}'", "channels" in self.can)
        for capability in sorted(self.backbone_needs):
            backbone.need(capability)
        if self.answers_by and self.answers_by not in backbone.answers:
            raise CapabilityError(
                f"adapter '{self.name}' answers by what `vladapt pretrain --loss {self.answers_by}` learned, which "
                f"backbone '{backbone.spec}' does not hold; give the model.safetensors of such a training by --backbone"
            )

    def check_pairs(self, source, backbone: Backbone) -> None:
        """Refuse what `fit_pairs` could not learn from, before anything is computed; errors as of it and of
        `check_towers`."""
        self.check_towers(backbone)

    def check_fitted(self, backbone: Backbone | None = None) -> None:
        """Raise CapabilityError unless it is fitted, and on this backbone where one is given."""
        if not getattr(self, "fitted_", False):
            raise CapabilityError(f"adapter '{self.name}' is not fitted; call fit() or load_adapter() first")
        if backbone is not None and self.backbone_ and backbone.fingerprint != self.backbone_:
            raise CapabilityError(
                f"backbone '{backbone.spec}' is not the one that adapter '{self.name}' was fitted on; load that one"
            )

    def copied_for(self, class_names: Sequence[str]) -> Adapter:
        """A fitted copy with all that was learned here, for classes of these names; what names them is the caller's."""
        other = type(self)(**self.options)
        for name in (*self.state, "backbone_", "dim_"):
            setattr(other, name, getattr(self, name))
        other.class_names_, other.multilabel_, other.fitted_ = tuple(class_names), False, True
        return other

    def _checked(self, batch: Batch | FeatureSet | TensorLike) -> Batch:
        """The batch, if a fitted adapter can answer it."""
        self.check_fitted()
        batch = Batch.of(batch)
        widths = [each.shape[-1] for each in (batch.features, batch.parts) if each is not None]
        for width in widths if batch.stored_bags is None else [*widths, batch.stored_bags.dim]:
            if width != self.dim_:
                other = f"was fitted on features of width {self.dim_}, these have {width}"
                raise CapabilityError(f"adapter '{self.name}' {other}; use the backbone of the fit")
        if "parts" in self.at_predict and batch.parts is None and (batch.stored_bags is None or not self.reads_bags):
            needed = f"adapter '{self.name}' needs the parts of each sample (frames, slices, windows) to predict"
            raise CapabilityError(f"{needed}; pass Batch(parts=..., parts_mask=...) or a FeatureSet with parts")
        return batch

    def _absent_classes(self, classifier: TextClassifier, unlabeled: FeatureSet, base) -> list[str]:
        """What the method assumes of the classes, and what the predictions to start from tell of these."""
        presence = self.presence_among(classifier, unlabeled, None if base is None else base.logits)
        return presence.notes(self.name, len(unlabeled), self.assumes, self.stands_absent_classes)

    @staticmethod
    def followed(items: Sequence[T], unit: str = "epochs") -> Iterator[T]:
        """`items` of a loop that takes long, with progress where a command shows it; `train_epochs` does so itself.

        Args:
            unit: what each is, in the plural.
        """
        return with_progress(items, unit)

    @staticmethod
    def presence_among(classifier: TextClassifier, unlabeled: FeatureSet, logits: Tensor | None = None) -> Presence:
        """How many of the classes images seem to be of, by zero-shot or by other (Q, C) logits of them."""
        from ..metrics.presence import ENOUGH, presence

        some = slice(None, None, -(-len(unlabeled) // ENOUGH))
        unit = unlabeled.unit[some].to(classifier.weights.device)
        return presence(classifier.logits(unit) if logits is None else logits[some])

    def _with_or_without_parts(self, features: FeatureSet) -> FeatureSet:
        """What the method may see of a set: its parts only where it asks for them."""
        self.check_parts(features := features.one_view())
        seen = "parts" in self.needs | self.optional and (features.stored_bags is None or self.reads_bags)
        return features if seen else features.without_parts()

    def _check_images(self, support: FeatureSet, resources: dict[str, Any]) -> None:
        if "pixels" not in self.needs:
            return
        if (images := resources.get("images")) is None:
            cure = "pass resources={'images': TrainingImages(...)}"
            raise CapabilityError(f"adapter '{self.name}' trains on the images themselves; {cure}")
        if len(images.items) != len(support):
            raise CapabilityError(f"{len(images.items)} training images for {len(support)} rows of the support")
        if "unlabeled" in self.needs and resources.get("unlabeled_images") is None:
            cure = "pass resources={'unlabeled_images': TrainingImages(...)}"
            raise CapabilityError(f"adapter '{self.name}' trains on unlabelled images themselves; {cure}")

    def _check_resources(self, resources: dict[str, Any]) -> None:
        for name in sorted(REQUIRED.keys() & self.needs):
            if resources.get(name) is None:
                raise CapabilityError(f"adapter '{self.name}' needs {REQUIRED[name]}; pass resources={{'{name}': ...}}")

    def _check_support(self, support, classifier, backbone, unlabeled) -> None:
        labelled = support.labels is not None and len(support) > 0
        if not labelled and not self.label_free:
            raise CapabilityError(f"adapter '{self.name}' needs labelled support images; there are none")
        self.multilabel_ = labelled and support.multilabel
        self.check_kind(several_labels=self.multilabel_, text_encoder=backbone is not None)
        if labelled and support.num_classes > len(classifier):
            raise CapabilityError(f"labels name {support.num_classes} classes, the text classifier {len(classifier)}")
        if support.dim != (width := classifier.weights.shape[1]):
            widths = f"image features are {support.dim} wide, text features {width}"
            raise CapabilityError(f"{widths}; both must come from one backbone")
        if "raw_features" in self.needs and not support.raw_norms:
            lacking = (
                "needs features before normalisation, and these are normalised; extract them again without normalising"
            )
            raise CapabilityError(f"adapter '{self.name}' {lacking}")
        if "unlabeled" in self.needs and unlabeled is None:
            raise CapabilityError(f"adapter '{self.name}' needs unlabelled images; pass unlabeled=")


def _holds_tensors(value: Any) -> bool:
    """Whether a value is a dict of tensors. An empty dict is one: nothing of a model was changed."""
    return isinstance(value, dict) and all(isinstance(inner, Tensor) for inner in value.values())
