"""Several sources of one training: `--data PATH[=WEIGHT]`, and how their samples are mixed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..runtime.remote import is_url, printed_name
from .options import option, options_from, settle

FACTOR, SHARE = "factor", "share"
ONE, MIXED = "one", "mixed"
OWNER = "the sources"
"""What options belong to, in messages."""


@dataclass(frozen=True)
class NamedSource:
    """A source as the user names it.

    Args:
        path: a file, folder or URL of pairs, or "sample".
        weight: or None where none is given.
    """

    path: str
    weight: float | None = None

    @property
    def text(self) -> str:
        """As the user writes it."""
        return self.path if self.weight is None else f"{self.path}={self.weight!r}"


def sources_in(group: Mapping[str, Any]) -> tuple[list[NamedSource], SourceOptions]:
    """The sources and the options in the group `sources` of a recipe; no sources where it names none.

    Raises:
        ConfigError: a value that is not usable. UnknownNameError: no such option.
    """
    data = group.get("data", ())
    options = {key: value for key, value in group.items() if key != "data"}
    return parse_sources([data] if isinstance(data, str) else list(data)), options_from(SourceOptions, options, OWNER)


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How the samples of several sources are mixed, given as `sources.NAME` in a recipe."""

    weights: str = option(
        SHARE,
        "what weights of sources are: share of the samples, or factor on sampling in proportion to size",
        choices=(SHARE, FACTOR),
    )
    batch: str = option(MIXED, "a batch is mixed, or of one source drawn by the shares", choices=(MIXED, ONE))
    replacement: bool = option(False, "draw samples anew each time, so that some come again before all were seen")
    samples: int | None = option(
        None, "samples of an epoch; by default those of all sources together", low=1, high=10**11, metavar="N"
    )
    stages: str | None = option(None, "JSON file: until which step sources have which weights", metavar="FILE")

    def __post_init__(self):
        settle(self, OWNER)


def parse_sources(texts: Sequence[str]) -> list[NamedSource]:
    """["a.csv", "b.csv=3"] -> the sources. What exists under the whole text is a path; else a number after the last "="
    is the weight.

    Raises:
        ConfigError: a weight that is not above 0, or a source named twice.
    """
    sources = [_parsed(str(text)) for text in texts]
    for number, source in enumerate(sources):
        if len(sources) > 1 and any(_place(source.path) == _place(other.path) for other in sources[:number]):
            raise ConfigError(f"--data {printed_name(source.path)}: named twice; give its weight as --data PATH=WEIGHT")
    return sources


def source_weights(sources: Sequence[NamedSource], sizes: Sequence[int], options: SourceOptions) -> list[float]:
    """The weight of each source. Shares of which none is given are the sizes; a weight that is not given among others
    is 1."""
    if options.weights == SHARE and all(source.weight is None for source in sources):
        return [float(size) for size in sizes]
    return [1.0 if source.weight is None else source.weight for source in sources]


def _parsed(text: str) -> NamedSource:
    path, equals, weight = text.rpartition("=")
    # the values in the query of a URL may be numbers of its own
    if not equals or not path or (is_url(path) and "?" in path) or os.path.exists(text):
        return NamedSource(text)
    try:
        number = float(weight)
    except ValueError:
        return NamedSource(text)
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"--data {printed_name(text)}: the weight of a source is a number above 0")
    return NamedSource(path, number)


def _place(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)
