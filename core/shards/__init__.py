"""Plans of idempotent shard tasks: the same work in one process, in several, or on a cluster, and where it was killed.

A manifest lists the inputs, a plan cuts it into tasks, a stage says what is made of a row, and the files in a place say
what is done. Engines only hand out tasks: exactly once comes from the names of the files.
"""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "driver": "Job Summary drive",
        "executors": "Completed Executor build_executor",
        "manifest": "Manifest",
        "place": "ShardPlace",
        "progress": "Progress jobs_below",
        "stage": "Stage Unreadable function_stage",
        "task": "ShardTask",
    },
)
