"""Whether the mm stack is there and usable, told from metadata and files, importing none of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from packaging.specifiers import SpecifierSet

from ...core.contracts import Finding
from ...core.runtime import installed_version

CURE = "pip install 'vladapt[open-vocab]'"
WHEELS = {
    "mmengine": ("mmengine", "mmengine-lite"),
    "mmcv": ("mmcv-lite", "mmcv", "mmcv-full"),
    "mmdet": ("mmdet",),
    "mmseg": ("mmsegmentation",),
}
"""Module -> distributions that install it."""
FORKS = {
    "mmengine": "onedl-mmengine",
    "mmcv": "onedl-mmcv",
    "mmdet": "onedl-mmdetection",
    "mmseg": "onedl-mmsegmentation",
}
"""Module -> the fork of it that is still developed, which installs the same module."""
WANTED = {"mmengine": ">=0.10.4,<0.11", "mmcv": ">=2.0.0rc4,<2.2", "mmdet": ">=3.3,<3.4", "mmseg": ">=1.2.2,<1.3"}
TRANSFORMERS = ">=4.57"


def findings() -> list[Finding]:
    """Of the stack, its forks where there are any, mmcv's operators, the language models of GLIP and Grounding DINO."""
    forks = {module: name for module, name in FORKS.items() if installed_version(name)}
    operators = [_operators()] if find_spec("mmcv") else []
    return [_stack(), *([_forks(forks)] if forks else []), *operators, _language_models()]


def faults() -> list[str]:
    """What is missing of the stack or of a version that does not go with the rest: "no mmdet", "mmcv 2.2.0 (...)"."""
    listed = []
    for module, wanted in WANTED.items():
        there = _installed(module)
        if not there and find_spec(module) is None:
            listed.append(f"no {module}")
        listed += [
            f"{name} {number} (wants {wanted})"
            for name, number in there.items()
            if not SpecifierSet(wanted).contains(number, prereleases=True)
        ]
    return listed


def _stack() -> Finding:
    there = [f"{name} {number}" for module in WANTED for name, number in _installed(module).items()]
    wrong = faults()
    return Finding("open-vocab: mm stack", not wrong, ", ".join(wrong or there), CURE if wrong else "")


def _forks(forks: dict[str, str]) -> Finding:
    """What is installed of them, beside what it shares a folder, and which modules are from neither."""
    there = ", ".join(f"{name} {installed_version(name)}" for name in forks.values())
    twice = [f"{forks[module]} and {name} share one folder" for module in forks for name in _installed(module)]
    missing = [f"no {module} ({name})" for module, name in FORKS.items() if find_spec(module) is None]
    detail = "; ".join([f"{there}: forks, untested with vladapt", *twice, *missing])
    return Finding("open-vocab: forks", False, detail, f"pip uninstall -y {' '.join(forks.values())} && {CURE}")


def _operators() -> Finding:
    what = "open-vocab: operators"
    both = _installed("mmcv")
    compiled = list(Path(find_spec("mmcv").origin).parent.glob("_ext.*"))
    if len(both) > 1:
        names = " and ".join(both)
        cure = f"pip uninstall -y {' '.join(both)} && {CURE}"
        return Finding(what, False, f"{names} are both installed, and share one folder", cure)
    if not compiled:
        return Finding(
            what, True, "mmcv without compiled operators; vladapt's own replace them, built on torch and torchvision"
        )
    try:
        import mmcv._ext  # noqa: F401
    except ImportError as error:
        cure = f"pip uninstall -y {' '.join(both) or 'mmcv'} && {CURE}"
        return Finding(what, False, f"mmcv's compiled operators do not load ({error})", cure)
    return Finding(what, True, f"mmcv's own compiled operators ({compiled[0].name})")


def _language_models() -> Finding:
    what = "open-vocab: GLIP, Grounding DINO"
    number = installed_version("transformers")
    if number is None or not SpecifierSet(TRANSFORMERS).contains(number, prereleases=True):
        return Finding(what, False, f"transformers {number or 'is missing'} (needs {TRANSFORMERS})", CURE)
    return Finding(what, True, f"transformers {number}")


def _installed(module: str) -> dict[str, str]:
    return {name: number for name in WHEELS[module] if (number := installed_version(name))}
