"""What every kind of set holds to; a new file is found by itself."""

from __future__ import annotations

import pytest

from vladapt.core.contracts.options import options_of
from vladapt.core.registry import benchmark_class
from vladapt.core.registry.catalogue import benchmarks

KINDS = sorted(benchmarks())


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_is_no_set(kind, tmp_path):
    cls = benchmark_class(kind)
    assert cls.recognises(tmp_path) == (cls.fallback == 2)
    assert cls.recognises(tmp_path / "nowhere") == (cls.fallback == 2)


@pytest.mark.parametrize("kind", KINDS)
def test_options_have_a_default_and_a_line_of_help(kind):
    cls = benchmark_class(kind)
    assert cls.__doc__ and cls().folder is None
    assert all(each.help for each in options_of(cls)), "what is read is a field with init=False"
