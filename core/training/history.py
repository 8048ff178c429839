"""What a run looked like: the means of each epoch, for reports and tables."""

from __future__ import annotations

from typing import Any


class History:
    """Means of the values of the steps, an epoch a row."""

    def __init__(self):
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._count = 0
        self._epoch = 0

    def start_epoch(self, epoch: int) -> None:
        """The next values belong to this epoch, from 0."""
        self._close()
        self._epoch, self._sums, self._count = epoch, {}, 0

    def add(self, values: dict[str, float]) -> None:
        """The values of a step."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def end_epoch(self, **values: float) -> None:
        """Close the epoch, with values of its end."""
        self._close()
        if self.rows:
            self.rows[-1].update(values)

    def finished(self) -> list[dict[str, float]]:
        """All rows, the last epoch's among them."""
        self._close()
        return self.rows

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        return {"rows": self.rows, "sums": self._sums, "count": self._count, "epoch": self._epoch}

    def restore(self, state: dict[str, Any]) -> None:
        """As it was when `state` was taken."""
        self.rows, self._sums = list(state["rows"]), dict(state["sums"])
        self._count, self._epoch = state["count"], state["epoch"]

    def _close(self) -> None:
        if not self._count:
            return
        means = {name: total / self._count for name, total in self._sums.items()}
        self.rows.append({"epoch": self._epoch + 1, **means, "lr": self._sums["lr"] / self._count})
        self._sums, self._count = {}, 0
