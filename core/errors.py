"""The few error types of the project: raised where the cause is known, caught once, in `cli.py`.

Each message is one line that names the file or option, what is wrong with it, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VladaptError(Exception):
    """Base of all expected errors. `exit_code` is what the command line ends with."""

    exit_code = 1


class DataError(VladaptError):
    """The user's data, a run folder or a checkpoint cannot be used as it is."""


class ConfigError(VladaptError):
    """An option, a recipe or a name is wrong: a usage error."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name (adapter, domain, backbone, loss, option) that nothing has; the message says the nearest right ones."""


class CapabilityError(VladaptError):
    """A backbone, a feature file or an adapter was asked for something it does not have."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A half sentence with the nearest right names, or all of them."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are: {', '.join(known)}" if known else "there are none"
