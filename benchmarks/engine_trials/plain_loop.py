"""No engine: one shard after the other in this process."""

from engine_trials.stage import Stage, arguments, missing

out, _ = arguments()
stage = Stage(out)
for shard in missing(out):
    stage.write(shard)
