"""What methods share that train towers in one way alone: by a loss of their own, and the last weights count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(eq=False, kw_only=True)
class OneWay:
    """Stands before a `TowerAdapter` among the bases: what are options of others is settled here."""

    loss: ClassVar[None] = None
    loss_options: ClassVar[None] = None
    teacher: ClassVar[tuple[str, ...]] = ()
    training: ClassVar[None] = None
    ema: ClassVar[None] = None
    select: ClassVar[str] = "last"
    patience: ClassVar[None] = None
