"""A published folder on its way to the Hugging Face hub. Nothing here runs unless the user says `--upload`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DataError
from ..runs.places import FILES
from .card import LIBRARY

OF_THE_HUB = frozenset({".gitattributes", "README.md"})
"""What an empty repository may have."""
LATER = "the folder is unchanged, and the same command uploads it later"


def check_login(repo: str) -> None:
    """Raise what can be told of an upload before anything is written.

    Raises:
        DataError: HF_HUB_OFFLINE is set, or nobody is logged in.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES:
        raise DataError(f"--upload: HF_HUB_OFFLINE forbids using the network; unset it to upload to {repo}")
    if get_token() is None:
        raise DataError(
            f"--upload: not logged in to the hub; run `hf auth login` (or set HF_TOKEN), then push to {repo} again"
        )


def upload(folder: Path, repo: str, public: bool) -> tuple[str, bool]:
    """Upload the files of a published folder; the repository is made if it is not there.

    Args:
        public: whether a new repository is for everybody to see.

    Returns:
        (address of the repository, whether it was made).

    Raises:
        DataError: no login, no network, a repository of somebody else, or one that holds something else.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError

    api, owner = HfApi(library_name=LIBRARY), repo.partition("/")[0]
    with _one_line(repo):
        me = api.whoami()
        mine = [me["name"], *(each["name"] for each in me.get("orgs") or ())]
        if owner not in mine:
            raise DataError(f"--upload {repo}: you are {me['name']} on the hub; give {' or '.join(mine)} before the /")
        try:
            _check_ours(api.model_info(repo), repo)
            made = False
        except RepositoryNotFoundError:
            api.create_repo(repo, private=not public, repo_type="model")
            made = True
        gone = [name for name in FILES if not (folder / name).is_file()]
        api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            allow_patterns=list(FILES),
            delete_patterns=gone,
            commit_message="Run of vladapt",
        )
    return f"{constants.ENDPOINT}/{repo}", made


def _check_ours(there, repo: str) -> None:
    """Raise the DataError of a repository that holds anything but a run of ours."""
    names = {each.rfilename for each in there.siblings or ()}
    if names <= OF_THE_HUB or ("run.json" in names and there.library_name == LIBRARY):
        return
    raise DataError(
        f"--upload {repo}: exists on the hub but holds no run of vladapt ({sorted(names - OF_THE_HUB)[0]}); give "
        "another name"
    )


@contextmanager
def _one_line(repo: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise DataError(f"--upload {repo}: not logged in to the hub; run `hf auth login` first") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        refused = {401: "your token is not accepted; run `hf auth login` again", 403: "your token may not write there"}
        reason = refused.get(status) or (str(error).splitlines() or ["no answer"])[0]
        raise DataError(f"--upload {repo}: the hub refuses ({reason}); {LATER}") from error
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"--upload {repo}: the hub cannot be reached ({reason}); {LATER}") from error
