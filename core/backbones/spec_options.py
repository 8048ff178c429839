"""What may stand behind a backbone's spec, "SPEC#NAME=VALUE", told without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import ConfigError

MERGE, PATCHES, RESOLUTION, PLAIN = "merge", "patches", "res", "plain"
MOST_PATCHES = 65_536
USAGE = (
    f"give #{MERGE}=R, for instance #{MERGE}=13; #{MERGE}=R:INFLECTION (-1 to 1), or #{MERGE}=R/R/R of single blocks; "
    f"and :{PLAIN} at the end for attention that does not weigh tokens by their sizes"
)
_COUNTS = re.compile(r"\d{1,6}(/\d{1,6})*")


@dataclass(frozen=True)
class Reduction:
    """How many tokens an image tower merges in its blocks.

    Token Merging: Your ViT But Faster (Bolya et al., 2022, arXiv 2210.09461).

    Args:
        counts: r, the same in all blocks; several are those of the first blocks, and the others merge none.
        inflection: of one r, which then is the mean over the blocks: -1 falls from 2 r to none, 0 is constant, 1 rises.
        proportional: whether attention weighs a token by how many it stands for; published without it are towers that
            were themselves trained with merging, and those of masked autoencoders.
    """

    counts: tuple[int, ...]
    inflection: float = 0.0
    proportional: bool = True

    @classmethod
    def of(cls, text: str) -> Reduction:
        """What "13", "13:-1", "4/3/2" or "13:plain" says.

        Raises:
            ConfigError: nothing of these.
        """
        first, *rest = text.split(":")
        proportional = rest[-1:] != [PLAIN]
        rest = rest if proportional else rest[:-1]
        try:
            counts = tuple(int(each) for each in first.split("/")) if _COUNTS.fullmatch(first) else ()
            inflection = float(rest[0]) if rest else 0.0
        except ValueError:
            counts, inflection = (), 0.0
        fits = sum(counts) > 0 and -1 <= inflection <= 1 and len(rest) < 2 and not (rest and len(counts) > 1)
        if not fits:
            raise ConfigError(f"#{MERGE}={text}: is not usable; {USAGE}")
        return cls(counts, inflection, proportional)

    def __str__(self) -> str:
        """As it stands in a spec."""
        inflection = [str(self.inflection).removesuffix(".0")] if self.inflection else []
        parts = ["/".join(map(str, self.counts)), *inflection]
        return ":".join([*parts, *([] if self.proportional else [PLAIN])])

    def per_block(self, blocks: int) -> list[int]:
        """r of each block."""
        if len(self.counts) > 1 or blocks == 1:
            return [*self.counts, *[0] * blocks][:blocks]
        first = int(self.counts[0] * (1 - self.inflection))
        step = 2 * (self.counts[0] - first) / max(1, blocks - 1)
        return [int(first + step * block) for block in range(blocks)]


@dataclass(frozen=True)
class Patches:
    """Images keep their aspect ratio, and become no more than so many patches.

    Args:
        most: published of SigLIP 2's NaFlex towers: 256.
    """

    most: int

    @classmethod
    def of(cls, text: str) -> Patches:
        """What "256" says.

        Raises:
            ConfigError: no such number.
        """
        if not re.fullmatch(r"\d{1,5}", text) or not 1 <= int(text) <= MOST_PATCHES:
            raise ConfigError(f"#{PATCHES}={text}: is not usable; give #{PATCHES}=N, for instance #{PATCHES}=256")
        return cls(int(text))

    def __str__(self) -> str:
        """As it stands in a spec."""
        return str(self.most)


@dataclass(frozen=True)
class Resolution:
    """How large a pixel is on the ground.

    Args:
        metres: of its side.
    """

    metres: float

    @classmethod
    def of(cls, text: str) -> Resolution:
        """What "10" or "0.3" says.

        Raises:
            ConfigError: no such number.
        """
        if not re.fullmatch(r"\d{1,5}(\.\d{1,6})?", text) or float(text) == 0:
            raise ConfigError(
                f"#{RESOLUTION}={text}: is not usable; give the metres of a pixel on the ground, for instance "
                f"#{RESOLUTION}=10"
            )
        return cls(float(text))

    def __str__(self) -> str:
        """As it stands in a spec."""
        return f"{self.metres:g}"


SpecOption = Reduction | Patches | Resolution
OPTIONS: dict[str, type[Reduction] | type[Patches] | type[Resolution]] = {
    MERGE: Reduction,
    PATCHES: Patches,
    RESOLUTION: Resolution,
}
