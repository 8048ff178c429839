"""`doctor`: what is installed, which device, which caches, what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement

from ..contracts.domain import Finding
from ..contracts.options import options_from, options_of
from ..registry.catalogue import PACKAGE_ROOT
from ..runtime.process import installed_version

EXTRAS = (
    *("embedded", "open-clip", "hf", "fine-tune", "retrieval", "labels", "explain", "export", "serve", "sharing"),
    *("medical", "remote-sensing", "person", "video", "open-vocab", "dev"),
)
DISPLAY_FREE = "opencv-contrib-python-headless"
OPENCV_WHEELS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def examine() -> list[Finding]:
    """All findings, importing torch but no model library."""
    of_domains = [finding for module in _doctors() for finding in module.findings()]
    return [_python(), _device(), _opencv(), *_extras(), *of_domains, _cache(), _offline()]


def _python() -> Finding:
    return Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("device", True, f"torch {torch.__version__}, CUDA {torch.version.cuda}: {names}")
    return Finding("device", True, f"torch {torch.__version__}, CPU with {torch.get_num_threads()} threads")


def _opencv() -> Finding:
    """Two OpenCV wheels overwrite one `cv2`: their versions must agree, and it must import without a display."""
    there = {name: version for name in OPENCV_WHEELS if (version := installed_version(name))}
    listed = ", ".join(f"{name} {version}" for name, version in there.items()) or "no OpenCV wheel"
    if len(set(there.values())) > 1:
        newest = max(there.values())
        same_version = " ".join(f"{name}=={newest}" for name in there)
        return Finding(
            "opencv", False, f"{listed}: two versions share one cv2", f"pip install --force-reinstall {same_version}"
        )
    try:
        import cv2
    except ImportError as error:
        newest = max(there.values(), default="")
        headless = f"{DISPLAY_FREE}=={newest}" if newest else DISPLAY_FREE
        cure = f"pip install --force-reinstall --no-deps {headless}"
        return Finding("opencv", False, f"cv2 does not import ({error})", cure)
    claimed = next(iter(there.values()), cv2.__version__)
    if not claimed.startswith(cv2.__version__):
        names = " ".join(f"{name}=={claimed}" for name in there)
        return Finding(
            "opencv",
            False,
            f"cv2 is {cv2.__version__}, the wheels say {claimed}",
            f"pip install --force-reinstall {names}",
        )
    windows = re.search(r"^\s*GUI:\s*(\w+)", cv2.getBuildInformation(), re.MULTILINE)
    display = "" if windows is None or windows[1] == "NONE" else f"; built with {windows[1]} windows, which want libGL"
    return Finding("opencv", True, f"{listed}{display}")


def _extras() -> list[Finding]:
    by_extra: dict[str, list[Requirement]] = {extra: [] for extra in EXTRAS}
    try:
        declared = requires("vladapt") or []
    except PackageNotFoundError:
        return [Finding("vladapt", False, "not installed as a package", "pip install -e . in its folder")]
    for text in declared:
        requirement = Requirement(text)
        for extra in EXTRAS:
            marker = requirement.marker
            if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
                by_extra[extra].append(requirement)
    return [_extra(extra, requirements) for extra, requirements in by_extra.items()]


def _extra(extra: str, requirements: list[Requirement]) -> Finding:
    requirements = [r for r in requirements if r.name != "vladapt"]
    missing = [r.name for r in requirements if installed_version(r.name) is None]
    wrong = [
        f"{r.name} {installed} (wants {r.specifier})"
        for r in requirements
        if (installed := installed_version(r.name)) and not r.specifier.contains(installed, prereleases=True)
    ]
    cure = f"pip install {_where_from()}[{extra}]'"
    if missing or wrong:
        lacks = ", ".join([*(f"no {name}" for name in missing), *wrong])
        return Finding(f"extra {extra}", False, lacks, cure)
    return Finding(f"extra {extra}", True, ", ".join(f"{r.name} {installed_version(r.name)}" for r in requirements))


def examine_asked(options: Mapping[str, str]) -> list[Finding]:
    """What the doctors of domains find when they are asked: `examined(options)` of a domain's `doctor.py`, whose class
    `DoctorOptions` declares the options.

    Args:
        options: option -> text.

    Raises:
        ConfigError: a value that is not usable. DataError: what it names cannot be read.
    """
    findings = []
    for module in _doctors():
        declared = getattr(module, "DoctorOptions", None)
        names = {each.name for each in options_of(declared)} if declared is not None else set()
        asked = {name: text for name, text in options.items() if name in names}
        if asked:
            findings += module.examined(options_from(declared, asked, "doctor"))
    return findings


def _doctors() -> Iterator[ModuleType]:
    """The files `doctor.py` in domains' folders, whose `findings()` say what a domain stands on, as modules. Each runs
    apart from its package, so that a domain that does not import can say why."""
    for file in sorted((PACKAGE_ROOT / "domains").glob("*/doctor.py")):
        package = __name__.rsplit(".core.", 1)[0]
        name = f"{package}.domains.{file.parent.name}.doctor"
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # a dataclass asks for the module it stands in
        spec.loader.exec_module(module)
        yield module


def _where_from() -> str:
    """The opening of a pip requirement: the checkout this runs from, else the package's name."""
    editable = Path(__file__).resolve().parents[2]
    return f"-e '{editable}" if (editable / "pyproject.toml").is_file() else "'vladapt"


def _cache() -> Finding:
    from ..features.store import FeatureStore

    root = FeatureStore.default_root()
    size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file()) if root.is_dir() else 0
    parent = next(p for p in [root, *root.parents] if p.exists())
    free = shutil.disk_usage(parent).free
    writable = os.access(parent, os.W_OK)
    space = f"{root}: {size / 2**20:.1f} MiB used, {free / 2**30:.1f} GiB free"
    return Finding("feature cache", writable, space, "" if writable else "set VLADAPT_CACHE to a writable folder")


def _offline() -> Finding:
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    state = (
        "HF_HUB_OFFLINE=1: remote models only from the local hub cache"
        if offline
        else ("used only for a remote model you name (open_clip:<arch>/<tag>, hf:<repo id>)")
    )
    return Finding("network", True, state)
