"""Runs in MLflow: `vladapt.mlflow.log_run(RUN)` logs one with its model, which `mlflow.pyfunc.load_model` loads.

    import vladapt

    vladapt.mlflow.log_run("runs/20260101-120000-medical-ape-1a2b")

A model is the run's own files and the name of this module, which reads them: nothing is pickled.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ... import __version__
from ..backbones.specs import find_published
from ..contracts.run_info import BeforeAfter, RunInfo
from ..contracts.task import Use
from ..errors import CapabilityError, ConfigError, DataError
from ..recipes.resolve import task_of_run
from ..runs.folder import Run, dumped, open_run
from ..runs.places import CARD, FILES
from ..runtime.files import write_whole

LOADER, FLAVOUR = __name__, "vladapt"
COVERAGE = 0.9
"""Of the sets of classes that a loaded model gives, unless `params` says otherwise."""
LOGGED = ("report.html", "run.json", "metrics.json", "log.txt")
SIDES = ("adapted", "zero_shot")
IMAGE_COLUMN = "image"
SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp"}
SUFFIXES |= {b"II*\0": ".tif", b"MM\0*": ".tif"}
"""First bytes of a picture -> the suffix of its file; DICOM says so further on."""
LONGEST_PARAM = 500


def log_run(
    run: str | Path, *, name: str = "model", backbone: str | None = None, tags: Mapping[str, str] | None = None
):
    """Log a run: what was asked for as parameters, scores and their intervals as metrics, the report, and the model.

    It goes into MLflow's active run, or into a new one with the name of the folder.

    Args:
        run: a run folder, or hf:OWNER/NAME.
        name: of the model.
        backbone: where the run's backbone is here, if not where the run says.
        tags: further tags.

    Returns:
        MLflow's `ModelInfo`: `run_id`, `model_uri`.

    Raises:
        CapabilityError: MLflow is not installed, or the run cannot be asked about images. DataError: it is damaged.
    """
    mlflow = _mlflow()
    opened = _predicting(run, backbone)
    with ExitStack() as stack:
        if mlflow.active_run() is None:
            stack.enter_context(mlflow.start_run(run_name=opened.path.name if not opened.place else opened.place))
        mlflow.log_params(dict(params_of(opened.info)))
        mlflow.log_metrics(dict(_metrics_of(BeforeAfter.from_json(opened.metrics))))
        licences = {f"licence.{of}": licence for of, licence in opened.info.licences.items()}
        mlflow.set_tags({"vladapt": opened.info.vladapt, **licences, **(tags or {})})
        for file in LOGGED:
            if (opened.path / file).is_file():
                mlflow.log_artifact(str(opened.path / file))
        return _logged(opened, name, {})


def log_model(run: str | Path, *, name: str = "model", backbone: str | None = None, **how: Any):
    """Log the model of a run in MLflow's active run; arguments as of `log_run`.

    Args:
        how: what `mlflow.pyfunc.log_model` takes besides, `registered_model_name` for instance.
    """
    return _logged(_predicting(run, backbone), name, how)


def _logged(opened: Run, name: str, how: Mapping[str, Any]):
    with _written() as place:
        return _mlflow().pyfunc.log_model(name=name, **_as_pyfunc(opened, place, how))


def save_model(run: str | Path, path: str | Path, *, backbone: str | None = None, **how: Any) -> None:
    """Write the model of a run as a folder of MLflow's; arguments as of `log_run`.

    Args:
        path: a new folder.

    Raises:
        DataError: the folder is there already.
    """
    opened = _predicting(run, backbone)
    if Path(path).exists():
        raise DataError(f"{path}: exists; give the name of a new folder")
    with _written() as place:
        _mlflow().pyfunc.save_model(path=str(path), **_as_pyfunc(opened, place, how))


def load_model(model_uri: str, *, device: str = "auto"):
    """The predictor of a logged or saved model, as `vladapt.load_run` gives it.

    Raises:
        CapabilityError: MLflow is not installed. DataError: no model of ours.
    """
    _mlflow()
    from mlflow.artifacts import download_artifacts

    folder = Path(download_artifacts(model_uri)) / "data"
    if not folder.is_dir():
        raise DataError(f"{model_uri}: holds no run of vladapt; give the URI of a model that log_run made")
    return _predictor(open_run(folder), device)


class RunModel:
    """What `mlflow.pyfunc.load_model` gives of a run, inside its own wrapper.

    Args:
        predictor: of the run.
    """

    def __init__(self, predictor: Any):
        self.predictor = predictor

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None):
        """A DataFrame with a row per image, in their order: `label`, `confidence`, `set` (of classes; None where the
        run cannot say), `error` (why an image could not be read; the others are then None).

        Args:
            model_input: a DataFrame with a column "image", or one column; a list; or one image. Images are paths, or
                bytes of a file.
            params: "coverage", the share of sets that hold the right class; 0 for no sets.

        Raises:
            ConfigError: something else than images.
        """
        import pandas

        coverage = (params or {}).get("coverage", COVERAGE)
        wishes = {"coverage": coverage} if coverage and self.predictor.calibration is not None else {}
        with tempfile.TemporaryDirectory() as folder:
            paths = list(_paths(model_input, Path(folder)))
            rows, faults = self._rows(list(dict.fromkeys(paths)), wishes)
        several = self.predictor.adapter.multilabel_
        label, confidence = ("labels", "confidences") if several else ("label", "confidence")
        told = [rows.get(path, {}) for path in paths]
        columns = {
            "label": [row.get(label) for row in told],
            "confidence": [row.get(confidence) for row in told],
            "set": [row.get("set") for row in told],
            "error": [faults.get(path, "") for path in paths],
        }
        return pandas.DataFrame(columns)

    def _rows(self, paths: Sequence[str], wishes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Path -> its row, and path -> why there is none."""
        faults = {path: "no such file" for path in paths if not Path(path).is_file()}
        there = [path for path in paths if path not in faults]
        if not there:
            return {}, faults
        try:
            predicted = self.predictor.predict(there, **wishes)
        except DataError as error:  # none of them can be read
            return {}, {**faults, **dict.fromkeys(there, str(error))}
        by_file = {str(Path(row["id"]).resolve()): row for row in predicted.rows()}
        reasons = {str(Path(name).resolve()): reason for name, reason in predicted.skipped}
        rows = {path: by_file[key] for path in there if (key := str(Path(path).resolve())) in by_file}
        lacking = [path for path in there if path not in rows]
        return rows, {**faults, **{p: reasons.get(str(Path(p).resolve()), "cannot be read") for p in lacking}}


