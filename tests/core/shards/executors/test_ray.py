"""The Ray executor on a cluster that is made up: which actors it asks for, what they are given, and what comes back."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from vladapt.core.engine.options import ShardOptions
from vladapt.core.errors import CapabilityError, ConfigError, DataError, VladaptError
from vladapt.core.runtime.files import claimed
from vladapt.core.shards import build_executor, drive, function_stage
from vladapt.core.shards import ray_connection as connection
from vladapt.core.shards.executors import ray as engine
from vladapt.core.shards.executors.ray import RayExecutor, RayWorker, needed, shown_share

from ..stages import STAGE, brightness
from ..test_driver import files, ids, serial

ADDRESS = ("10.0.0.1", 6379)


class Reference:
    """What a call of an actor will give; an exception where the actor is gone."""

    def __init__(self, call):
        self.call, self.over, self.result = call, False, None

    def end(self, result):
        self.over, self.result = True, result


class Handle:
    """An actor: its calls run in order, one each time that somebody waits, once a node has room for it."""

    def __init__(self, cluster, make, need):
        self.cluster, self.make, self.need, self.home, self.calls, self.gone = cluster, make, need, None, [], None

    def __getattr__(self, method):
        def remote(*arguments):
            reference = Reference((method, arguments))
            if self.gone:
                reference.end(self.gone)
            else:
                self.calls.append(reference)
                self.cluster.most_ahead = max(self.cluster.most_ahead, self.tasks)
            return reference

        return SimpleNamespace(remote=remote)

    @property
    def tasks(self):
        return sum(reference.call[0] == "run" for reference in self.calls)

    def lose(self, error):
        self.gone, self.home = error, None
        for reference in self.calls:
            reference.end(error)
        self.calls = []
        self.cluster.handles.remove(self)

    def step(self):
        if self.home is None:
            self.home = self.cluster.place(self)
            if self.home is None:
                return
            self.worker = self.make()
        if not self.calls:
            return
        reference = self.calls[0]
        method, arguments = reference.call
        if (error := self.cluster.dies(self, method, arguments)) is not None:
            return self.lose(error)
        if self.gone:
            return
        self.calls.pop(0)
        reference.end(self.home if method == "node" else getattr(self.worker, method)(*arguments))


class Cluster:
    """What the executor uses of Ray.

    Args:
        nodes: name -> cores and GPUs.
    """

    exceptions = ray.exceptions

    def __init__(self, **nodes):
        self.members = {name: {"CPU": float(cpus), "GPU": float(gpus)} for name, (cpus, gpus) in nodes.items()}
        self.handles, self.made, self.most_ahead, self.shut = [], 0, 0, 0
        self.dies = lambda handle, method, arguments: None

    def remote(self, kind):
        def options(max_restarts, max_task_retries, num_cpus, num_gpus):
            assert max_restarts == max_task_retries == 0
            return SimpleNamespace(remote=lambda *arguments: self.actor(kind, arguments, num_cpus, num_gpus))

        return SimpleNamespace(options=options)

    def actor(self, kind, arguments, cpus, gpus):
        self.made += 1
        self.handles.append(Handle(self, lambda: kind(*arguments), {"CPU": cpus, "GPU": gpus}))
        return self.handles[-1]

    def free(self, name):
        taken = [handle.need for handle in self.handles if handle.home == name]
        return {kind: size - sum(need[kind] for need in taken) for kind, size in self.members[name].items()}

    def place(self, handle):
        fits = (
            name for name in self.members if all(self.free(name)[kind] >= handle.need[kind] for kind in handle.need)
        )
        return next(fits, None)

    def lose(self, name):
        del self.members[name]
        for handle in [handle for handle in self.handles if handle.home == name]:
            handle.lose(ActorUnavailableError("socket closed", None))

    def nodes(self):
        return [{"NodeID": name, "Alive": True, "Resources": size} for name, size in self.members.items()]

    def available_resources(self):
        free = [self.free(name) for name in self.members]
        return {kind: sum(each[kind] for each in free) for kind in ("CPU", "GPU")}

    def wait(self, references, num_returns=1, timeout=None):
        if timeout and not any(reference.over for reference in references):
            for handle in list(self.handles):
                handle.step()
        return [each for each in references if each.over], [each for each in references if not each.over]

    def get(self, reference):
        if isinstance(reference, list):
            return [self.get(each) for each in reference]
        assert reference.over
        if isinstance(reference.result, Exception):
            raise reference.result
        return reference.result

    def kill(self, handle):
        if handle in self.handles:
            handle.lose(ActorDiedError())

    def shutdown(self):
        self.shut += 1


@pytest.fixture
def on(monkeypatch):
    """`on(cluster, **options)`: an executor on it."""

    def make(cluster, **options):
        monkeypatch.setattr(engine, "connect", lambda *arguments: (cluster, True))
        monkeypatch.setattr(engine, "head_of", lambda module: ADDRESS)
        monkeypatch.setattr(engine, "EVERY_S", 0.0)
        monkeypatch.setattr(RayExecutor, "_check_head", lambda self: None)
        return RayExecutor(**options)

    return make


@pytest.fixture
def reference(job_of, images):
    job = job_of(STAGE, images, "reference")
    serial(job)
    return files(job)


def test_files_are_those_of_a_serial_run(job_of, images, on, reference):
    cluster, job = Cluster(first=(2, 0), second=(1, 0)), job_of(STAGE, images)
    summary = drive(job, on(cluster))
    assert (summary.shards, summary.rows, cluster.made) == (5, 23, 3)
    assert files(job) == reference
    assert (cluster.handles, cluster.shut, job.work.place.listed("_state").keys()) == ([], 1, {"plan.json"})


def test_an_actor_has_at_most_two_tasks_and_none_before_its_slot(job_of, images, on):
    cluster = Cluster(only=(1, 0))
    waiting = []
    cluster.dies = lambda handle, method, arguments: waiting.extend(
        other.tasks for other in cluster.handles if other.home is None
    )
    drive(job_of(STAGE, images, shard_size=1), on(cluster, worker_cpus=1))
    assert cluster.most_ahead == 2
    assert not any(waiting)


def test_the_tasks_of_a_killed_process_return_and_the_one_that_ran_is_suspected(job_of, images, on, reference):
    cluster, died = Cluster(only=(2, 0)), []

    def once(handle, method, arguments):
        if method == "run" and not died:
            died.append(arguments[0].number)
            return ActorDiedError()

    cluster.dies = once
    executor = on(cluster)
    outcomes = []
    completed = executor.completed
    executor.completed = lambda timeout: outcomes.extend(made := completed(timeout)) or made
    job = job_of(STAGE, images)
    summary = drive(job, executor)
    assert [(each.task.number, each.running) for each in outcomes if each.lost] == [(0, True), (2, False)]
    assert (summary.shards, summary.unreadable, cluster.made) == (5, 0, 3)
    assert files(job) == reference


def test_an_image_that_kills_its_worker_is_the_only_one_missing(job_of, images, on):
    def reads(task, position):
        first, last = task.probe or (0, len(task))
        return task.number == 2 and first <= position < last and position not in task.skip

    cluster, job = Cluster(only=(2, 0)), job_of(STAGE, images)
    cluster.dies = lambda handle, method, arguments: (
        ActorDiedError() if method == "run" and reads(arguments[0], 3) else None
    )
    summary = drive(job, on(cluster))
    everything = sorted(str(path) for path in images.rglob("*.png"))
    assert (summary.rows, summary.unreadable) == (22, 1)
    assert ids(job) == [name for name in everything if name != everything[13]]


def test_the_loss_of_a_node_is_no_failure_of_its_shards(job_of, images, on, reference):
    cluster, lost = Cluster(first=(1, 0), second=(1, 0)), []

    def node_goes(handle, method, arguments):
        if method == "run" and handle.home == "second":
            lost.append(arguments[0].number)
            cluster.lose("second")

    cluster.dies = node_goes
    executor = on(cluster)
    outcomes = []
    completed = executor.completed
    executor.completed = lambda timeout: outcomes.extend(made := completed(timeout)) or made
    job = job_of(STAGE, images)
    assert drive(job, executor).shards == 5
    assert lost and not any(each.running for each in outcomes if each.lost)
    assert files(job) == reference


def test_a_shard_that_loses_every_node_is_suspected_in_the_end(job_of, images, on, monkeypatch):
    cluster = Cluster(only=(1, 0))
    cluster.dies = lambda handle, method, arguments: (
        ActorUnavailableError("socket closed", None) if method == "run" and 0 not in arguments[0].skip else None
    )
    summary = drive(job_of(STAGE, [images / "a" / "000.png"]), on(cluster))
    assert (summary.rows, summary.unreadable) == (0, 1)


def test_nodes_that_come_later_take_part(job_of, images, on):
    cluster, used = Cluster(first=(1, 0)), set()

    def joins(handle, method, arguments):
        if method == "run":
            used.add(handle.home)
            cluster.members.setdefault("later", {"CPU": 1.0, "GPU": 0.0})

    cluster.dies = joins
    drive(job_of(STAGE, images, shard_size=1), on(cluster))
    assert used == {"first", "later"}


def test_no_more_actors_than_processes_are_asked_for(job_of, images, on):
    cluster = Cluster(only=(8, 0))
    drive(job_of(STAGE, images, shard_size=1), on(cluster, processes=3))
    assert cluster.made == 3


@pytest.mark.parametrize(
    "cpus, gpus, nodes, expected",
    [
        (None, None, [(8, 0)], (1, 0)),
        (4, None, [(8, 0)], (4, 0)),
        (None, None, [(8, 0), (32, 4)], (8, 1)),  # cores of the machine that has the GPU
        (None, 0.5, [(16, 2)], (4, 0.5)),
        (None, 0.25, [(2, 2)], (1, 0.25)),
        (None, 0, [(16, 2)], (1, 0)),
    ],
)
def test_an_actor_holds_a_gpu_with_its_share_of_cores_or_one_core(cpus, gpus, nodes, expected):
    sizes = [{"CPU": float(count), **({"GPU": float(cards)} if cards else {})} for count, cards in nodes]
    assert needed(cpus, gpus, sizes) == dict(zip(("CPU", "GPU"), expected))


def test_fractions_of_gpus_are_filled(job_of, images, on):
    cluster, together = Cluster(only=(8, 2)), []
    cluster.dies = lambda handle, method, arguments: together.append(
        sum(other.home is not None for other in cluster.handles)
    )
    drive(job_of(STAGE, images, shard_size=1), on(cluster, worker_gpus=0.5))
    assert max(together) == 4


def test_a_cluster_without_a_free_slot_is_told_once_and_waited_for(job_of, images, on, monkeypatch):
    monkeypatch.setattr(engine, "SLOT_S", 0.0)
    cluster, lines, looks = Cluster(only=(2, 0)), [], []
    other = Handle(cluster, object, {"CPU": 2, "GPU": 0})
    other.home = "only"
    cluster.handles.append(other)
    free = cluster.available_resources

    def ends_later():
        looks.append(None)
        if len(looks) == 5:
            cluster.handles.remove(other)
        return free()

    cluster.available_resources = ends_later
    assert drive(job_of(STAGE, images), on(cluster, say=lines.append)).shards == 5
    assert len(lines) == 1 and "each needs 1 CPU, and of the cluster nothing is free" in lines[0]


def test_a_worker_that_fits_no_node_ends_the_job(job_of, images, on, monkeypatch):
    monkeypatch.setattr(engine, "SLOT_S", 0.0)
    cluster = Cluster(first=(4, 0), second=(2, 0))
    with pytest.raises(CapabilityError, match=r"needs 1 CPU and 1 GPU; the nodes have 2 CPUs, 4 CPUs; lower"):
        drive(job_of(STAGE, images), on(cluster, worker_gpus=1))
    assert cluster.handles == []


def test_a_stage_that_cannot_be_started_ends_the_job_with_its_reason(job_of, images, on):
    class Failing(type(STAGE)):
        def start(self, threads):
            raise OSError("weights are missing")

    stage = Failing("failing", brightness, {"brightness": "float"})
    with pytest.raises(VladaptError, match="weights are missing"):
        drive(job_of(stage, images), on(Cluster(only=(2, 0))))


def test_workers_that_die_while_they_start_end_the_job(job_of, images, on):
    cluster = Cluster(only=(1, 0))
    cluster.dies = lambda handle, method, arguments: ActorDiedError() if method == "start" else None
    with pytest.raises(VladaptError, match="3 workers died before they were ready"):
        drive(job_of(STAGE, images), on(cluster))
    assert cluster.made == 3


def test_a_cluster_that_is_gone_ends_the_job(job_of, images, on, monkeypatch):
    executor = on(Cluster(only=(1, 0)))
    monkeypatch.undo()
    monkeypatch.setattr(engine, "connect", lambda *arguments: (Cluster(only=(1, 0)), True))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(engine, "head_of", lambda module: unused.getsockname())
        with pytest.raises(VladaptError, match="is gone; finished shards stay"):
            drive(job_of(STAGE, images), executor)


def worker_of(job):
    worker = RayWorker(job.work, 1)
    worker.state = job.work.stage.start(1)
    return worker


def test_marks_of_killed_drivers_are_removed_and_that_of_one_at_work_stays(job_of, images, on, tmp_path):
    job = job_of(STAGE, images)
    state = Path(job.work.place.root) / "_state"
    for name in ("seen-killed", "seen-at-work"):
        (state / name).touch()
    with claimed(state / "seen-at-work"):
        drive(job, on(Cluster(only=(1, 0))))
    assert [path.name for path in state.glob("seen-*")] == ["seen-at-work"]


def test_a_node_that_does_not_see_the_results_is_named(job_of, images):
    worker = worker_of(job_of(STAGE, images))
    error = worker.start("_state/seen-elsewhere", ".", engine.installed_version("vladapt"))
    assert f"node {socket.gethostname()} does not see it; give a path that all nodes share" in str(error)


def test_a_node_that_does_not_see_the_images_is_named_and_no_image_listed(job_of, tmp_path, encoded):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "1.png").write_bytes(encoded(1))
    job = job_of(STAGE, folder)
    folder.rename(tmp_path / "elsewhere")
    worker = worker_of(job)
    for _ in range(2):  # the next task fares alike
        report, error = worker.run(next(job.manifest.plan(5)))
        assert report is None and not isinstance(error, DataError)
        assert str(error).startswith(f"{folder}: node {socket.gethostname()} does not see it")


def test_another_version_of_vladapt_on_a_node_is_refused(job_of, images):
    error = worker_of(job_of(STAGE, images)).start("", ".", "0.0.1")
    assert "the driver 0.0.1; install the same" in str(error)


def test_what_a_stage_raises_comes_back_as_one_of_our_errors(job_of, images):
    class Failing(type(STAGE)):
        def run(self, state, rows, batch_size):
            raise RuntimeError("two\nlines")

    job = job_of(Failing("failing", brightness, {"brightness": "float"}), images)
    report, error = worker_of(job).run(next(job.manifest.plan(5)))
    assert report is None and type(error) is VladaptError and "\n" not in str(error)


@pytest.mark.parametrize("options", [{"processes": 0}, {"worker_cpus": -1}, {"worker_gpus": 1.5}, {"worker_gpus": -1}])
def test_sizes_that_no_worker_has_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options)).replace("_", "-")):
        build_executor("ray", **options)


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "head:x", ":6379"])
def test_addresses_of_another_kind_are_refused(address):
    with pytest.raises(ConfigError, match="give auto or HOST:PORT"):
        connection.connect(address)


def test_an_address_without_a_cluster_is_told_at_once():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="no Ray cluster answers there"):
            connection.connect(f"127.0.0.1:{unused.getsockname()[1]}")


def test_other_versions_on_the_cluster_are_named():
    theirs = {"ray_version": "2.9.0", "python_version": "3.8.1"}
    with pytest.raises(RuntimeError) as raised:
        ray._private.utils.check_version_info(theirs, "here")
    message = str(connection._explained(raised.value, "10.0.0.1:6379"))
    assert "the cluster runs Ray 2.9.0 and Python 3.8.1, this process Ray " in message and "\n" not in message


def test_shares_are_told_in_words():
    assert shown_share({"CPU": 4.0, "GPU": 0.5, "memory": 1e9}) == "4 CPUs and 0.5 GPU"
    assert shown_share({"CPU": 1.0, "GPU": 0.0}) == "1 CPU"


def test_without_ray_the_way_to_install_it_is_told(monkeypatch):
    monkeypatch.setattr("vladapt.core.runtime.process.find_spec", lambda name: None)
    with pytest.raises(CapabilityError, match=r"pip install 'vladapt\[ray\]'"):
        connection.connect("")


def test_a_stage_of_another_function_is_sent_whole():
    stage = function_stage(brightness, {"brightness": "float"}, {"scale": 2})
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps(stage)) == stage


def test_models_for_the_cpu_take_no_gpu_unless_asked_to():
    told = print
    assert ShardOptions(engine="ray").executor("cpu", told).asked == (None, 0)
    assert ShardOptions(engine="ray").executor("auto", told).asked == (None, None)
    assert ShardOptions(engine="ray", worker_gpus=0.5).executor("cpu", told).asked == (None, 0.5)


@pytest.mark.parametrize("option", [{"address": "auto"}, {"worker_cpus": 2}, {"worker_gpus": 0.5}])
def test_options_of_a_cluster_are_refused_without_one(option):
    with pytest.raises(ConfigError, match="is for a cluster; add --engine ray"):
        ShardOptions(**option).executor("auto", print)
