"""What a fit leaves behind: the run folder, its report, and plots of many runs."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "folder": "Run",
        "plots": "accuracy_over_shots",
        "run_sections": "Report write_report",
    },
)
