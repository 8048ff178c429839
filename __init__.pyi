"""Types of the public names. Made by `make index`; do not edit."""

from collections.abc import Mapping as Mapping
from collections.abc import Sequence as Sequence
from pathlib import Path as Path
from typing import Any as Any
from typing import Literal as Literal

from .core.backbones.load import load_backbone as load_backbone
from .core.contracts.adapter import Adapter as Adapter
from .core.contracts.adapter import FitReport as FitReport
from .core.contracts.backbone import Backbone as Backbone
from .core.contracts.domain import Domain as Domain
from .core.contracts.domain import Metric as Metric
from .core.contracts.features import Batch as Batch
from .core.contracts.features import FeatureSet as FeatureSet
from .core.contracts.features import TextClassifier as TextClassifier
from .core.contracts.images import InputChannels as InputChannels
from .core.contracts.items import Boxes as Boxes
from .core.contracts.items import Captions as Captions
from .core.contracts.items import DomainData as DomainData
from .core.contracts.items import Identity as Identity
from .core.contracts.items import Item as Item
from .core.contracts.items import Label as Label
from .core.contracts.items import Labels as Labels
from .core.contracts.items import Mask as Mask
from .core.contracts.items import Target as Target
from .core.contracts.judgement import Evaluated as Evaluated
from .core.contracts.judgement import Judgement as Judgement
from .core.contracts.judgement import Place as Place
from .core.contracts.loss import Loss as Loss
from .core.contracts.loss import RowLoss as RowLoss
from .core.contracts.options import option as option
from .core.contracts.outputs import Output as Output
from .core.contracts.recipe import Recipe as Recipe
from .core.contracts.run_info import Record as Record
from .core.contracts.task import FitResult as FitResult
from .core.contracts.task import Task as Task
from .core.contracts.use import Exported as Exported
from .core.contracts.use import Predicted as Predicted
from .core.data.pairs.reading import read_pairs as read_pairs
from .core.engine.comparison import Comparison as Comparison
from .core.engine.fit import load_run as load_run
from .core.errors import CapabilityError as CapabilityError
from .core.errors import ConfigError as ConfigError
from .core.errors import DataError as DataError
from .core.errors import UnknownNameError as UnknownNameError
from .core.errors import VladaptError as VladaptError
from .core.features.files import load_features as load_features
from .core.features.store import FeatureStore as FeatureStore
from .core.prompts.classifier import build_classifier as build_classifier
from .core.registry.build import build_adapter as build_adapter
from .core.registry.build import build_loss as build_loss
from .core.registry.build import load_adapter as load_adapter
from .core.registry.build import load_domain as load_domain
from .core.runtime.progress import Reporter as Reporter
from .core.sharing import mlflow_flavour
from .core.sharing.push import Pushed as Pushed
from .core.tasks.pretraining.pretrain import PretrainPlan as PretrainPlan
from .core.tasks.pretraining.pretrain import pretrain as pretrain
from .core.tasks.retrieval.scoring import evaluate_retrieval as evaluate_retrieval
from .core.training.settings import TrainingSettings as TrainingSettings

__version__: str
mlflow = mlflow_flavour

def export(
    run: str | Path,
    out: str | Path,
    *,
    backbone: str | Backbone | None = ...,
    domain: Domain | None = ...,
    reporter: Reporter | None = ...,
    data: str | Path | None = ...,
    features: str | Path | None = ...,
    workers: int | None = ...,
    resources: Mapping[str, str] | None = ...,
    per_patient: str | None = ...,
    device: str | None = ...,
    reading: Mapping[str, Any] | None = ...,
    format: str | None = ...,
    int8: bool | None = ...,
    opset: int | None = ...,
) -> Exported: ...

def push(
    run: str | Path,
    repo: str,
    *,
    domain: Domain | None = ...,
    out: str | Path | None = ...,
    upload: bool | None = ...,
    public: bool | None = ...,
    licence: str | None = ...,
    data_licence: str | None = ...,
    dataset: str | None = ...,
) -> Pushed: ...

