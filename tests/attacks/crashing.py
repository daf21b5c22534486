"""Kill a job at the n-th moment at which it changes its folder, for every n.

    python crashing.py JOB FOLDER            kills it (SIGKILL) in processes forked from this one, at every n and again
                                             while it recovers; prints what it found as JSON. CASEJAX_CRASH_STRIDE=1
                                             takes every n, the default a third of them
    python crashing.py JOB FOLDER --states   starts it again from everything that a kill can leave, in this process

A moment is an opening for writing, a rename, a removal, a folder that is made, a lock file's or a file's sync: what
Python's audit hooks and `os.fsync` tell. The process is killed before the change: no cleaning up runs.

What a killed process leaves is its folder as it was at that moment. `every_state` therefore copies the folder at every
moment instead, starts the job again from each copy, copies at every moment of that recovery too, and goes on until no
new state is found: every sequence of kills, however long. Test_crashes.py compares the copies with real kills.
"""

import datetime
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from jobs import JOBS, WITH_JAX, bring_jax, keep_programs, likeness, sources, tree

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree"}
MOST_STATES = 500
"""States after which something must differ from run to run that should not."""


class Moments:
    """Counts the changes of a folder, and calls a function with their number before each."""

    def __init__(self, folder: Path, before: Callable[[int], None]) -> None:
        self.folder, self.before, self.count, self.busy = str(folder.resolve()), before, 0, False
        self.on = True
        sync = os.fsync

        def counted(descriptor: int) -> None:
            self.change()
            sync(descriptor)

        os.fsync = counted
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
        elif event not in CHANGES:
            return
        else:
            path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(path)).startswith(self.folder):
            self.change()

    def change(self) -> None:
        if self.on:
            self.count += 1
            self.before(self.count)


def killer(folder: Path, at: int) -> Moments:
    """Ends this process before the change of that number; 0 only counts."""

    def kill(number: int) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return Moments(folder, kill)


def forked(job, folder: Path, at: int) -> tuple[int, int]:
    """Whether a job in a process of its own was killed, and the changes that it made."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            counts = killer(folder, at)
            job(folder)
            os.write(write, str(counts.count).encode())
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    os.close(write)
    counted = os.read(read, 20)
    os.close(read)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, int(counted or 0)


def apart(function, *arguments):
    """What a function of this module returns in a process of its own, so that this one starts no threads."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(write, json.dumps(function(*arguments)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with open(read) as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(answer)


def fresh(place: Path, source: Path | None = None) -> None:
    shutil.rmtree(place, ignore_errors=True)
    if source is None:
        place.mkdir(parents=True)
    else:
        shutil.copytree(source, place, symlinks=True)


def every_moment(name: str, folder: Path) -> dict[str, object]:
    """Kill at every moment, once and once more while recovering; what does not end as an unkilled job does."""
    job, place = JOBS[name], folder / "place"  # always the same: keys of packed features stand for paths
    fresh(place)
    if name in WITH_JAX:
        bring_jax()
        compare = lambda place: apart(tree, place)  # noqa: E731
        apart(lambda: str(sources(place)))
    else:
        compare = tree
        job(place)  # so that the processes have imported what they need
    fresh(place)
    status, count = forked(job, place, 0)
    assert status == 0, "the job fails by itself"
    want, wrong, tried = compare(place), [], 0
    stride = int(os.environ.get("CASEJAX_CRASH_STRIDE", "3"))
    for at in range(1 + datetime.date.today().day % stride, count + 1, stride):
        for again in (0, at) if name not in WITH_JAX else (0,):  # the second while recovering, as late
            fresh(place)
            status, _ = forked(job, place, at)
            if status != -signal.SIGKILL:
                wrong.append(f"{at}: ended with {status} instead of being killed")
            if again:
                forked(job, place, again)
            status, _ = forked(job, place, 0)
            tried += 1
            got = compare(place)
            if status or got != want:
                wrong.append(f"{at}, then {again}: status {status}, {difference(got, want)}")
    return {"moments": count, "tried": tried, "wrong": wrong}


def every_state(name: str, folder: Path) -> dict[str, object]:
    """Run a job from every state in which any number of kills can leave its folder; what does not end as unkilled.

    A state is met once: what one moment and the next leave alike is run from once.
    """
    job, place, kept = JOBS[name], folder / "place", folder / "kept"
    fresh(place)
    if name in WITH_JAX:
        bring_jax()
        keep_programs()
    sources(place)
    kept.mkdir(exist_ok=True)
    ways: dict[str, tuple[int, ...]] = {}  # to each state: the moments of the kills that lead there
    waiting: list[str] = []
    way: tuple[int, ...] = ()

    def keep(number: int) -> None:
        moments.on = False
        try:
            state = settled(lambda: likeness(place))
            if state not in ways:
                settled(lambda: fresh(kept / state, place))
                ways[state] = (*way, number)
                waiting.append(state)
        finally:
            moments.on = True

    moments = Moments(place, keep)

    def end() -> tuple[dict[str, str], str]:
        moments.count, fault = 0, ""
        try:
            job(place)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        moments.on = False
        found = tree(place)
        moments.on = True
        return found, fault

    moments.on = False
    fresh(place)
    moments.on = True
    want, fault = end()
    count, wrong, recovering = moments.count, [], 0
    if fault:
        return {"moments": count, "states": 0, "longest": 0, "wrong": [f"the job fails by itself: {fault}"]}
    while waiting:
        assert len(ways) < MOST_STATES, list(ways.values())[-5:]
        state = waiting.pop(0)
        way = ways[state]
        moments.on = False
        fresh(place, kept / state)
        shutil.rmtree(kept / state)
        moments.on = True
        got, fault = end()
        recovering = max(recovering, moments.count)
        if fault or got != want:
            wrong.append(f"killed at {way}: {fault or difference(got, want)}")
    longest = max(map(len, ways.values()))
    return {"moments": count, "recovering": recovering, "states": len(ways), "longest": longest, "wrong": wrong}


def settled(act: Callable):
    """What reads a folder in which threads of the job may be at work, done again where a file went meanwhile."""
    for _ in range(20):
        try:
            return act()
        except (FileNotFoundError, shutil.Error):
            continue
    raise AssertionError("the folder changes all the time")


def difference(got: dict[str, str], want: dict[str, str]) -> str:
    names = sorted(name for name in got.keys() | want.keys() if got.get(name) != want.get(name))
    kinds = [f"{name} ({'lacks' if name not in got else 'left' if name not in want else 'differs'})" for name in names]
    return f"{len(names)} files: {', '.join(kinds[:6])}"


if __name__ == "__main__":
    chosen, root, *more = sys.argv[1:]
    search = every_state if more == ["--states"] else every_moment
    print(json.dumps(search(chosen, Path(root))))
