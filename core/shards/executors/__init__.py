"""Who runs shard tasks: this process, processes of this machine, or a cluster. One class each, in a file of its name.

Those of other packages are entry points of the group `vladapt.executors`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ...errors import ConfigError, did_you_mean
from .executor import Completed, Executor

__all__ = ["Completed", "Executor", "build_executor"]

GROUP = "vladapt.executors"


def build_executor(name: str, **options: Any) -> Executor:
    """The executor of a file here, or of an entry point.

    Args:
        options: of its class.

    Raises:
        ConfigError: there is none of this name. CapabilityError: what it needs is not installed.
    """
    own = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "executor")
    if name in own:
        return import_module(f".{name}", __name__).EXECUTOR(**options)
    others = {each.name: each for each in entry_points(group=GROUP)}
    if name not in others:
        raise ConfigError(f"engine '{name}': {did_you_mean(name, ['local', *own, *others])}")
    return others[name].load()(**options)
