"""`serve`: a run, by the task that made it, or an export answers requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..backbones.specs import with_own_backbones, with_own_code
from ..contracts.options import keywords, options_from
from ..contracts.serving import Served, Serving
from ..errors import ConfigError
from ..export.folder import is_export
from ..serving.server import ServerSettings, check_token, listening, require_server, serve_socket
from ..serving.uploads import Limits
from .options import ServeOptions


@keywords(ServeOptions)
def serve(
    model: str | Path,
    *,
    device: str | None = None,
    backbone: str | None = None,
    resources: Mapping[str, str] | None = None,
    opened: Callable[[str], None] = lambda address: None,
    told: Callable[[str], None] = lambda line: None,
    **given: Any,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C, and then those that were taken in.

    Args:
        model: a run folder, or a folder that `export` wrote.
        given: options of `ServeOptions`.
        device: of a run; "auto", "cpu", "cuda", ...
        backbone: where the run's backbone is here, if not where the run says; "FILE.py:NAME" runs in each process.
        resources: name -> path, in place of the run's own.
        opened: called with the address, before the model is loaded.
        told: called with lines for the user.

    Raises:
        ConfigError: the port is taken, or a token is missing. CapabilityError: the run's task is not served, or a
            package is missing. DataError: the run or the export is damaged.
    """
    require_server()
    asked = options_from(ServeOptions, given, "serve")
    host, max_mb = asked.host, asked.max_mb
    token, loopback = check_token(host, asked.token)
    for name in ("workers", "batch_size", "max_mb", "queue"):
        if (value := getattr(asked, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: give 1 or more")
    folder = Path(model)
    exported = is_export(folder)
    if exported and (device not in (None, "auto", "cpu") or resources):
        raise ConfigError(f"{folder}: an export runs on the CPU and needs no resources; omit --device and --resource")
    if exported and asked.training_ids:
        raise ConfigError(f"{folder}: an export holds no labelled images; omit --training-ids")
    if exported and backbone:
        raise ConfigError(f"{folder}: an export holds its towers; omit --backbone")
    limits, serving = Limits(), Serving(device or "auto", None, dict(resources or {}), training_ids=asked.training_ids)
    limits = Limits(
        request_bytes=limits.request_bytes if max_mb is None else max_mb << 20,
        waiting=asked.queue or limits.waiting,
        waiting_bytes=limits.waiting_bytes if max_mb is None else max(limits.waiting_bytes, max_mb << 20),
    )
    serving = replace(serving, max_bytes=limits.request_bytes)
    if asked.max_pixels is not None:
        serving = replace(serving, max_pixels=asked.max_pixels)
    made = listening(host, asked.port)
    try:
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{made.getsockname()[1]}/"
        opened(address)
        load = partial(load_export, folder) if exported else partial(load_served, folder, backbone=backbone)
        serve_socket(
            ServerSettings(load, serving, token, loopback, asked.workers, asked.batch_size, limits, address), made, told
        )
    finally:
        made.close()


def load_export(folder: Path, serving: Serving) -> Served:
    """An export; nothing of torch is imported."""
    from ..serving.exported import ExportedBags, ServedExport, has_bags
    from ..serving.exported_finder import ServedFinder, has_finder
    from ..serving.exported_numbers import ExportedNumbers, has_numbers

    if has_numbers(folder):
        return ExportedNumbers(folder, serving)
    kind = ServedFinder if has_finder(folder) else ExportedBags if has_bags(folder) else ServedExport
    return kind(folder, serving)


def load_served(folder: Path, serving: Serving, backbone: str | None = None) -> Served:
    """A run, by its task."""
    from ..contracts.task import Use
    from ..recipes.resolve import task_of_run
    from ..runs.sections import errors_in_words
    from .models import opened_run

    opened, resources = opened_run(folder, with_own_code(backbone)), with_own_backbones(serving.resources)
    use = Use(opened, images=("",), device=serving.device, resources=resources or None)  # of its own data it needs none
    task = task_of_run(use.run)
    with errors_in_words(task, opened.info.recipe.get("data")):
        return task.served(use, serving)