def _load_pyfunc(path: str) -> RunModel:
    """What MLflow calls with the folder of a model's data."""
    return RunModel(_predictor(open_run(path)))


def params_of(info: RunInfo) -> Iterator[tuple[str, str]]:
    """Name -> value of what run.json says was asked for and chosen."""
    plain = {key: getattr(info, key) for key in ("domain", "task", "adapter", "shots", "seed")}
    plain |= {"backbone": info.backbone.spec, "backbone_fingerprint": info.backbone.fingerprint}
    plain |= {"data": info.data.name, "classes": len(info.class_names)}
    options = {f"adapter.{key}": value for key, value in info.adapter_options.items()}
    chosen = {f"chosen.{key}": value for key, value in info.fit.chosen.items()}
    for name, value in {**plain, **options, **chosen}.items():
        if value is not None:
            yield _name(name), str(value)[:LONGEST_PARAM]


def _metrics_of(metrics: BeforeAfter) -> Iterator[tuple[str, float]]:
    """Name -> value: "adapted/accuracy", and its 95 % interval as "adapted/accuracy_low" and "_high"; baselines too."""
    sides = {side: metrics.get(side) for side in SIDES}
    sides |= {name: of for name, of in (metrics.get("baselines") or {}).items() if name not in SIDES}
    for side, scores in sides.items():
        between = metrics.metric_intervals.get(side) or {}
        for key, value in (scores or {}).items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                yield _name(f"{side}/{key}"), float(value)
            low_high = between.get(key)
            if low_high and all(isinstance(bound, (int, float)) for bound in low_high):
                yield from zip((_name(f"{side}/{key}_low"), _name(f"{side}/{key}_high")), map(float, low_high))
    if metrics.test_images:
        yield "test_images", float(metrics.test_images)


