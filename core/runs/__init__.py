"""What a fit leaves behind: the run folder, its report, and plots of many runs."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "folder": "Run",
        "plots": "accuracy_over_shots",
        "redaction": "Redaction",
        "run_sections": "Report TowerComparison page_template write_report",
        "sections": "CurveSection HeadlineSection ListSection Measure Number PictureSection "
        "TableSection Track VerdictSection plural",
    },
)
