"""`push`: a run on its way to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..contracts.domain import Domain
from ..contracts.options import keywords, options_from
from ..recipes.resolve import task_of_run
from ..runs.folder import Run
from ..sharing.card import PublisherWords
from ..sharing.push import Pushed
from ..sharing.push import push_folder as push_run
from .options import PushOptions


@keywords(PushOptions)
def push(
    run: str | Path,
    repo: str,
    *,
    domain: Domain | None = None,
    **given: Any,
) -> Pushed:
    """Write a run as a folder in the layout of the Hugging Face hub: its adapter, what loading needs, and a card.

    Names of images and files, paths and the user's name are left out. The network is used only with `upload`.

    Args:
        run: a run folder.
        repo: the repository's name on the hub, OWNER/NAME.
        given: options of `PushOptions`.
        domain: a domain of your own that is not installed as a plug-in; by default the run's, by name.

    Raises:
        ConfigError, CapabilityError, DataError: one line each; see `core/sharing/push.py`.
    """
    asked, opened = options_from(PushOptions, given, "push"), Run.open(run)
    card_facts = PublisherWords(repo, asked.licence, asked.data_licence, asked.dataset)
    return push_run(
        opened, task_of_run(opened, domain), card_facts, out=asked.out, upload_it=asked.upload, public=asked.public
    )
