"""A stage: what is made of each row. One of your own is one function.

def brightness(rows):
    return {"brightness": [decode_bytes(row.read(), row.id).mean() for row in rows]}

stage = function_stage(brightness, {"brightness": "float"})
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError, SourceError, one_line

if TYPE_CHECKING:
    import pyarrow

    from .sources import ShardRow


class Unreadable(NamedTuple):
    """A row of which nothing can be made, and why in one line."""

    id: str
    reason: str


class Stage(ABC):
    """What is made of rows. It is sent to workers: a small object that can be pickled; a model comes in `start`.

    Attributes:
        name: in the hash of settings and in `vladapt jobs`.
        settings: JSON-able; all that changes what comes out.
        columns: of the row's source that it reads, besides image and id.
    """

    name: str
    columns: tuple[str, ...] = ()

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]: ...

    @property
    @abstractmethod
    def schema(self) -> pyarrow.Schema:
        """Of what `run` gives; `id` is its first column. No model is built for it."""

    def start(self, threads: int | None) -> Any:
        """What each worker holds while it works, such as a model.

        Args:
            threads: that this worker may decode with; None for one per core.
        """
        return None

    @abstractmethod
    def run(
        self, state: Any, rows: Iterator[ShardRow], batch_size: int
    ) -> Iterator[pyarrow.RecordBatch | pyarrow.Table | Unreadable]:
        """What comes of rows, in their order, a batch at a time: of each row of `rows` one row, or why there is none.

        Args:
            state: of `start`.
            batch_size: rows through a model at once. The last batch of a task may be smaller; none spans two tasks.
        """


Function = Callable[[Sequence["ShardRow"]], Mapping[str, Any]]


def function_stage(
    function: Function, columns: Mapping[str, str], settings: Mapping[str, Any] | None = None, *, name: str = ""
) -> Stage:
    """A stage made of a function.

    Args:
        function: rows of a batch -> a list or array per column, with one entry per row. Stands in a module, so that
            workers can import it.
        columns: column -> type, as pyarrow calls it: "int64", "float", "string", "list<float>".
        settings: JSON-able; all that changes what the function gives. Another version of it is a setting, too.
        name: by default the function's.

    Raises:
        ConfigError: a type that pyarrow does not have.
    """
    if "id" in columns:
        raise ConfigError("columns: 'id' is written in any case; omit it")
    for kind in columns.values():
        arrow_type(kind)
    return _FunctionStage(name or function.__name__, function, dict(columns), dict(settings or {}))


@dataclass(frozen=True)
class _FunctionStage(Stage):
    name: str
    function: Function
    types: Mapping[str, str]
    further: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**self.further, "columns": self.types}

    @property
    def schema(self) -> pyarrow.Schema:
        import pyarrow

        return pyarrow.schema({"id": pyarrow.string(), **{name: arrow_type(kind) for name, kind in self.types.items()}})

    def run(self, state: Any, rows: Iterator[ShardRow], batch_size: int) -> Iterator[pyarrow.Table | Unreadable]:
        while batch := list(islice(rows, batch_size)):
            try:
                yield self._made(batch)
            except (ConfigError, SourceError):
                raise
            except Exception as error:
                if len(batch) == 1:
                    yield Unreadable(batch[0].id, one_line(error))
                    continue
                for row in batch:  # which of them is it?
                    yield from self.run(state, iter([row]), 1)

    def _made(self, batch: list[ShardRow]) -> pyarrow.Table:
        import pyarrow

        made = self.function(batch)
        for name in self.types:
            if name not in made or len(made[name]) != len(batch):
                raise ConfigError(f"stage '{self.name}': one entry per row of column '{name}' is needed")
        return pyarrow.table({"id": [row.id for row in batch], **{n: made[n] for n in self.types}}, self.schema)


def arrow_type(kind: str) -> pyarrow.DataType:
    """The type of a column, by the name that pyarrow has for it, or as a list of such: "list<float>".

    Raises:
        ConfigError: pyarrow has none of that name.
    """
    import pyarrow

    if kind.startswith("list<") and kind.endswith(">"):
        return pyarrow.list_(arrow_type(kind[5:-1]))
    try:
        return pyarrow.type_for_alias(kind)
    except ValueError:
        raise ConfigError(f"columns: no type '{kind}'; give one of pyarrow's, such as int64, float or string") from None
