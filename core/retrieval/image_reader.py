"""How the images of an index are read: as plain files, or as a domain reads them; the same way when it is searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.images import InputChannels
from ..contracts.items import Captions, Decoded, DomainData, Item
from ..contracts.recipe import SAMPLE
from ..data.group_columns import AUTO, OPTION, columns_beside, group_images, group_of
from ..data.group_words import preferred_column
from ..data.images import LEAST_SIDE, decode_image
from ..data.unlabelled import images_of, read_unlabelled
from ..errors import CapabilityError, ConfigError, DataError, UnknownNameError
from ..features.pair_files import holds_pairs
from ..features.table import transform_spec
from ..registry import load_domain

PAIR_FILES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".tar")


@dataclass
class ImageReader:
    """Decoding and preprocessing of images.

    Args:
        domain: whose files and transforms; None for plain image files and the backbone's own preprocessing.
        task: of the domain.
        options: of the domain's reader.
    """

    domain: Domain | None = None
    task: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, domain: Domain | str | None, task: str | None, options: Mapping[str, Any]) -> ImageReader:
        """The reader of a domain, or of one by its name; by default for the domain's first task.

        Raises:
            ConfigError: a task or options without a domain, or a task that the domain does not have.
        """
        if not domain:
            given = f"--set data.{next(iter(options))}" if options else "--task" if task else ""
            if given:
                raise ConfigError(f"{given}: is an option of a domain; give --domain too")
            return cls()
        domain = load_domain(domain) if isinstance(domain, str) else domain
        return cls(domain, domain.check_task(task), dict(options))

    @classmethod
    def again(
        cls,
        facts: Mapping[str, Any],
        path: Path,
        domain: Domain | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> ImageReader:
        """The reader that `facts` came from; `options` in place of its own.

        Raises:
            CapabilityError: its domain is not installed here.
        """
        if facts.get("domain") is None:
            if options:
                name = next(iter(options))
                raise ConfigError(f"--{name}: is an option of a domain, and {path} was made without one; omit it")
            return cls()
        try:
            domain = domain or load_domain(facts["domain"])
        except UnknownNameError as error:
            raise CapabilityError(
                f"{path}: made with domain '{facts['domain']}', which is not installed here; install its package"
            ) from error
        return cls(domain, facts.get("task") or "", {**(facts.get("options") or {}), **(options or {})})

    @property
    def channels(self) -> InputChannels | None:
        """Of the images, where they have more than three."""
        return None if self.domain is None else self.domain.channels(self.options)

    def facts(self, backbone: Backbone) -> dict[str, Any]:
        """For index.json: all that decides about an image's pixels."""
        return {
            "domain": None if self.domain is None else self.domain.name,
            "task": self.task,
            "options": self.options,
            "transform": transform_spec(self.transform(backbone)),
        }

    def read(self, paths: Sequence[str | Path]) -> DomainData:
        """Unlabelled images: files and folders, the domain's own sample, or without a domain a file of pairs.

        Raises:
            DataError: a path does not exist, or holds no image.
        """
        if self.domain is None:
            return _captioned(paths[0]) if is_pair_file(paths) else read_unlabelled(paths)
        if [str(path) for path in paths] == [SAMPLE]:
            return self.domain.sample_as(self.task, self.options)
        return images_of(self.domain, paths, self.options)

    def to_index(self, paths: Sequence[str | Path]) -> DomainData:
        """What an index of these is made of: the images, or what the domain divides them into.

        Raises:
            DataError: as `read`, or nothing of it can be read.
        """
        data = self.grouped(self.read(paths), paths)
        return data if self.domain is None else self.domain.to_index(data, **self.options)

    def grouped(self, data: DomainData, paths: Sequence[str | Path]) -> DomainData:
        """With the groups that a table beside the images tells, where the domain's searches ask for them and the images
        do not say them."""
        if self.domain is None or not self.domain.searches_others or any(item.group for item in data.items):
            return data
        named = self.options.get(OPTION) or AUTO
        with suppress(ConfigError, UnknownNameError, DataError):  # nothing tells
            return replace(group_images(data, paths, named), notes=data.notes)
        return data

    def part_item(self, item: Item, part: int) -> Item | None:
        """As `Domain.part_item`."""
        return None if self.domain is None else self.domain.part_item(item, part)

    def transform(self, backbone: Backbone, data: DomainData | None = None) -> Callable[[Decoded], Any]:
        """Decoded image -> pixels, nothing random; of data that were read, or of any."""
        if self.domain is None:
            return backbone.preprocess(False)
        domain = self.domain if data is None else self.domain.of(data)
        return domain.transforms(backbone, False, self.task)

    def one(self, path: str | Path, least_side: int | None = None) -> tuple[DomainData, Decoded]:
        """A single image, for a query.

        Args:
            least_side: that its decoder may reduce it to; None where it may not.

        Raises:
            DataError: no such file, several images in it, or it cannot be decoded.
        """
        data = None if self.domain is None else self.domain.read_query(path, **self.options)
        data = data or self.read([path])
        if len(data.items) != 1:
            raise DataError(f"--image {path}: holds {len(data.items)} images; give one")
        item = data.items[0]
        if self.domain is not None and self.domain.searches_others and not item.group:
            item = item.with_(group=_group_beside(Path(path), self.options.get(OPTION)))
        reduced = item if least_side is None else item.with_(decode={**item.decode, LEAST_SIDE: least_side})
        return data.with_items([item]), data.load(reduced)

    def loader(self, sources: Sequence[str], given: Sequence[str]) -> Callable[[Item], Decoded]:
        """What decodes indexed images again.

        Args:
            sources: files of the images.
            given: what the index was made of.
        """

        def gone(item: Item) -> Decoded:
            raise DataError(f"{item.source}: no longer there; restore it, or make the index again")

        if self.domain is not None and list(given) == [SAMPLE]:
            return self.read(given).load
        if self.domain is None and any(is_pair_file([path]) for path in given):  # of an index that was added to
            return _stored
        if self.domain is None and any(map(holds_pairs, sources)):
            return _unseen
        there = [source for source in dict.fromkeys(sources) if Path(source).is_file()]
        if not there:
            return gone
        load = self.read(there if self.domain is None else self.domain.to_read_again(there)).load
        return lambda item: load(item) if Path(item.source).is_file() else gone(item)


