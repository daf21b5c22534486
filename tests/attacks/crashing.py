"""Kill a job at the n-th moment at which it changes its folder, for every n.

    python crashing.py JOB FOLDER            in processes forked from this one; prints what it found as JSON.
                                             CASEJAX_CRASH_STRIDE=1 takes every n, the default a third of them
    python crashing.py JOB FOLDER --at N     once, in this process, which ends at the N-th change; 0: it goes to its end

A moment is an opening for writing, a rename, a removal, a folder that is made, a lock file's or a file's sync: what
Python's audit hooks and `os.fsync` tell. The process is killed before the change, with SIGKILL: no cleaning up runs.
"""

import datetime
import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree"}
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


class Killer:
    """Counts the changes of a folder, and ends the process before the n-th; 0 only counts."""

    def __init__(self, folder: Path, at: int) -> None:
        self.folder, self.at, self.count = str(folder.resolve()), at, 0
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
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def world(folder: Path) -> None:
    """A data set, as `casejax train` writes that of its embedded world."""
    from casejax.data.layouts.published import write_dataset
    from casejax.data.synthetic import make_world

    if not (folder / "world").exists():
        write_dataset(make_world(num_classes=2, dim=2, train_videos=6, test_videos=6), folder / "world")


def pack(folder: Path) -> None:
    """Two data sets packed into one folder, and one of them again after its source has changed."""
    from casejax.data.store import Source, packed

    for name, time, rows in (("a", 1, ROWS), ("b", 1, ROWS + 1), ("a", 2, ROWS + 2)):
        path = folder / name
        path.write_text(name)
        os.utime(path, (time, time))
        got = packed(folder / "packed", "train", Source([path], [3], [4], "float32"), iter([rows]))
        np.testing.assert_array_equal(got.streams[0], rows)


def extract(folder: Path) -> None:
    """Features of two videos, part by part."""
    from casejax.features.writer import FeatureFolder

    (folder / "v.mp4").write_bytes(b"x")
    features = FeatureFolder.open(folder / "features", {"streams": {"rgb": 3}, "fps": 25})
    for video in ("a", "b"):
        if video in features.finished:
            continue
        parts = features.parts(video, folder / "v.mp4", 2)
        while parts.rows < 4:
            parts.add(parts.rows, [ROWS[parts.rows : parts.rows + 2]])
        parts.finish({"frames": 64, "duration": 2.56})


def report(folder: Path) -> None:
    """Text, JSON and a model, as the end of a run and `casejax export` write them."""
    from casejax.data.pickles import write_torch
    from casejax.runtime import files

    files.sweep(files.make_folder(folder / "out"))
    for step in (3, 6):
        files.append_line(folder / "out" / "metrics.jsonl", json.dumps({"step": step}))
    files.write_text(folder / "out" / "metrics.jsonl", '{"step": 3}\n{"step": 6}\n')
    files.write_json(folder / "out" / "results.json", {"mAP": 0.5})
    write_torch(folder / "out" / "model.pt", {"a": ROWS})


def train(folder: Path, select: str = "last") -> None:
    """A whole run of two streams, eight steps and three checkpoints, resumed where there is something to resume."""
    import jax

    from casejax.data.synthetic import make_world
    from casejax.run.config import Config
    from casejax.runtime.checkpoint import Checkpoints
    from casejax.train.experiment import run

    jax.config.update("jax_compilation_cache_dir", os.environ["CRASHING_CACHE"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    options = {"num_clusters": 4, "hidden": 8, "num_snippets": 16, "batch_size": 4, "epochs": 4, "log_every": 2}
    config = Config.of("case").changed(**options, checkpoint_every=4, select_every=2, select=select)
    videos = make_world(num_classes=2, dim=4, train_videos=10, test_videos=6, median=40, longest=80)
    resume = False
    if (folder / "run" / "checkpoints").is_dir():
        with Checkpoints(folder / "run" / "checkpoints") as checkpoints:
            resume = checkpoints.latest is not None
    run(videos, config, folder / "run", resume=resume, devices=1)


def select(folder: Path) -> None:
    """`train` with a step that is selected on training videos set aside."""
    train(folder, "train-holdout")


JOBS = {job.__name__: job for job in (world, pack, extract, report, train, select)}


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with a digest of what it holds, but for figures of time and names of chance."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "checkpoints/" not in name and "selected/" not in name:
            data = path.read_bytes()
            if path.name == "metrics.jsonl":
                lines = (json.loads(line) for line in data.splitlines())
                data = repr([{k: v for k, v in line.items() if k != "snippets_per_second"} for line in lines]).encode()
            found[name] = hashlib.sha256(data).hexdigest()
    for part in ("checkpoints", "selected"):
        found |= {f"{part}/{path.name}": "" for path in (folder / "run" / part).glob("*")}
    return found


def forked(job, folder: Path, at: int) -> tuple[int, int]:
    """Whether a job in a process of its own was killed, and the changes that it made."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        killer = Killer(folder, at)
        try:
            job(folder)
            os.write(write, str(killer.count).encode())
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    os.close(write)
    counted = os.read(read, 20)
    os.close(read)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, int(counted or 0)


def every_moment(job, folder: Path) -> dict[str, object]:
    """Kill at every moment, once and once more while recovering; what does not end as an unkilled job does."""
    place = folder / "place"  # always the same: keys of packed features stand for paths
    place.mkdir(parents=True)
    job(place)  # so that the processes have imported what they need
    shutil.rmtree(place)
    place.mkdir()
    status, count = forked(job, place, 0)
    assert status == 0, "the job fails by itself"
    want, wrong, tried = tree(place), [], 0
    stride = int(os.environ.get("CASEJAX_CRASH_STRIDE", "3"))
    for at in range(1 + datetime.date.today().day % stride, count + 1, stride):
        for again in (0, at):  # the second while recovering, as late
            shutil.rmtree(place)
            place.mkdir()
            status, _ = forked(job, place, at)
            if status != -signal.SIGKILL:
                wrong.append(f"{at}: ended with {status} instead of being killed")
            if again:
                forked(job, place, again)
            status, _ = forked(job, place, 0)
            tried += 1
            got = tree(place)
            if status or got != want:
                names = sorted(name for name in got.keys() | want.keys() if got.get(name) != want.get(name))
                wrong.append(f"{at}, then {again}: status {status}, differs in {names[:6]}")
    return {"moments": count, "tried": tried, "wrong": wrong}


if __name__ == "__main__":
    name, root, *more = sys.argv[1:]
    target = Path(root)
    if more:
        killer = Killer(target, int(more[1]))
        JOBS[name](target)
        print(json.dumps({"moments": killer.count}))
    else:
        print(json.dumps(every_moment(JOBS[name], target)))