def fit(
    recipe: Recipe | None = ...,
    *,
    domain: str | Domain | None = ...,
    backbone: str | Backbone | None = ...,
    reporter: Reporter | None = ...,
    task: str | None = ...,
    data: str | Path | Mapping[str, Any] | None = ...,
    sources: Mapping[str, Any] | None = ...,
    features: str | Path | None = ...,
    adapter: str | Path | Mapping[str, Any] | None = ...,
    adapters: Mapping[str, Any] | None = ...,
    shots: int | str | None = ...,
    val_shots: int | Literal['all'] | str | None = ...,
    refit: bool | None = ...,
    judge: bool | None = ...,
    judge_views: int | None = ...,
    seed: int | None = ...,
    protocol: str | None = ...,
    preset: str | None = ...,
    split_seed: int | None = ...,
    image_size: int | tuple[int, int] | str | None = ...,
    device: str | None = ...,
    amp: str | None = ...,
    batch_size: int | None = ...,
    workers: int | None = ...,
    tolerate: float | None = ...,
    templates: Any = ...,
    descriptions: str | None = ...,
    language: Any = ...,
    plan: Mapping[str, Any] | None = ...,
    custom_hooks: Sequence[Mapping[str, Any]] | str | None = ...,
    resources: Mapping[str, Any] | None = ...,
    classes: Any = ...,
    novel: bool | str | None = ...,
    generic: str | Path | None = ...,
    out: str | Path | None = ...,
    resume: bool | None = ...,
    redact: bool | None = ...,
    loss: Sequence[str] | None = ...,
    teacher: Sequence[str] | None = ...,
    epochs: int | None = ...,
    lr: float | None = ...,
    absent: str = ...,
    after: str | None = ...,
    assured: bool = ...,
    augment: str = ...,
    augmented: bool = ...,
    average_views: str = ...,
    axis: str = ...,
    background: bool = ...,
    bags: str | None = ...,
    band_start: str = ...,
    bands: str | None = ...,
    blank: str = ...,
    block_size: float | None = ...,
    by: Sequence[str] | None = ...,
    camera_rule: bool = ...,
    central: float | None = ...,
    centre_share: float = ...,
    change_weight: float | None = ...,
    clam_splits: str | None = ...,
    clamp: bool = ...,
    class_names: Sequence[str] | None = ...,
    class_texts: str | None = ...,
    clips: int = ...,
    coarse_bags: str | None = ...,
    contrast: float = ...,
    corpus: str | None = ...,
    crops: int = ...,
    cut: bool = ...,
    decoder: str = ...,
    deletion: float = ...,
    detected: bool = ...,
    detections: str | None = ...,
    dets_per_class: int = ...,
    dice_weight: float = ...,
    draw_windows: str = ...,
    dual_softmax: bool = ...,
    each_caption: bool = ...,
    encoder: str = ...,
    ensemble: int = ...,
    entities: str | None = ...,
    entries: str = ...,
    erasing: float = ...,
    erasing_fill: str = ...,
    error: str = ...,
    every: int = ...,
    finding: str | None = ...,
    findings: str | None = ...,
    flip: bool = ...,
    flip_probability: float = ...,
    fold: int = ...,
    foreground: float = ...,
    fps: float = ...,
    frame_pattern: str | None = ...,
    frame_rate: float = ...,
    frames: int = ...,
    group_column: str = ...,
    head: str = ...,
    head_channels: int = ...,
    interpolation: str = ...,
    interval: int = ...,
    interval_coverage: float = ...,
    interval_width: str = ...,
    intervals: str = ...,
    keep_frames: bool = ...,
    label_column: str | None = ...,
    label_tag: str | None = ...,
    labels: str | None = ...,
    largest: str = ...,
    last_stride: int = ...,
    lora_rank: int | None = ...,
    loss_kind: str = ...,
    max_pixels: int = ...,
    min_share: float = ...,
    min_side: float | None = ...,
    mirror_labels: bool = ...,
    mirrored: bool = ...,
    modality: str | None = ...,
    moments: bool = ...,
    mpp: float | None = ...,
    network: str = ...,
    nms: float = ...,
    novel_images: str = ...,
    operating_point: str | None = ...,
    organ_template: str = ...,
    overlap: float = ...,
    pad: int = ...,
    paraphrased: float = ...,
    paraphrases: str | None = ...,
    partition: str = ...,
    patch_size: Sequence[int] | None = ...,
    pictures: int = ...,
    precision_of: str = ...,
    prevalence: float | None = ...,
    prompts: str = ...,
    rank: int = ...,
    read_denials: bool = ...,
    readers: str = ...,
    reduce_zero_label: bool = ...,
    regions: str | None = ...,
    remember: Sequence[str] | None = ...,
    remember_images: str | None = ...,
    remember_score: float | None = ...,
    report_part: str = ...,
    reports: str | None = ...,
    rerank: bool = ...,
    rerank_k1: int = ...,
    rerank_k2: int = ...,
    rerank_weight: float = ...,
    resample_target: bool = ...,
    root: str | None = ...,
    sampler: str = ...,
    sampling: str = ...,
    scale: str = ...,
    sensor: str | None = ...,
    short_side: int = ...,
    show_people: bool = ...,
    sigma: float = ...,
    slice: int | None = ...,
    slices: int = ...,
    slide_mpp: float | None = ...,
    spacing: float | None = ...,
    start: str | None = ...,
    steps: int | None = ...,
    stretch: str | Sequence[float] = ...,
    stride: float = ...,
    study_column: str = ...,
    suppress: str = ...,
    target: str = ...,
    target_band: int | None = ...,
    target_column: str | None = ...,
    target_nodata: float | None = ...,
    target_unit: str | None = ...,
    tile: int | None = ...,
    time_series: bool = ...,
    tissue: float = ...,
    tolerance: float = ...,
    tower: str = ...,
    train_colours: str = ...,
    train_crop: str = ...,
    train_flip: bool = ...,
    train_grey: float = ...,
    train_list: str | None = ...,
    train_randaugment: bool = ...,
    tuned: str = ...,
    uncertain: str = ...,
    unit: str = ...,
    unknown: str = ...,
    val_list: str | None = ...,
    views: str = ...,
    volume: int = ...,
    width: int | None = ...,
    window: str | None = ...,
    window_sides: Sequence[int] | None = ...,
    window_size: int | None = ...,
    windows: Sequence[float] = ...,
    wise_alpha: float | None = ...,
) -> FitResult | None: ...

