"""Ray Data over descriptions of shards: each row names one, the class that maps them writes its part."""

import ray

from engine_trials.stage import Stage, arguments, missing


class Worker(Stage):
    def __call__(self, row):
        return {"shard": self.write(int(row["shard"]))}


out, address = arguments()
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
rows = [{"shard": shard} for shard in missing(out)]
if rows:
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=2)
    parts = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Worker, fn_constructor_args=(out,), compute=pool, num_cpus=1
    )
    for _ in parts.iter_rows():
        pass