def _predicting(run: str | Path, backbone: str | None) -> Run:
    """A run that can be asked about images: its model is loaded once before anything is logged."""
    opened = open_run(run, backbone)
    if not opened.info.backbone:
        raise CapabilityError(f"{opened.shown}: made from a features file, so there is no model of images to log")
    _predictor(opened)
    return opened


def _predictor(opened: Run, device: str = "auto") -> Any:
    """As `vladapt.load_run` gives it."""
    return task_of_run(opened).predictor(Use(opened, device=device, images=("",)))


@contextmanager
def _written() -> Iterator[Path]:
    """A folder for a model's files; MLflow's advice to give an example, which would be an image, is not shown."""
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Ii]nput example.*")
        yield Path(place)


def _as_pyfunc(opened: Run, place: Path, how: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of MLflow for a run, whose files are copied to a folder of their own."""
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec

    folder = place / "run"
    folder.mkdir()
    for name in FILES:
        if name not in ("run.json", CARD) and (opened.path / name).is_file():
            shutil.copyfile(opened.path / name, folder / name)
    digests = {name: digest for name, digest in opened.info.sha256.items() if (folder / name).is_file()}
    write_whole(folder / "run.json", dumped(opened.info.with_(sha256=digests)))
    params = ParamSchema([ParamSpec("coverage", "double", COVERAGE)])
    return {
        "loader_module": LOADER,
        "data_path": str(folder),
        "pip_requirements": [_requirement(opened.info)],
        "signature": ModelSignature(params=params),
        "metadata": {FLAVOUR: {"version": __version__, "adapter": opened.info.adapter, "task": opened.info.task}},
        **how,
    }


def _requirement(info: RunInfo) -> str:
    """This version with what the backbone and the domain need: "vladapt[open-clip,medical]==0.1.0"."""
    spec = info.backbone.spec
    entry = find_published(spec)
    family = (entry.spec if entry else spec).partition(":")[0].replace("_", "-")
    try:
        known = metadata("vladapt").get_all("Provides-Extra") or ()
    except PackageNotFoundError:  # a checkout on Python's path
        known = ()
    extras = ",".join(name for name in (family, info.domain) if name and name in known)
    return f"vladapt[{extras}]=={__version__}" if extras else f"vladapt=={__version__}"


def _paths(given: Any, folder: Path) -> Iterator[str]:
    """Paths of images; those given as bytes are written to a folder first."""
    for number, image in enumerate(_images(given)):
        if isinstance(image, (bytes, bytearray, memoryview)):
            data = bytes(image)
            path = folder / f"{number:06d}{_suffix(data)}"
            path.write_bytes(data)
            yield str(path)
        elif isinstance(image, (str, Path)):
            yield str(image)
        else:
            raise ConfigError(f"image {number}: is {type(image).__name__}; give paths or the bytes of files")


def _images(given: Any) -> list[Any]:
    if isinstance(given, (str, Path, bytes, bytearray, memoryview)):
        return [given]
    if hasattr(given, "columns"):
        names = list(given.columns)
        if IMAGE_COLUMN not in names and len(names) != 1:
            raise ConfigError(f"columns {', '.join(map(str, names))}: call the column of the images '{IMAGE_COLUMN}'")
        return list(given[IMAGE_COLUMN if IMAGE_COLUMN in names else names[0]])
    return list(given)


def _suffix(data: bytes) -> str:
    if data[128:132] == b"DICM":
        return ".dcm"
    return next((suffix for start, suffix in SUFFIXES.items() if data.startswith(start)), ".png")


def _name(text: str) -> str:
    """As MLflow takes names."""
    return re.sub(r"[^\w\-. /]", "_", text)


def _mlflow():
    if find_spec("mlflow") is None:
        raise CapabilityError("vladapt.mlflow needs MLflow; install it with: pip install 'vladapt[mlflow]'")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is sent that nobody asked for
    import mlflow

    return mlflow
