"""`push`: a run on its way to others."""

from __future__ import annotations

from pathlib import Path

from ..contracts.domain import Domain
from ..recipes.resolve import task_of_run
from ..runs.folder import Run
from ..sharing.card import Told
from ..sharing.push import Pushed
from ..sharing.push import push as push_run


def push(
    run: str | Path,
    repo: str,
    *,
    out: str | Path | None = None,
    upload: bool = False,
    public: bool = False,
    licence: str | None = None,
    data_licence: str | None = None,
    dataset: str | None = None,
    domain: Domain | None = None,
) -> Pushed:
    """Write a run as a folder in the layout of the Hugging Face hub: its adapter, what loading needs, and a card.

    Names of images and files, paths and the user's name are left out. The network is used only with `upload`.

    Args:
        run: a run folder.
        repo: the repository's name on the hub, OWNER/NAME.
        out: the folder; by default NAME, in the working directory.
        upload: upload it.
        public: a new repository is public instead of private.
        licence: of the adapter, as the hub writes it ("apache-2.0").
        data_licence, dataset: licence and name of the data, in place of what the run says.
        domain: a domain of your own that is not installed as a plug-in; by default the run's, by name.

    Raises:
        ConfigError, CapabilityError, DataError: one line each; see `core/sharing/push.py`.
    """
    opened = Run.open(run)
    told = Told(repo, licence, data_licence, dataset)
    return push_run(opened, task_of_run(opened, domain), told, out=out, upload_it=upload, public=public)
