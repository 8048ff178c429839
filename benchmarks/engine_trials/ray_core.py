"""Ray Core with the driver's own queue: actors that are not restarted, two tasks in flight each.

Only an actor that has answered gets tasks: one that waits for a slot, of a lost node or of another driver, would keep
them. A lost actor's tasks return to the queue. A shard whose actor was lost twice is halved until the image that kills
is found; that one is set aside, and the shard is run again without it.
"""

from collections import Counter, deque

import ray

from engine_trials.stage import SIZE, Stage, arguments, missing, set_aside

out, address = arguments()
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
Worker = ray.remote(num_cpus=1, max_restarts=0)(Stage)
queue = deque(("write", shard) for shard in missing(out))
losses: Counter = Counter()
starting: dict = {}  # reference -> actor without a slot
actors: dict = {}  # actor -> its tasks in flight, reference -> task, the one that runs first


def halves(task):
    """What is tried after a task lost its actor for the second time."""
    kind, what = task
    images = list(range(what * SIZE, (what + 1) * SIZE)) if kind == "write" else list(what)
    if len(images) == 1:
        set_aside(out, images[0])
        return [("write", images[0] // SIZE)]
    middle = len(images) // 2
    return [("read", tuple(images[:middle])), ("read", tuple(images[middle:]))]


def lost(actor):
    """Its tasks return; only the one that ran may have killed it."""
    running, *waiting = actors.pop(actor).values()
    queue.extendleft(waiting)
    losses[running] += 1
    if running[0] == "write" and losses[running] < 2:
        queue.append(running)
    else:
        queue.extend(halves(running))


while queue or any(actors.values()):
    if queue and not starting and len(actors) < ray.cluster_resources().get("CPU", 0):
        actor = Worker.remote(out)
        starting[actor.__ray_ready__.remote()] = actor
    for actor, tasks in actors.items():
        while queue and len(tasks) < 2:
            kind, what = task = queue.popleft()
            tasks[getattr(actor, kind).remote(list(what) if kind == "read" else what)] = task
    owners = {reference: actor for actor, tasks in actors.items() for reference in tasks}
    done, _ = ray.wait([*owners, *starting], timeout=1)
    for reference in done:
        actor = owners.get(reference) or starting.pop(reference)
        try:
            ray.get(reference)
            actors.setdefault(actor, {}).pop(reference, None)
        except ray.exceptions.RayActorError:
            if actor in actors:
                lost(actor)