def _group_beside(path: Path, named: str | None) -> str | None:
    """What a table beside an image says that it belongs to.

    Args:
        named: the column that a user names, or None.
    """
    columns = columns_beside(path.parent, [path.name])
    names = () if columns is None else columns.names
    column = named if named in names else preferred_column(names)
    return None if columns is None or column is None else group_of(columns.cells(column).get(path.name))


def is_pair_file(paths: Sequence[str | Path]) -> bool:
    """Whether what is given is one file of image-text pairs."""
    return len(paths) == 1 and Path(paths[0]).suffix.lower() in PAIR_FILES


def _captioned(path: str | Path) -> DomainData:
    """The images of a file of image-text pairs, with what is said of them."""
    from ..data.pairs.reading import read_pairs

    pairs = read_pairs(path)
    return DomainData([pair_item(pair) for pair in pairs], (), _stored, "captions", pairs.name, pairs.skipped)


def pair_item(pair: Any) -> Item:
    """The image of a pair: which file, which part of it, what is said of it, and its split."""
    part = {} if pair.offset is None else {"offset": pair.offset, "size": pair.size}
    decode = {**part, **getattr(pair, "decode", {})}
    target = Captions(pair.captions) if pair.captions else None
    return Item(pair.id, Path(pair.source), decode, target, split=pair.split)


def _unseen(item: Item) -> Decoded:
    raise DataError(f"{item.id}: indexed by its stored features, without the picture")


def _stored(item: Item) -> Decoded:
    return decode_image(item.source, dict(item.decode))
