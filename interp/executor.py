"""Jobs, one after the other in this process or on the workers of a Ray cluster, and what follows from their results.

A job is pure: what it leaves, files written whole under names that tell their content, depends on its arguments alone.
So the files are the same wherever and however often jobs run, and work that was killed goes on by running the same jobs
again: each looks first whether its file is there. :class:`Work` says which jobs follow from what others found.

What is dear to load, a model, lies in one object, the *state*. Each worker has its own: it is sent without what
it holds, and keeps what a job loads for the next one. Workers work in the caller's folder, on storage that all share.
There is no scheduler here: Ray places the workers, restarts nothing, and is asked once more for a job that failed.
"""

import contextlib
import datetime
import importlib.util
import json
import os
import pickle
import platform
import re
import socket
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from interp import __version__
from interp.errors import InputError, JobsFailedError, one_line
from interp.progress import whole_steps

TRIES = 3  # how often a job is begun that fails, or whose worker dies
RAY_SETTINGS: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
"""Ray says nothing by itself."""
CONNECT_SECONDS = 5.0  # in which a cluster must answer


@dataclass(frozen=True)
class JobProgress:
    """Where a job reports what share of it is done, and lines for who watches."""

    share: Callable[[float], None]
    say: Callable[[str], None]


@dataclass(frozen=True)
class Job:
    name: str  # as the log and errors call it
    do: Callable[..., Any]  # called as ``do(state, *args, progress)``; found by its name in the other process
    args: tuple = ()  # small, and picklable
    place: tuple[str, ...] = ()  # what must be loaded for it, the dearest first: a worker goes on with what it has
    steps: int = 1  # of the progress bar


@dataclass(frozen=True)
class Workers:
    """Where jobs run. :class:`InputError`: another word."""

    # ``serial``, in this process; ``ray``, on the cluster that ``RAY_ADDRESS`` names, else on the one on this machine,
    # which is started if there is none; or ``ray://HOST:PORT``
    address: str = "serial"
    cpus: int = 1  # of each worker, and its threads
    gpus: float = 0.0  # of each worker; a share lets several use one

    def __post_init__(self) -> None:
        if not re.fullmatch(r"serial|ray|ray://.+:\d+", self.address):
            raise InputError(f"workers {self.address}: use serial, ray or ray://HOST:PORT")

    @property
    def serial(self) -> bool:
        return self.address == "serial"


SERIAL = Workers()


@dataclass(frozen=True)
class Shard:
    """One part of the work, of those that the tasks of a job array do: every ``of``-th job."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """``2/8`` is the second of eight. :class:`InputError`: anything else."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        number, of = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= of:
            raise InputError(f"shard {text}: write I/N, such as 2/8, with I from 1 to N")
        return cls(number, of)

    def takes(self, place: int) -> bool:
        """Whether the job at this place in the list of all belongs to it."""
        return place % self.of == self.number - 1

    def share(self, jobs: Iterable[Job]) -> list[Job]:
        return [job for place, job in enumerate(jobs) if self.takes(place)]

    def log(self, folder: Path) -> Path:
        """Where its jobs are logged, of results in this folder."""
        return folder / ("log.jsonl" if self.of == 1 else f"log-{self.number}-of-{self.of}.jsonl")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def run(
    state: Any,
    jobs: deque[Job],
    *,
    workers: Workers = SERIAL,
    advance: Callable[[int], None] = lambda _steps: None,
    say: Callable[[str], None] = lambda _line: None,
    log: Path | None = None,
) -> Iterator[tuple[Job, Any]]:
    """Do the jobs in the queue, and those that are put before them meanwhile; yields each with what it gave.

    A job that raised :class:`InputError` gave that error. Here any other error ends the work at once. On workers the
    job is begun anew, on another worker where there is one; what fails :data:`TRIES` times is named when all else is
    done.

    Args:
        advance, say: told steps of a bar, and what jobs say.
        log: one line of JSON is added to it for each job that was not refused: where it ran, when, how long, and how
            it failed.

    Raises:
        InputError: no such cluster, or it has no place for a worker.
        JobsFailedError: some jobs failed.
    """
    for job, done in (_here if workers.serial else _on_ray)(state, jobs, workers, advance, say):
        if log is not None and not isinstance(done.value, InputError):
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"job": job.name, **done.log()}) + "\n")
        if done.failure is None:
            yield job, done.value


Steps = Generator[Iterable["Job | Work"], list[Any], Any]


