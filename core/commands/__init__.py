"""The commands, one file per group; `cli.py` registers them. Nothing heavy is imported before a command needs it."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "options": "FromEncoding FromOptions Json",
        "tables": "echo echo_skipped print_json reporter",
    },
)
