"""Domains that read files wrongly: damaged ones, and new images."""

from __future__ import annotations

from dataclasses import replace

from broken_domains import Whole

from vladapt import DataError, Label
from vladapt.core.data.unlabelled import read_unlabelled


def decoding_error(data, item):
    """Why an item cannot be decoded; "" if it can."""
    try:
        data.load(item)
    except DataError as error:
        return str(error)
    return ""


class Silent(Whole):
    def read(self, path, task, **options):
        data = super().read(path, task, **options)
        return data.with_items([item for item in data.items if not decoding_error(data, item)])


class Trusting(Whole):
    def read(self, path, task, **options):
        data = super().read(path, task, **options)

        def load(item):
            if reason := decoding_error(data, item):
                raise ValueError("no") from DataError(reason)
            return data.load(item)

        return replace(data, load=load)


class Vague(Whole):
    def read(self, path, task, **options):
        data = super().read(path, task, **options)
        if any(decoding_error(data, item) for item in data.items):
            raise DataError("something is damaged")
        return data


class Knowing(Whole):
    def read_images(self, paths, **options):
        data = read_unlabelled(paths)
        return data.with_items([item.with_(id=item.source.name, target=Label(0)) for item in data.items])


class Blind(Whole):
    def read_images(self, paths, **options):
        return read_unlabelled(paths).with_items([])


class Alike(Whole):
    def read_images(self, paths, **options):
        data = read_unlabelled(paths)
        return data.with_items([item.with_(id="image") for item in data.items])