@dataclass(frozen=True)
class Work:
    """Jobs that follow from each other."""

    # yields jobs, and parts of the work, that do not depend on each other; is sent what these gave, in their order, and
    # goes on; returns what it all came to. What raised :class:`InputError` gave that error
    does: Steps
    steps: int  # of the progress bar, those of its jobs and parts included; what these do not take is told at its end

    @classmethod
    def all(cls, parts: "Sequence[Job | Work]") -> "Work":
        """All of these, which gives what each gave."""

        def does() -> Steps:
            return (yield parts)

        return cls(does(), sum(part.steps for part in parts))


def checked(results: list) -> list:
    """The results, none of which is an error: the first that is one is raised."""
    for result in results:
        if isinstance(result, InputError):
            raise result
    return results


def run_work(
    state: Any,
    work: Work,
    stage: contextlib.AbstractContextManager[Callable[[int], None]],
    *,
    workers: Workers = SERIAL,
    say: Callable[[str], None] = lambda _line: None,
    log: Path | None = None,
) -> Any:
    """Do all jobs of the work (:func:`run`), and return what it returns; what follows from a job comes before others.
    ``stage``: of the work's steps (:mod:`interp.progress`)."""
    results: list[Any] = []
    follow: dict[int, Callable[[Any], list[Job]]] = {}

    def end(result: Any) -> list[Job]:
        results.append(result)
        return []

    with stage as advance:
        jobs = deque(_begin(work, end, follow, advance))
        for job, value in run(state, jobs, workers=workers, advance=advance, say=say, log=log):
            jobs.extendleft(reversed(follow.pop(id(job))(value)))
    return checked(results)[0]


def _begin(
    work: Work, give: Callable[[Any], list[Job]], follow: dict[int, Callable], advance: Callable[[int], None]
) -> list[Job]:
    """The jobs with which a work begins. ``give``: takes what the work returns, and gives the jobs that follow from
    that. ``follow``: by the ``id`` of a job, what takes its result and gives the jobs that follow."""
    left = work.steps

    def go_on(results: Any) -> list[Job]:
        nonlocal left
        try:
            parts = list(work.does.send(results))
        except (StopIteration, InputError) as end:
            advance(max(0, left))
            return give(end.value if isinstance(end, StopIteration) else end)
        results = [None] * len(parts)
        missing = len(parts)

        def take(place: int, value: Any) -> list[Job]:
            nonlocal missing
            results[place] = value
            missing -= 1
            return [] if missing else go_on(results)

        jobs: list[Job] = []
        for place, part in enumerate(parts):
            left -= part.steps
            if isinstance(part, Job):
                follow[id(part)] = partial(take, place)
                jobs.append(part)
            else:
                jobs += _begin(part, partial(take, place), follow, advance)
        return jobs if parts else go_on([])

    return go_on(None)


@dataclass
class _Done:
    """What became of a job, and where."""

    value: Any = None
    failure: str | None = None  # the traceback of an error, with the error in one line at its end
    unfit: str = ""  # why the worker can do no job at all
    said: list[str] = field(default_factory=list)
    seconds: float = 0.0
    host: str = field(default_factory=platform.node)
    process: int = field(default_factory=os.getpid)

    def log(self) -> dict:
        ended = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {"host": self.host, "process": self.process, "seconds": round(self.seconds, 3), "ended": ended}
        return record if self.failure is None else record | {"failure": self.failure}


def _do(state: Any, job: Job, listener: JobProgress) -> _Done:
    began, done = time.perf_counter(), _Done()
    try:
        done.value = job.do(state, *job.args, listener)
    except InputError as error:
        done.value = error
    done.seconds = time.perf_counter() - began
    return done


def _here(
    state: Any, jobs: deque[Job], _workers: Workers, advance: Callable[[int], None], say: Callable[[str], None]
) -> Iterator[tuple[Job, _Done]]:
    while jobs:
        job = jobs.popleft()
        tell = whole_steps(advance, job.steps)
        done = _do(state, job, JobProgress(tell, say))
        tell(1.0)
        yield job, done


class _Worker:
    """The actor: one process with a state of its own."""

    def begin(self, state: bytes, version: str, folder: str, threads: int) -> None:
        """Unpack a state, once this process is known to fit."""
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before the state or a job imports torch
        self.state, self.unfit = None, ""
        try:
            os.chdir(folder)
        except OSError:
            self.unfit = f"there is no folder {folder}: workers need storage that all machines share"
        if version != __version__:
            self.unfit = f"it has interp {__version__}, and the caller {version}: install the same everywhere"
        if not self.unfit:
            try:
                self.state = pickle.loads(state)
            except Exception as error:
                self.unfit = f"it cannot unpack the work: {type(error).__name__}: {one_line(error)}"

    def do(self, job: Job) -> _Done:
        if self.unfit:
            return _Done(unfit=f"worker on {platform.node()}: {self.unfit}")
        said: list[str] = []
        try:
            done = _do(self.state, job, JobProgress(lambda _share: None, said.append))
        except Exception as error:
            last = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
            done = _Done(failure=f"{traceback.format_exc()}{last}{one_line(error)}")
        done.said = said
        return done


