"""Types of the public names. Made by `make index`; do not edit."""

from collections.abc import Mapping as Mapping
from collections.abc import Sequence as Sequence
from pathlib import Path as Path
from typing import Any as Any

from . import Adapter as Adapter
from . import Backbone as Backbone
from . import Batch as Batch
from . import Boxes as Boxes
from . import CapabilityError as CapabilityError
from . import Captions as Captions
from . import ConfigError as ConfigError
from . import DataError as DataError
from . import Domain as Domain
from . import DomainData as DomainData
from . import Evaluated as Evaluated
from . import FeatureSet as FeatureSet
from . import FeatureStore as FeatureStore
from . import FitReport as FitReport
from . import Identity as Identity
from . import InputChannels as InputChannels
from . import Item as Item
from . import Judgement as Judgement
from . import Label as Label
from . import Labels as Labels
from . import Loss as Loss
from . import Mask as Mask
from . import Metric as Metric
from . import Output as Output
from . import Place as Place
from . import PretrainPlan as PretrainPlan
from . import Recipe as Recipe
from . import Record as Record
from . import RowLoss as RowLoss
from . import Target as Target
from . import Task as Task
from . import TextClassifier as TextClassifier
from . import TrainingSettings as TrainingSettings
from . import UnknownNameError as UnknownNameError
from . import VladaptError as VladaptError
from . import build_adapter as build_adapter
from . import build_classifier as build_classifier
from . import build_loss as build_loss
from . import compare as compare
from . import evaluate as evaluate
from . import evaluate_retrieval as evaluate_retrieval
from . import export as export
from . import fit as fit
from . import load_adapter as load_adapter
from . import load_backbone as load_backbone
from . import load_domain as load_domain
from . import load_features as load_features
from . import load_run as load_run
from . import mlflow as mlflow
from . import option as option
from . import predict as predict
from . import pretrain as pretrain
from . import push as push
from . import read_pairs as read_pairs
from .core.backbones.load import save_fine_tuned as save_fine_tuned
from .core.contracts.bench import BenchScore as BenchScore
from .core.contracts.bench import BenchSet as BenchSet
from .core.contracts.bench import BenchTowers as BenchTowers
from .core.contracts.curator import Curator as Curator
from .core.contracts.curator import Decision as Decision
from .core.contracts.curator import Survey as Survey
from .core.contracts.domain import Reading as Reading
from .core.contracts.features import Detection as Detection
from .core.contracts.images import TrainingImages as TrainingImages
from .core.contracts.images import TrainingPlace as TrainingPlace
from .core.contracts.items import check_items as check_items
from .core.contracts.judgement import JudgedClassifier as JudgedClassifier
from .core.contracts.judgement import JudgedPredictions as JudgedPredictions
from .core.contracts.options import require as require
from .core.contracts.options import settle as settle
from .core.contracts.output_kind import OutputKind as OutputKind
from .core.contracts.parts import ClassWeighting as ClassWeighting
from .core.contracts.parts import RandomCrops as RandomCrops
from .core.contracts.parts import StoredViews as StoredViews
from .core.contracts.parts import Ties as Ties
from .core.contracts.parts import TrainingViews as TrainingViews
from .core.contracts.parts import has as has
from .core.contracts.selector import Pool as Pool
from .core.contracts.selector import Selector as Selector
from .core.contracts.task import Axes as Axes
from .core.contracts.task import Contest as Contest
from .core.contracts.task import FitResult as FitResult
from .core.contracts.use import Use as Use
from .core.data.detect import read_any as read_any
from .core.data.file_hashes import FileHashes as FileHashes
from .core.data.files import ItemCollector as ItemCollector
from .core.data.files import loader as loader
from .core.data.files import walk as walk
from .core.data.group_columns import group_rows as group_rows
from .core.data.images import IMAGE as IMAGE
from .core.data.images import decode_image as decode_image
from .core.data.sampling import selection_split as selection_split
from .core.data.tables import read_table as read_table
from .core.data.unlabelled import images_of as images_of
from .core.data.unlabelled import readable as readable
from .core.engine.bench import bench as bench
from .core.engine.search import SearchResult as SearchResult
from .core.errors import LimitError as LimitError
from .core.errors import did_you_mean as did_you_mean
from .core.metrics.classification import best_setting as best_setting
from .core.metrics.classification import classification_metrics as classification_metrics
from .core.metrics.classification import multilabel_metrics as multilabel_metrics
from .core.metrics.classification import per_class_table as per_class_table
from .core.metrics.classification import val_score as val_score
from .core.metrics.retrieval import retrieval_metrics as retrieval_metrics
from .core.metrics.score_intervals import auroc_interval as auroc_interval
from .core.metrics.significance import mcnemar as mcnemar
from .core.prompts.classifier import check_templates as check_templates
from .core.prompts.classifier import fill as fill
from .core.prompts.context import PromptLearner as PromptLearner
from .core.recipes.asked_for import place_of_data as place_of_data
from .core.recipes.asked_for import read_data as read_data
from .core.recipes.asked_for import readable_samples as readable_samples
from .core.recipes.asked_for import split_samples as split_samples
from .core.runs.folder import Run as Run
from .core.runs.run_sections import Report as Report
from .core.runs.run_sections import write_report as write_report
from .core.runs.sections import CurveSection as CurveSection
from .core.runs.sections import HeadlineSection as HeadlineSection
from .core.runs.sections import ListSection as ListSection
from .core.runs.sections import Measure as Measure
from .core.runs.sections import Number as Number
from .core.runs.sections import TableSection as TableSection
from .core.runtime.files import write_whole as write_whole
from .core.runtime.progress import Reporter as Reporter
from .core.shards.driver import Summary as Summary
from .core.tasks.classification.stored_run import recipe_again as recipe_again
from .core.tasks.classification.task import Classification as Classification
from .core.tasks.config_training.base import ConfigTask as ConfigTask
from .core.tasks.config_training.report import scores_table as scores_table
from .core.tasks.config_training.report import summaries_table as summaries_table
from .core.tasks.retrieval.tables import retrieval_table as retrieval_table
from .core.tasks.retrieval.task import Retrieval as Retrieval
from .core.training import cosine_rates as cosine_rates
from .core.training.batches import epoch_batches as epoch_batches
from .core.training.small_heads import label_loss as label_loss
from .core.training.small_heads import train_epochs as train_epochs
from .core.training.small_heads import training_features as training_features
from .core.training.tower_adapter import TowerAdapter as TowerAdapter
from .core.training.tower_passes import image_features as image_features
from .core.training.tower_weights import copy_of as copy_of

SECTIONS: dict[str, dict[str, str]]
HOMES: dict[str, str]

def run_stage(
    function: Any,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = ...,
    settings: Mapping[str, Any] | None = ...,
    batch_size: int = ...,
    tolerate: float = ...,
    reporter: Reporter | None = ...,
    engine: str | None = ...,
    processes: int | None = ...,
    address: str | None = ...,
    worker_cpus: int | None = ...,
    worker_gpus: float | None = ...,
    shard_size: int | None = ...,
    shard: str | None = ...,
) -> Summary: ...

def search(
    index: str | Path,
    text: str | None = ...,
    *,
    device: str = ...,
    backbone: str | Backbone | None = ...,
    domain: Domain | None = ...,
    reading: Mapping[str, Any] | None = ...,
    where: Mapping[str, str] | None = ...,
    out: str | Path | None = ...,
    image: str | Path | None = ...,
    weight: float | None = ...,
    compose: str | None = ...,
    vocabulary: str | Path | None = ...,
    top: int | None = ...,
    refine: bool | None = ...,
    candidates: int | None = ...,
    since: str | None = ...,
    own_group: bool | None = ...,
    cluster: float | None = ...,
    blur: bool | None = ...,
    html: str | Path | None = ...,
) -> SearchResult: ...
