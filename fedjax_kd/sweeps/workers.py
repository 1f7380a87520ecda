"""Who trains the parts of a sweep: this process, one after the other, or workers of Ray."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedjax_kd.errors import InputError
from fedjax_kd.sweeps import runner as sweep_runner
from fedjax_kd.sweeps.shard import (
    FederationLoader,
    Job,
    Shard,
    ShardHooks,
    federation_loader,
    train_shard,
)
from fedjax_kd.sweeps.study import Study


class WorkerHooks(NamedTuple):
    """Callbacks of training by workers: after each job, and whether to stop."""

    done: Callable[[Job], None]
    stop: Callable[[], bool]


_STOP = "stop"  # a file in the folder of a sweep that asks the workers to stop
_POLL = 0.5  # seconds


class Cluster(NamedTuple):
    """Workers of Ray: how many at a time, and the address of a cluster, if one is running."""

    workers: int
    address: str | None = None


def cluster(workers: int | None, address: str | None) -> Cluster | None:
    """The workers asked for; None for none.

    Raises:
      ValueError: if they cannot be had.
    """
    if workers is None:
        if address is not None:
            raise InputError("ray_address is given without workers: add --workers N.")
        return None
    if find_spec("ray") is None:
        raise InputError("Workers need Ray: pip install 'fedjax-kd[ray]', or leave out --workers.")
    # The devices are the workers'; this process only hands out work.
    jax.config.update("jax_platforms", "cpu")
    return Cluster(workers, address)


def train_here(
    study: Study,
    groups: Sequence[Sequence[Shard]],
    load: FederationLoader,
    watch: Callable[[Shard], ShardHooks],
) -> bool:
    """Trains groups in this process; whether all are finished."""

    def runner(jobs: Sequence[Job]) -> bool:
        return all(train_shard(study, job, load, watch(job.part)) for job in jobs)

    return all(sweep_runner.train_group(study, group, runner) for group in groups)


def train_by_ray(
    folder: Path,
    study: Study,
    groups: Sequence[Sequence[Shard]],
    by: Cluster,
    hooks: WorkerHooks,
) -> bool:
    """Trains groups by workers of Ray, a device each; whether all are finished.

    The folder must be one that all workers see. A worker that dies is replaced, and its part goes
    on from its last checkpoint.

    Args:
      folder: of the sweep.
      study: of that folder.
      groups: to be trained.
      by: the workers; without an address they are started on this machine.
      hooks: to stop means after the present blocks of rounds.
    """
    (folder / _STOP).unlink(missing_ok=True)
    with _connected(by) as ray:
        remote = _remote(ray, by.workers)

        def runner(jobs: Sequence[Job]) -> bool:
            waiting = {remote.remote(str(folder.absolute()), _plain(job)): job for job in jobs}
            reached = []
            while waiting:
                ready, _ = ray.wait(list(waiting), timeout=_POLL)
                if hooks.stop():
                    (folder / _STOP).touch()
                for reference in ready:
                    job = waiting.pop(reference)
                    reached.append(_result(ray, reference, job))
                    hooks.done(job)
            return all(reached)

        with ThreadPoolExecutor(len(groups)) as pool:
            each = pool.map(lambda group: sweep_runner.train_group(study, group, runner), groups)
            finished = all(list(each))
    (folder / _STOP).unlink(missing_ok=True)
    return finished


@contextmanager
def _connected(by: Cluster) -> Iterator[Any]:
    import ray

    options: dict[str, Any] = {"address": by.address, "include_dashboard": False}
    if by.address is None:
        options["num_cpus"] = by.workers
    with warnings.catch_warnings():
        # Ray forks to start its servers at once, where JAX's threads are not missed.
        warnings.filterwarnings("ignore", message=".*os.fork", category=RuntimeWarning)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    try:
        yield ray
    finally:
        ray.shutdown()


def _remote(ray: Any, workers: int) -> Any:
    """The function that a worker runs, on a GPU of its own where there are some."""
    resources = ray.cluster_resources()
    if resources.get("GPU", 0) >= 1:
        return ray.remote(num_gpus=1)(_work)
    return ray.remote(num_cpus=max(int(resources["CPU"]) // workers, 1))(_work)


def _plain(job: Job) -> tuple[str, tuple[int, ...], tuple[int, ...], int]:
    return job.part.folder.name, job.part.configs, job.live, job.until


def _work(folder: str, job: tuple[str, tuple[int, ...], tuple[int, ...], int]) -> bool:
    """In a worker: trains a part up to a round; whether it got there."""
    from fedjax_kd.engine import compile_cache

    compile_cache.enable()
    sweep = Path(folder)
    name, configs, live, until = job
    part = Shard(sweep / sweep_runner.PARTS / name, configs)
    watch = ShardHooks(lambda finished, rows: None, (sweep / _STOP).exists)
    return train_shard(sweep_runner.read_study(sweep), Job(part, live, until), _loader(), watch)


@functools.cache
def _loader() -> FederationLoader:
    """One loader a process: a worker that is handed several parts loads its data once."""
    return federation_loader()


def _result(ray: Any, reference: Any, job: Job) -> bool:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise InputError(
            f"The worker of {job.part.folder.name} failed: {type(cause).__name__}: {cause}. What "
            "is finished is kept; `fedjax-kd resume` goes on."
        ) from error
