"""The folder of a run: what a checkpoint is saved with, whether it is this run's, and a trained network out of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

import casejax
from casejax.errors import CheckpointError, DataError, OptionError
from casejax.records import Dataset, Timing
from casejax.run.config import Config
from casejax.run.state import TrainState, initial_state
from casejax.runtime import distributed, files, reading
from casejax.runtime.checkpoint import Checkpoints
from casejax.runtime.reading import brief, check_form

MAY_CHANGE = {"log_every", "checkpoint_every", "feed", "on_nan", "log"}
"""Options that may differ when a run is resumed: none of them changes what a step computes that ends well."""

REMEDY = "name the folder of a run that casejax trained, or train again"
META = {
    "config": {"method": str, "dataset?": str, "variant?": str},
    "data": {
        "classes": [str],
        "dims": [int],
        "streams": [str],
        "train_videos": int,
        "longest_train_video": int,
        "timing?": {"frames?": float, "stride?": float, "fps?": float, "first_frame?": float, "rescaled?": bool},
        "provenance?": dict,
    },
    "selected?": (dict, type(None)),
    "step?": int,
}
"""What the description of a checkpoint, or of an exported network, looks like."""


def describe(config: Config, dataset: Dataset, teacher: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a checkpoint is saved with: enough to rebuild the network, to recognise the run, and to know its teacher.

    Example:
      >>> from casejax import data, run
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> sorted(run.describe(run.Config.of("case"), world))
      ['casejax', 'config', 'data']
    """
    return ({} if teacher is None else {"teacher": dict(teacher)}) | {
        "casejax": casejax.__version__,
        "config": config.as_dict(),
        "data": {
            "source": dataset.source,
            "classes": list(dataset.classes),
            "streams": list(dataset.streams),
            "dims": list(dataset.dims),
            "timing": asdict(dataset.timing),
            "provenance": dict(dataset.provenance),
            "train_videos": len(dataset.train.videos),
            "longest_train_video": extent(dataset)[1],
            "train_snippets": distributed.total_of_parts(dataset.train.features.lengths),
        },
    }


def extent(dataset: Dataset) -> tuple[int, int]:
    """Training videos, and the snippets of the longest."""
    lengths = dataset.train.features.lengths
    return len(lengths), distributed.largest(int(lengths.max(initial=0)))


def check_folder(checkpoints: Checkpoints, config: Config, meta: dict[str, Any], *, resume: bool) -> None:
    """Refuse the folder of another run, or of this one unless it is to be resumed.

    Args:
      checkpoints: those of the folder.
      config: the options of this run.
      meta: as `describe` gives it.
      resume: whether to go on where the folder's run ended.

    Raises:
      CheckpointError: naming what differs, and the remedy.
    """
    if checkpoints.latest is None:
        return
    run = checkpoints.folder.parent
    stored = _meta(checkpoints)
    try:
        differences = _differences(stored, meta, MAY_CHANGE | (set() if config.method.epochs_fixed else {"epochs"}))
    except OptionError as error:
        raise CheckpointError(f"{checkpoints.folder}: {error}") from error
    if differences:
        raise CheckpointError(
            f"{run} holds another run's checkpoint (step {checkpoints.latest}) with another configuration: "
            f"{'; '.join(differences)}. Choose another --out, or the options of that run"
        )
    if not resume:
        raise CheckpointError(
            f"{run} already holds this run at step {checkpoints.latest}; pass --resume to go on with it, or "
            "choose another --out"
        )


def _differences(stored: dict[str, Any], meta: dict[str, Any], may_change: set[str]) -> list[str]:
    """Options and data in which two runs differ, those that may change left out, and those of inference."""
    there, here = (_trained_with(each["config"]) for each in (stored, meta))
    found = [
        f"{name} was {there.get(name)}, is {here.get(name)}"
        for name in sorted(there.keys() | here.keys())
        if name not in may_change and there.get(name) != here.get(name)
    ]
    for name, value in meta["data"].items():
        if name != "source" and stored["data"].get(name, value) != value:
            found.append(f"{name} of the data was {stored['data'].get(name)}, is {value}")
    return found


def _trained_with(config: dict[str, Any]) -> dict[str, Any]:
    """The options of training, by name, with the name of the method."""
    own = Config.from_dict(config)
    flat = {each.name: each.value for each in own.options() if each.acts and not each.of_inference}
    return {"method": own.method.name, **flat}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, in their order; what is no line of numbers with a step is left out.

    A line cut short by a kill, or damaged, costs nothing else: the file is only drawn and read by people.
    """
    if not path.is_file():
        return []

    def is_line(line: dict[str, Any]) -> bool:
        numbers = all(isinstance(value, int | float | None) for value in line.values())
        return isinstance(line.get("step"), int) and numbers

    return [line for line in reading.read_json_lines(path) if is_line(line)]


def keep_lines_up_to(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop metrics of steps that a resumed run will do again, and damaged lines; returns what is left."""
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    if path.exists():
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
    return kept


