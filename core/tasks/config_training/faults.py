"""What mmengine, mmdet and mmseg raise about a config or a sample, as one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ...contracts.errors import ConfigError, DataError, UnknownNameError, VladaptError, did_you_mean

OF_CONFIGS = (TypeError, AssertionError, ValueError, FileNotFoundError)
"""What parts of mmdet and mmseg raise where their options do not fit."""
IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process")
NOT_REGISTERED = re.compile(r"['\"]?([\w.]+)['\"]? is not in the ([\w:.\- ]+?) registry")


@contextmanager
def named_faults() -> Iterator[None]:
    """A context that raises what comes out of it as one of our errors: which name is unknown, what cannot be built,
    which sample cannot be made. Errors that say nothing of either pass."""
    try:
        yield
    except Exception as error:
        named = _named(error)
        if named is error:
            raise
        raise named from error


def _named(error: Exception) -> Exception:
    line, of_worker = _line(error)
    if isinstance(error, VladaptError):
        return type(error)(line) if of_worker else error
    unknown = NOT_REGISTERED.search(line)
    if unknown:
        name, registry = unknown.groups()
        nearest = did_you_mean(name, _registered())
        return UnknownNameError(f"the config names '{name}', which no registry has ({registry}); {nearest}")
    if isinstance(error, KeyError):
        return ConfigError(f"the config lacks the key {line}; --debug shows where")
    if isinstance(error, OF_CONFIGS):
        return ConfigError(f"the config cannot be run: {line.rstrip('.')}; --debug shows where")
    if of_worker:
        return DataError(f"a training sample cannot be made: {line.rstrip('.')}; --debug shows where")
    return error


def _line(error: Exception) -> tuple[str, bool]:
    """The line that says what happened, and whether it happened in a process that makes samples: of such an error the
    text is a whole traceback, whose end counts."""
    text = str(error.args[0]) if error.args and not isinstance(error, OSError) else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    if not IN_WORKER.match(lines[0]):
        return lines[0], False
    kind, colon, said = lines[-1].partition(": ")
    return (said if colon else kind), True


def _registered() -> list[str]:
    """Names that configs may use, as they would write them."""
    from mmengine import registry

    roots = (registry.MODELS, registry.DATASETS, registry.TRANSFORMS, registry.METRICS, registry.HOOKS)
    roots += (registry.OPTIMIZERS, registry.OPTIM_WRAPPERS, registry.PARAM_SCHEDULERS)
    names: list[str] = []
    for root in roots:
        names += list(root.module_dict)
        for scope, child in root.children.items():
            names += [*child.module_dict, *(f"{scope}.{name}" for name in child.module_dict)]
    return names