def evaluate(
    run: str | Path,
    *,
    out: str | Path | None = ...,
    backbone: str | Backbone | None = ...,
    domain: Domain | None = ...,
    reporter: Reporter | None = ...,
    data: str | Path | None = ...,
    features: str | Path | None = ...,
    split: str | None = ...,
    against: str | None = ...,
    workers: int | None = ...,
    resources: Mapping[str, str] | None = ...,
    classes: Any = ...,
    per_patient: str | None = ...,
    device: str | None = ...,
    reading: Mapping[str, Any] | None = ...,
    redact: bool | None = ...,
    assured: bool = ...,
    attack: str | None = ...,
    by: Sequence[str] | None = ...,
    coverage: float | None = ...,
    coverage_per: str = ...,
    finding: str | None = ...,
    holistic: bool = ...,
    holistic_images: str | None = ...,
    max_error: float | None = ...,
    operating_point: str | None = ...,
    precision_of: str = ...,
    prevalence: float | None = ...,
    set_method: str | None = ...,
    unlike: str | None = ...,
    vocabulary_steps: int | None = ...,
) -> dict[str, Any]: ...

def predict(
    run: str | Path,
    images: Sequence[str | Path],
    *,
    out: str | Path | Sequence[str | Path] | None = ...,
    outputs: str | Sequence[str] | None = ...,
    explain: str | bool | None = ...,
    backbone: str | Backbone | None = ...,
    domain: Domain | None = ...,
    reporter: Reporter | None = ...,
    batch_size: int | None = ...,
    workers: int | None = ...,
    tolerate: float | None = ...,
    resources: Mapping[str, str] | None = ...,
    classes: Any = ...,
    prompts: str | Path | None = ...,
    masks_by: str | None = ...,
    top: int | None = ...,
    threshold: float | None = ...,
    per_patient: str | None = ...,
    stream: bool | None = ...,
    masks: bool | None = ...,
    own_data: bool | None = ...,
    tile: int | None = ...,
    device: str | None = ...,
    reading: Mapping[str, Any] | None = ...,
    engine: str | None = ...,
    processes: int | None = ...,
    address: str | None = ...,
    worker_cpus: int | None = ...,
    worker_gpus: float | None = ...,
    shard_size: int | None = ...,
    shard: str | None = ...,
    coverage: float | None = ...,
    coverage_per: str = ...,
    max_error: float | None = ...,
    set_method: str | None = ...,
) -> Predicted: ...

def compare(
    recipe: Recipe,
    adapters: Sequence[str] | None = ...,
    shots: Sequence[int | None] | None = ...,
    seeds: Sequence[int] | None = ...,
    *,
    backbone: str | Backbone | None = ...,
    backbones: Sequence[str | Backbone] | None = ...,
    sources: Sequence[Mapping[str, Any]] = ...,
    out: str | Path | None = ...,
    resume: bool = ...,
    domain: Domain | None = ...,
    reporter: Reporter | None = ...,
    recipes: Sequence[str] | None = ...,
    splits: int | None = ...,
    folds: int | None = ...,
    tasks: int | None = ...,
) -> Comparison: ...
