"""DataTrove's executor on Ray: an actor and a placement group for every five tasks, completions as files."""

import ray
from datatrove.executor import RayPipelineExecutor

from engine_trials.stage import SHARDS, Stage, arguments

out, address = arguments()


def write(data, rank, world_size):
    yield Stage(out).write(rank)


ray.init(address=address, log_to_driver=False, logging_level="ERROR")
RayPipelineExecutor(
    [write], tasks=SHARDS, tasks_per_job=5, workers=2, mem_per_cpu_gb=0, logging_dir=f"{out}/_logs"
).run()
