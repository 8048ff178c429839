"""Tars of pairs, and shards of features of them."""

import pytest

from vladapt.core.testing.curation import write_pairs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))