@dataclass
class _Actor:
    handle: Any
    place: tuple[str, ...] = ()


def _on_ray(
    state: Any, jobs: deque[Job], workers: Workers, advance: Callable[[int], None], say: Callable[[str], None]
) -> Iterator[tuple[Job, _Done]]:
    if not jobs:
        return
    with _cluster(workers) as ray:
        packed, most = ray.cloudpickle.dumps(state), _places(ray, workers)
        idle: list[_Actor] = []
        busy: dict[Any, tuple[_Actor, Job]] = {}
        tries: Counter[str] = Counter()
        failed: dict[str, str] = {}

        try:
            while jobs or busy:
                while jobs and (idle or len(busy) < most):
                    if not idle:
                        idle.append(_Actor(_hire(ray, workers)))
                        idle[-1].handle.begin.remote(packed, __version__, os.getcwd(), workers.cpus)
                    actor = idle.pop()
                    job = _next(jobs, actor.place)
                    actor.place = job.place
                    busy[actor.handle.do.remote(job)] = (actor, job)
                [ready], _ = ray.wait(list(busy), num_returns=1)
                actor, job = busy.pop(ready)
                try:
                    done = ray.get(ready)
                    idle.append(actor)
                except ray.exceptions.RayError as error:
                    died = isinstance(error, ray.exceptions.RayActorError)
                    why = "its worker died" if died else type(error).__name__
                    done = _Done(failure=f"{why}: {one_line(error)}", host="", process=0)
                    ray.kill(actor.handle)
                    most = min(most, _places(ray, workers))
                if done.unfit:
                    raise InputError(f"workers {workers.address}: {done.unfit}")
                for line in done.said:
                    say(line)
                if done.failure is None:
                    advance(job.steps)
                else:
                    tries[job.name] += 1
                    if tries[job.name] < TRIES:
                        jobs.append(job)
                    else:
                        failed[job.name] = done.failure.splitlines()[-1]
                yield job, done
        finally:
            for actor, _ in busy.values():
                ray.kill(actor.handle)
            for actor in idle:
                _dismiss(ray, actor.handle)
        if failed:
            raise JobsFailedError(failed, TRIES)


def _hire(ray: Any, workers: Workers) -> Any:
    """A new process; tests keep some, as most of what a short job costs is importing torch."""
    return ray.remote(_Worker).options(num_cpus=workers.cpus, num_gpus=workers.gpus).remote()


def _dismiss(ray: Any, worker: Any) -> None:
    ray.kill(worker)


def _next(jobs: deque[Job], place: tuple[str, ...]) -> Job:
    """Take the first of those jobs for which most is loaded already."""
    loaded = [len(os.path.commonprefix([job.place, place])) for job in jobs]
    best = loaded.index(max(loaded))
    job = jobs[best]
    del jobs[best]
    return job


@contextlib.contextmanager
def _cluster(workers: Workers) -> Iterator[Any]:
    """Ray, connected; of a cluster that was started here nothing is left."""
    if importlib.util.find_spec("ray") is None:
        raise InputError(f"workers {workers.address}: Ray is not installed here: pip install 'interp-codes[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anyone
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if "RAY_AUTH_TOKEN" in os.environ or token.is_file():
        # where there is a token `ray start` asks for it, and Ray itself does not show it to an address that it is given
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = None if workers.address == "ray" else workers.address
    _check_answers(workers.address, address or os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(address, **RAY_SETTINGS)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"workers {workers.address}: no Ray cluster there: {one_line(error)}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(workers: str, address: str) -> None:
    """Ray itself asks an address where nothing is for half a minute to two."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"workers {workers}: nothing answers at {host}:{port} ({one_line(error)})") from None


def _places(ray: Any, workers: Workers) -> int:
    """How many workers the cluster has room for, all of it taken."""
    resources = ray.cluster_resources()
    needed = {"CPU": float(workers.cpus), "GPU": workers.gpus}
    most = min(int(resources.get(kind, 0) / amount + 1e-9) for kind, amount in needed.items() if amount)
    if not most:
        has = ", ".join(f"{resources.get(kind, 0):g} {kind}" for kind in needed)
        need_text = ", ".join(f"{amount:g} {kind}" for kind, amount in needed.items() if amount)
        raise InputError(f"workers {workers.address}: a worker needs {need_text}, and the cluster has {has}")
    return most
