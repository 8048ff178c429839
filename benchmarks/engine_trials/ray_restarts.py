"""Ray Core with Ray's own queue: an `ActorPool`, Ray restarts lost actors and repeats their tasks."""

import ray
from ray.util import ActorPool

from engine_trials.stage import Stage, arguments, missing

out, address = arguments()
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
Worker = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(Stage)
pool = ActorPool([Worker.remote(out) for _ in range(2)])
for _ in pool.map_unordered(lambda actor, shard: actor.write.remote(shard), missing(out)):
    pass
