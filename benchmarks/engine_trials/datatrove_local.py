"""DataTrove's executor of one machine: a pool of two processes, completions as files."""

from datatrove.executor import LocalPipelineExecutor

from engine_trials.stage import SHARDS, Stage, arguments

out, _ = arguments()


def write(data, rank, world_size):
    yield Stage(out).write(rank)


if __name__ == "__main__":
    LocalPipelineExecutor([write], tasks=SHARDS, workers=2, logging_dir=f"{out}/_logs").run()
