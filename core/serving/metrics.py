"""What a server counts, as Prometheus reads it; of several processes the sum."""

from __future__ import annotations

import os
from collections.abc import Iterable

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of the library: where processes keep what they count, so that each can tell of all."""
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one process; nothing that they hold names an image or a client.

    Args:
        dead: processes that ended: what they had waiting is not waiting any more.
    """

    def __init__(self, dead: Iterable[int] = ()):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, multiprocess
        from prometheus_client import disable_created_metrics as no_times_of_creation

        no_times_of_creation()
        for process in dead if FOLDER in os.environ else ():
            multiprocess.mark_process_dead(process)
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("vladapt_requests", "Requests to /predict by status.", ["status"], registry=registry)
        self.images = Counter("vladapt_images", "Images answered, or refused.", ["outcome"], registry=registry)
        self.seconds = Histogram(
            "vladapt_request_seconds", "Time of requests to /predict.", registry=registry, buckets=SECONDS
        )
        self.batch = Histogram(
            "vladapt_batch_images", "Images that went through the model at once.", registry=registry, buckets=IMAGES
        )
        self.model = Counter("vladapt_model_seconds", "Time in the model.", registry=registry)
        self.waiting = Gauge(
            "vladapt_waiting_images", "Images not yet answered.", registry=registry, multiprocess_mode="livesum"
        )

    def answered(self, count: int, seconds: float) -> None:
        """Tell of a batch."""
        self.batch.observe(count)
        self.model.inc(seconds)

    def text(self) -> tuple[bytes, str]:
        """In Prometheus' format, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, multiprocess

        registry = self._registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST
