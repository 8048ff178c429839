"""The plug-in comes before every mm package, as in a user's script."""

from importlib.util import find_spec

if find_spec("mmdet"):
    import vladapt.domains.open_vocab  # noqa: F401