def _meta(checkpoints: Checkpoints, step: int | None = None) -> dict[str, Any]:
    """The description of a checkpoint, by default the newest, of the form of `META`."""
    meta = checkpoints.meta(step)
    try:
        where = f"{checkpoints.folder}: description"
        check_form(meta, META, where, remedy=REMEDY)
        check_form(meta.get("selected") or {}, {"step?": int}, f"{where}: 'selected'", remedy=REMEDY)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    return meta


def network_of(meta: dict[str, Any], where: object) -> Config:
    """The configuration that a description states, once all is there to make its network and to time its rows.

    Raises:
      CheckpointError: naming `where` and what is wrong.
    """
    try:
        config = Config.from_dict(meta["config"])
        config.check()
    except OptionError as error:
        raise CheckpointError(f"{where}: {error}") from error
    data = meta["data"]
    if "timing" not in data:
        raise CheckpointError(f"{where}: does not say what a row of features stands for; train or convert again")
    stated = data["timing"]
    timing = Timing(**stated) if stated.keys() <= {each.name for each in fields(Timing)} else None
    if timing is None or min(timing.stride, timing.fps) <= 0:
        raise CheckpointError(f"{where}: its timing, {brief(str(stated))}, is none; train or convert again")
    if len(data["dims"]) != len(data["streams"]) or not data["classes"] or min(data["dims"], default=0) < 1:
        raise CheckpointError(
            f"{where}: streams {brief(str(data['streams']))} of dimensions {brief(str(data['dims']))} with "
            f"{len(data['classes'])} classes make no network; train or convert again"
        )
    if not 0 <= meta.get("step", 0) < 2**31:
        raise CheckpointError(f"{where}: no network was trained for {brief(str(meta['step']))} steps; export it again")
    return config


class Restored(NamedTuple):
    """A network from the folder of a run, with its configuration and what it was saved with."""

    folder: Path
    graphdef: nnx.GraphDef[Any]
    state: TrainState
    config: Config
    meta: dict[str, Any]

    @property
    def timing(self) -> Timing:
        """Which time a row of the features belongs to that it was trained with."""
        return Timing(**self.meta["data"]["timing"])

    def check_timing(self, timing: Timing, source: str) -> None:
        """Refuse features whose rows stand for other times than those of training; `source` is where they are.

        Raises:
          CheckpointError: naming both.
        """
        if not self.timing.same(timing):
            raise CheckpointError(
                f"{self.folder} was trained on {self.timing.describe()}, {source} has {timing.describe()}; extract the "
                "features at the rate of training, or leave out the option or file that states another"
            )

    def check_provenance(self, provenance: Mapping[str, Any], source: str) -> None:
        """Refuse features that another network made, or the same one of other pictures; `source` is where they are.

        Raises:
          CheckpointError: naming what differs. Where it is not known on one of both sides, nothing is.
        """
        own = self.meta["data"].get("provenance", {})
        for name in own.keys() & provenance.keys():
            if own[name] != provenance[name]:
                raise CheckpointError(
                    f"{self.folder} was trained on features with {name} {own[name]}, {source} has {provenance[name]}; "
                    "extract the features as those of training were"
                )


def restore_run(folder: Path) -> Restored:
    """The selected network of a run where a step was selected, else that of the last step; or an exported network.

    What was selected is what the newest checkpoint says: a folder `selected` that it does not know of is not used.

    Raises:
      CheckpointError: no checkpoint in the folder, or one that cannot be read.

    Example:
      >>> from pathlib import Path
      >>> from casejax import run
      >>> restored = run.restore_run(Path("run"))
      >>> restored.config.method.name
      'case'
    """
    from casejax.run import exported  # which is made of what is above

    if exported.is_exported(folder):
        return exported.read_network(folder)
    place, step = folder / "checkpoints", None
    if not place.is_dir():
        raise CheckpointError(f"{folder} holds no checkpoints/; name the folder of a run or of a converted network")
    with Checkpoints(place) as checkpoints:
        newest = _meta(checkpoints)
        if "selected" not in newest and (folder / "selected").is_dir():  # of a release that did not say
            place = folder / "selected"
        elif "step" in (newest.get("selected") or {}):
            place, step = folder / "selected", newest["selected"]["step"]
    with Checkpoints(place, keep=None) as checkpoints:
        if step is not None and step not in checkpoints.steps:
            raise CheckpointError(f"{place}: lacks step {step}, which was selected; resume the run from an earlier one")
        meta = _meta(checkpoints, step)
        config, data = network_of(meta, place), meta["data"]
        videos = data["train_videos"], data["longest_train_video"]
        graphdef, template = initial_state(config, tuple(data["dims"]), len(data["classes"]), videos=videos)
        return Restored(folder, graphdef, checkpoints.restore(template, step), config, meta)
