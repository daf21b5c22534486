"""Do a job on disks of growing size, and again once there is room; prints what was said, as JSON.

    python full_disks.py JOB FOLDER    JOB is train, pack or export; needs the right to mount a tmpfs

The disk is a tmpfs. All runs are made in this process, so that the network is traced once; standard error is caught at
its descriptor, so that what threads and libraries print is caught too.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from jobs import bring_jax, keep_programs, sources, tree, world

SIZES = 24
PAGE = 4096
ROOM = 64 << 20
OPTIONS = "--num-clusters 4 --hidden 8 --num-snippets 16 --batch-size 4 --epochs 4 --log-every 2 --checkpoint-every 2"
GOING_ON = re.compile(r"(compiling, |step \d+ of |resuming at step |warning: |loading JAX)")
"""Lines of standard error that say where a run is."""


def train(disk: Path) -> int:
    from casejax.cli.train import main

    words = ["--data", disk.parent / "world", "--out", disk / "run", "--resume", "--devices", "1", *OPTIONS.split()]
    return main([str(word) for word in words])


def export(disk: Path) -> int:
    from casejax.cli.export import main

    return main([str(sources(disk) / "run"), str(disk / "exported")])


def pack(disk: Path) -> int:
    from casejax.cli.options import run_command
    from casejax.data.store import Source, packed

    file, rows = disk.parent / "source", np.ones((300, 100), np.float32)
    if not file.exists():
        file.write_text("x")
    source = Source([file], [100], [300], "float32")
    return run_command(lambda: packed(disk / "packed", "train", source, iter([rows])) and None)


def caught(job, disk: Path) -> tuple[int, str]:
    """The exit status of a job and what it said on standard error, whoever said it; standard output is dropped."""
    with tempfile.TemporaryFile() as said, open(os.devnull, "wb") as nowhere:
        kept = os.dup(1), os.dup(2)
        os.dup2(nowhere.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            status = job(disk)
        except BaseException as error:
            status = -1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, own in zip(kept, (1, 2), strict=True):
                os.dup2(descriptor, own)
                os.close(descriptor)
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").splitlines()
    return status, "\n".join(line for line in lines if line and not GOING_ON.match(line))


def mount(disk: Path, size: int, *more: str) -> None:
    disk.mkdir(exist_ok=True)
    options = ",".join((*more, f"size={size}"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True, capture_output=True)


def unmount(disk: Path) -> None:
    subprocess.run(["umount", "-l", str(disk)], check=True)


def used(disk: Path) -> int:
    stat = os.statvfs(disk)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def main(name: str, folder: Path) -> dict[str, object]:
    bring_jax()
    import casejax.inference.export
    from casejax.run.folder import restore_run

    keep_programs()
    job, disk = {"train": train, "export": export, "pack": pack}[name], folder / "disk"
    if name == "train":
        world(folder)
    if name == "export":
        program = casejax.inference.export.export_program(restore_run(sources(disk) / "run"))
        casejax.inference.export.export_program = lambda run: program  # it takes seconds, and no disk
    mount(disk, ROOM)
    try:
        status, said = caught(job, disk)
        assert status == 0, said
        want, needed = tree(disk), used(disk)
    finally:
        unmount(disk)
    cases = []
    for n in range(SIZES):
        size = PAGE * max(1, round(needed / PAGE * n / SIZES))
        mount(disk, size)
        try:
            status, said = caught(job, disk)
            mount(disk, ROOM, "remount")
            again, remarks = caught(job, disk) if status else (0, "")
            got = tree(disk)
            rest = sorted(name for name in got.keys() | want.keys() if got.get(name) != want.get(name))
        finally:
            unmount(disk)
        cases.append({"size": size, "status": status, "said": said, "again": again, "remarks": remarks, "rest": rest})
    return {"needed": needed, "cases": cases}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
