"""Configs that mmdet and mmsegmentation bring, `_base_ = 'mmdet::...'`, found without setuptools' pkg_resources."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from ....core.errors import ConfigError, did_you_mean
from .import_hooks import after_import


def find_packaged_configs() -> None:
    """Let mmengine find packages and their configs by what Python itself knows of them."""
    after_import("mmengine.utils.package_utils", _ask_python)
    after_import("mmengine.config.config", _resolve_bases)
    after_import("mmengine.hub.hub", _resolve_names)


def packaged_config(name: str) -> Path:
    """The file of `mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py`.

    Raises:
        ConfigError: the package is not installed, brings no configs, or has none of that name inside its folder.
    """
    package, _, inner = name.partition("::")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.origin:
        raise ConfigError(
            f"config '{name}': the package '{package}' is not installed; install it, or give the path of a file"
        )
    folder = configs_folder(package).resolve()
    file = (folder / inner).resolve()
    if not folder.is_dir():
        raise ConfigError(f"config '{name}': the installed {package} brings no configs; give the path of a file")
    if not file.is_relative_to(folder):
        raise ConfigError(f"config '{name}': lies outside the configs of {package}; give the path of a file")
    if not file.is_file():
        there = [known.relative_to(folder).as_posix() for known in folder.glob("*/**/*.py")]
        raise ConfigError(f"config '{name}': {package} has no such config; {_nearest(inner, there)}")
    return file


def configs_folder(package: str) -> Path:
    """Where an installed package keeps its configs.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return Path(installed_path(package)) / ".mim" / "configs"


def is_installed(package: str) -> bool:
    """Whether a distribution or an importable module has that name."""
    try:
        distribution(package)
        return True
    except PackageNotFoundError:
        return _origin(package) is not None


def installed_path(package: str) -> str:
    """Folder of a package, named as a module or as a distribution (`mmsegmentation` is the folder `mmseg`).

    Raises:
        PackageNotFoundError: there is none.
    """
    origins = (_origin(name) for name in (package, *_modules_of(package)))
    file = next((origin for origin in origins if origin), None)
    if file is None:
        raise PackageNotFoundError(package)
    return str(Path(file).parent)


def first_module(package: str) -> str:
    """The module that a distribution is imported as.

    Raises:
        ValueError: it does not say.
    """
    modules = _modules_of(package)
    if not modules:
        raise ValueError(f"{package}: its metadata name no module")
    return modules[0]


def _modules_of(package: str) -> list[str]:
    try:
        return (distribution(package).read_text("top_level.txt") or "").split()
    except PackageNotFoundError:
        return []


def _origin(module: str) -> str | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec else None


def _nearest(name: str, there: list[str]) -> str:
    folder = name.partition("/")[0]
    beside = [known for known in there if known.startswith(f"{folder}/")]
    return did_you_mean(name, beside) if beside else did_you_mean(folder, {known.split("/")[0] for known in there})


def _ask_python(package_utils: ModuleType) -> None:
    ours = {"is_installed": is_installed, "get_installed_path": installed_path, "package2module": first_module}
    for name, function in ours.items():
        theirs = getattr(package_utils, name)
        for module in [module for key, module in sys.modules.items() if key.split(".")[0] == "mmengine"]:
            if vars(module).get(name) is theirs:
                setattr(module, name, function)


def _resolve_bases(config: ModuleType) -> None:
    """mmengine would parse every metafile of the package first; the path says where the file is."""
    theirs, bases = config.Config._get_cfg_path, config.Config._get_base_modules

    def config_path(name: str, filename: str) -> tuple[str, str | None]:
        if "::" not in name:
            return theirs(name, filename)
        return str(packaged_config(name)), name.partition("::")[0]

    def base_modules(nodes: list) -> list[str]:
        return [_checked_module(name) for name in bases(nodes)]

    config.Config._get_cfg_path = staticmethod(config_path)
    config.Config._get_base_modules = staticmethod(base_modules)


def _resolve_names(hub: ModuleType) -> None:
    def base_path(package_path: str, name: str) -> str:
        return str(packaged_config(f"{Path(package_path).name}::{name}"))

    hub._get_external_cfg_base_path = base_path


def _checked_module(name: str) -> str:
    """The name of a `read_base` module, if it can be there: the wheels leave out `mmdet/configs`, `mmseg/configs`."""
    package, *inner = name.split(".")
    origin = _origin(package) if package and inner and inner[0] == "configs" else None
    if origin is None or (Path(origin).parent / "configs").is_dir():
        return name
    folder = Path(origin).parent / ".mim" / "configs"
    wanted = "/".join(inner[1:]).replace("-", "_")
    there = [file.relative_to(folder).as_posix() for file in folder.glob("**/*.py")]
    same = next((known for known in there if known.removesuffix(".py").replace("-", "_") == wanted), None)
    instead = f"_base_ = '{package}::{same}'" if same else f"a config of `_base_ = '{package}::...'`"
    raise ConfigError(f"read_base: the wheel of {package} has no module {name}; write {instead} instead")
