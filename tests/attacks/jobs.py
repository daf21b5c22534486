"""The jobs that are killed in test_crashes.py, and what they leave.

Each is a function of a folder: it does its work there, or goes on with what it finds, as a user's rerun would. What a
job only reads lies in the folder `sources` beside its own, made once.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
NETWORK = {"num_clusters": 4, "hidden": 8, "num_snippets": 16}
DRAWN = re.compile(r"[0-9a-f]{32}|(?<=tmp)[-_.]?\d+$")
"""Names of chance: those of TensorStore's files, and the time behind Orbax's temporary folders."""

HIDDEN = re.compile(r"\.orbax-checkpoint-tmp/|/ocdbt\.process_\d+/|/d/\*$|/manifest\.ocdbt$")
"""What lies in a checkpoint without a name yet, which is deleted as a whole, and what TensorStore's threads write in no
fixed order: states that differ in them are one. Real kills end among them too."""


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
    os.utime(folder / "v.mp4", (1, 1))
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
    from casejax.run.folder import keep_lines_up_to
    from casejax.runtime import files

    files.sweep(files.make_folder(folder / "out"))
    keep_lines_up_to(folder / "out" / "metrics.jsonl", 0)
    for step in (3, 6):
        files.append_line(folder / "out" / "metrics.jsonl", json.dumps({"step": step}))
    files.write_json(folder / "out" / "results.json", {"mAP": 0.5})
    write_torch(folder / "out" / "model.pt", {"a": ROWS})


def train(folder: Path, select: str = "last") -> None:
    """A whole run of six steps and three checkpoints, of which two are kept; resumed where there is something."""
    import rich.console

    from casejax.data.synthetic import make_world
    from casejax.run.config import Config
    from casejax.runtime.checkpoint import Checkpoints
    from casejax.train.experiment import run

    options = {"batch_size": 4, "epochs": 3, "log_every": 2, "checkpoint_every": 2, "select_every": 2}
    config = Config.of("case").changed(**NETWORK, **options, select=select)
    videos = make_world(num_classes=2, dim=4, train_videos=10, test_videos=6, median=40, longest=80)
    resume = False
    if (folder / "run" / "checkpoints").is_dir():
        with Checkpoints(folder / "run" / "checkpoints") as checkpoints:
            resume = checkpoints.latest is not None
    quiet = rich.console.Console(quiet=True)
    run(videos, config, folder / "run", resume=resume, devices=1, console=quiet)


def select(folder: Path) -> None:
    """`train` with a step that is selected on training videos set aside."""
    train(folder, "train-holdout")


def convert(folder: Path) -> None:
    """A model of the published program, made a run; refused where it is there whole."""
    again([sources(folder) / "model.pkl", sources(folder) / "labels.npy", folder / "run"], "convert")


def publish(folder: Path) -> None:
    """A run as the two files of the published program."""
    again([sources(folder) / "run", folder / "model.pkl", folder / "labels.npy"], "export")


def export(folder: Path) -> None:
    """A run as a folder with safetensors, program and card; refused where it is there whole."""
    again([sources(folder) / "run", folder / "exported"], "export")


def predict(folder: Path) -> None:
    """Segments in features, as JSON, CSV and pictures."""
    words = [sources(folder) / "run", sources(folder) / "features", "--json", folder / "out.json"]
    again([*words, "--csv", folder / "out.csv", "--pictures", folder / "pictures"], "predict")


def again(words: list[object], command: str) -> None:
    """Run a command of casejax; one that has ended before may say so."""
    import contextlib
    import io

    from casejax.cli.main import main

    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        status = main([command, *map(str, words)])
    if status and not (status == 2 and re.search("already holds a checkpoint|exists already", said.getvalue())):
        raise AssertionError(f"status {status}: {said.getvalue()}")


def sources(folder: Path) -> Path:
    """A run of an untrained network, the files of the published program, and features of two videos."""
    place = folder.parent / "sources"
    if place.exists():
        return place
    import jax.numpy as jnp

    from casejax.records import Dataset, Features, Split
    from casejax.run.config import Config
    from casejax.run.conversion import export_published
    from casejax.run.folder import describe
    from casejax.run.state import initial_state
    from casejax.runtime.checkpoint import Checkpoints

    config = Config.of("case", "official").changed(**NETWORK)
    nothing = Features.end_to_end((np.zeros((0, 3), np.float32),) * 2, [])
    train, test = (Split(name, (), nothing) for name in ("train", "test"))
    _, state = initial_state(config, (3, 3), 2)
    labels = jnp.full_like(state.cluster_labels, 0.5)
    with Checkpoints(place / "run" / "checkpoints") as checkpoints:
        data = Dataset("nowhere", ("a", "b"), ("rgb", "flow"), train, test)
        checkpoints.save(state._replace(cluster_labels=labels), describe(config, data))
    export_published(place / "run", place / "model.pkl", place / "labels.npy")
    for stream in ("rgb", "flow"):
        (place / "features" / stream).mkdir(parents=True)
        for video in ("a", "b"):
            np.save(place / "features" / stream / f"{video}.npy", np.tile(ROWS, (5, 1)))
    return place


JOBS = {job.__name__: job for job in (world, pack, extract, report, train, select, convert, publish, export, predict)}
WITH_JAX = ("train", "select", "convert", "publish", "export", "predict")
"""Jobs that use devices: processes are forked from one that has imported JAX and used none."""


def bring_jax() -> None:
    """Import what the jobs need, and nothing that starts threads."""
    import matplotlib.figure  # noqa: F401

    import casejax.cli.convert
    import casejax.cli.export
    import casejax.cli.predict
    import casejax.inference.export
    import casejax.train.experiment  # noqa: F401


def keep_programs() -> None:
    """For many runs in one process: those of the very same arguments share their traced step, and no picture is drawn.

    Where the environment names a folder in CRASHING_CACHE, compiled programs are kept there.
    """
    import functools

    import jax
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from casejax.train import feed

    feed.make_train_steps = functools.cache(feed.make_train_steps)
    FigureCanvasAgg.print_png = lambda canvas, file, **options: file.write(b"picture" * 4000)  # it takes a second
    if "CRASHING_CACHE" in os.environ:
        jax.config.update("jax_compilation_cache_dir", os.environ["CRASHING_CACHE"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with a digest of what it holds: of checkpoints their arrays and their sums."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not re.search(r"(checkpoints|selected)/\d+/", name):
            found[name] = hashlib.sha256(_lasting(path)).hexdigest()
        elif path.is_dir() and re.search(r"(checkpoints|selected)/\d+$", name):
            found[name] = _checkpoint(path)
    return found


def _checkpoint(place: Path) -> str:
    import jax
    import orbax.checkpoint as ocp

    from casejax.runtime.checkpoint import Checkpoints, _damage

    if not (place / "sums.json").exists():
        return "without sums"
    if damage := _damage(place):
        return damage
    with Checkpoints(place.parent, keep=None) as checkpoints:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
        state = checkpoints._manager.restore(int(place.name), args=args)
        leaves = jax.tree_util.tree_leaves_with_path(state["state"])
        whole = [(jax.tree_util.keystr(path), np.asarray(leaf).tobytes()) for path, leaf in sorted(leaves, key=str)]
        return hashlib.sha256(repr((whole, state["meta"])).encode()).hexdigest()


def _lasting(path: Path) -> bytes:
    """The bytes of a file without figures of time."""
    data, name = path.read_bytes(), path.name.removeprefix(".").removesuffix(".partial")
    if name == "run.json" and data:  # a start more for every kill, with its time
        return repr(bool(json.loads(data)["starts"])).encode()
    if name != "metrics.jsonl":
        return data
    lines = []
    for line in data.splitlines():
        try:
            lines.append({k: v for k, v in json.loads(line).items() if k != "snippets_per_second"})
        except ValueError:
            lines.append("cut")
    return repr(lines).encode()


def likeness(folder: Path) -> str:
    """A digest of a folder as a kill leaves it, the same where only names of chance and times differ."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = DRAWN.sub("*", path.relative_to(folder).as_posix())
        if HIDDEN.search(name):
            continue
        if path.is_dir():
            found.append((name, "folder"))
        elif path.name == ".lock" or "sums.json" in name:  # sums name the threads' files
            found.append((name, str(path.stat().st_size > 0)))
        elif re.search(r"(checkpoints|selected)[^/]*/", name):
            found.append((name, str(path.stat().st_size)))
        else:
            found.append((name, hashlib.sha256(_lasting(path)).hexdigest()))
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()
