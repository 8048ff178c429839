"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ..contracts.adapter import FitReport
from ..runs.sections import is_share
from .retrieval_tables import retrieval_table, retrieval_verdict

SHOWN = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "mean_average_precision": "mean average precision",
    "ece": "calibration error (0 is best)",
}


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Zero-shot and adapted side by side, with the change and the interval of the accuracy (of retrieval, of R@1)."""
    if "test_texts" in metrics:
        return retrieval_table(metrics)
    images = metrics["test_images"]
    table = Table(title=f"{images} test image{'s' * (images != 1)}", title_justify="left")
    if metrics["zero_shot"] is None:
        return _alone(table, metrics["adapted"])
    for name in ("", "zero-shot", "adapted", "change"):
        table.add_column(name, justify="left" if not name else "right")
    before, after = metrics["zero_shot"] or {}, metrics["adapted"]
    decides = "auroc" if "gain_interval" in metrics else "accuracy"
    intervals = metrics.get("intervals") or {}
    for key in [*(k for k in SHOWN if k in after), *(k for k in after if k not in SHOWN)]:
        old, new = before.get(key), after[key]
        low_high = intervals if key == decides else {}
        table.add_row(
            SHOWN.get(key, key.replace("auroc/", "AUROC ").replace("_", " ")),
            _number(key, old) + _interval(low_high.get("zero_shot")),
            _number(key, new) + _interval(low_high.get("adapted")),
            "" if old is None or new is None else f"{new - old:+.1%}",
        )
    return table


def _alone(table: Table, scores: Mapping[str, Any]) -> Table:
    """Scores that have nothing to be compared with."""
    table.add_column("")
    table.add_column("score", justify="right")
    for key, value in scores.items():
        shown = "–" if value is None else f"{value:.1%}" if is_share(key) else f"{value:.4g}"
        table.add_row(key.replace("_", " "), shown)
    return table


def choice(report: FitReport) -> str:
    """One line on what the fit chose and on what, or "" where there was nothing to choose."""
    if not report.chosen:
        return ""
    return f"Chosen: {in_words(report.chosen)} – {report.chosen_on}."


def in_words(values: Mapping[str, Any]) -> str:
    """{"alpha": 2.1300000000000003} -> "alpha 2.13"."""
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def verdict(metrics: Mapping[str, Any]) -> str:
    """One sentence: is the difference to zero-shot more than chance? Of retrieval one a direction."""
    if "test_texts" in metrics:
        return retrieval_verdict(metrics)
    if metrics.get("gain_interval"):
        low, high = metrics["gain_interval"]
        words = "a gain beyond chance" if low > 0 else "a LOSS beyond chance" if high < 0 else "this could be chance"
        return f"AUROC changes by {low:+.1%} to {high:+.1%} (95 % bootstrap interval): {words}."
    test = metrics.get("mcnemar")
    if not test:
        return ""
    if not test["gained"] and not test["lost"]:
        return "The same images are right as with zero-shot: nothing gained, nothing lost."
    changed = f"{test['gained']} images right that zero-shot got wrong, {test['lost']} the other way round"
    if test["p_value"] >= 0.05:
        return f"{changed}: this difference could be chance (McNemar p = {test['p_value']:.2g})."
    kind = "gain" if test["gained"] > test["lost"] else "LOSS"
    return f"{changed}: a {kind} beyond chance (McNemar p = {test['p_value']:.2g})."


def comparison_table(summary: Sequence[Mapping[str, Any]]) -> Table:
    """Adapters down, data sets and shots across, mean and standard deviation over seeds."""
    metric = summary[0]["metric"] if summary else "accuracy"
    seeds = max((row["seeds"] for row in summary), default=0)
    shots = {row["shots"] for row in summary}
    title = f"{SHOWN.get(metric, metric)} in %, mean ± std over {seeds} seed{'s' * (seeds != 1)}"
    title += f", {_shots(*shots)}" if len(shots) == 1 else ""
    table = Table(title=title, title_justify="left")
    header, *rows = comparison_cells(summary)
    for name in header:
        table.add_column(name, justify="left" if name == "adapter" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def comparison_markdown(summary: Sequence[Mapping[str, Any]]) -> str:
    """The same table for a document."""
    header, *rows = comparison_cells(summary)
    ruler = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))


def comparison_cells(summary: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of text, the header first."""
    columns = sorted({(row["data"], row["shots"]) for row in summary})
    order = list(dict.fromkeys(row["data"] for row in summary))
    columns.sort(key=lambda column: (order.index(column[0]), column[1]))
    cells = {
        (row["adapter"], row["data"], row["shots"]): f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
        for row in summary
    }
    several, same = len(order) > 1, len({k for _, k in columns}) == 1
    names = [data if several and same else f"{data} {_shots(k)}".strip() for data, k in columns]
    adapters: dict[str, list[float]] = {}
    for row in summary:
        adapters.setdefault(row["adapter"], []).append(row["seconds"])
    header = ["adapter", *names, "seconds a fit"]
    rows = [[name, *(cells.get((name, data, k), "–") for data, k in columns)] for name in adapters]
    return [header, *([*row, _seconds(adapters[row[0]])] for row in rows)]


def predictions_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row an image: what it is, how sure, and the runners-up; of a domain's own task what it says of itself."""
    table = Table()
    if any("top" not in row for row in rows):
        return _summaries(table, rows)
    for name in ("image", "prediction", "confidence", "next"):
        table.add_column(name, justify="right" if name == "confidence" else "left", overflow="fold")
    for row in rows:
        if "labels" in row:
            label, sure = ", ".join(row["labels"]) or "none", ""
            rest = row["top"]
        else:
            label, sure = row["label"], f"{row['confidence']:.1%}"
            rest = row["top"][1:]
        table.add_row(row["id"], label, sure, ", ".join(f"{t['class']} {t['probability']:.1%}" for t in rest))
    return table


def _summaries(table: Table, rows: Sequence[Mapping[str, Any]]) -> Table:
    for name in ("image", "found"):
        table.add_column(name, overflow="fold")
    for row in rows:
        rest = {key: value for key, value in row.items() if key != "id"}
        table.add_row(row["id"], row.get("summary") or str(rest))
    return table


def findings_table(findings: Sequence) -> Table:
    """The doctor's table."""
    table = Table()
    for name in ("", "what", "found", "cure"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        table.add_row("ok" if finding.ok else "--", finding.what, finding.found, finding.cure)
    return table


def _shots(count: int) -> str:
    return f"{count} shot{'s' * (count != 1)}"


def _seconds(of_fits: Sequence[float]) -> str:
    mean = sum(of_fits) / len(of_fits)
    return f"{mean:.2f}" if mean < 10 else f"{mean:.0f}"


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no"}.get(value, "none")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(_value(inner) for inner in value)
    return str(value)


def _number(key: str, value: float | None) -> str:
    """Shares as percentages; a metric of a domain's own, which may be of any unit, as it is."""
    if value is None:
        return "–"
    return f"{value:.1%}" if key in SHOWN or key.startswith("auroc/") else f"{value:.4g}"


def _interval(bounds: Sequence[float] | None) -> str:
    return f" ({bounds[0]:.0%} to {bounds[1]:.0%})" if bounds else ""
