"""."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from flax import nnx

import casejax
from casejax.data.pickles.torch_files import write_torch
from casejax.errors import CheckpointError, DataError
from casejax.methods.case.published import HEAD_TEMPERATURE, STREAMS, AnyPath, Published, from_published, to_published
from casejax.records import Dataset, Features, Split
from casejax.run.config import Config
from casejax.run.state import TrainState, initial_state
from casejax.runtime import distributed, files
from casejax.runtime.checkpoint import Checkpoints

if TYPE_CHECKING:
    pass


MAY_CHANGE = {"train.epochs", "train.log_every", "train.checkpoint_every", "train.feed"}
"""Options that may differ when a run is resumed: none of them changes what a step computes. Of bases, epochs do."""


def describe(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint is saved with: enough to rebuild the network, and to recognise the run."""
    return {
        "casejax": casejax.__version__,
        "config": config.as_dict(),
        "data": {
            "source": dataset.source,
            "classes": list(dataset.classes),
            "streams": list(dataset.streams),
            "dims": list(dataset.dims),
            "snippet_seconds": dataset.snippet_seconds,
            "train_videos": len(dataset.train.videos),
            "longest_train_video": _extent(dataset)[1],
            "train_snippets": distributed.total(int(dataset.train.features.lengths.sum())),
        },
    }


def _extent(dataset: Dataset) -> tuple[int, int]:
    """Training videos, and the snippets of the longest."""
    lengths = dataset.train.features.lengths
    return len(lengths), distributed.largest(int(lengths.max(initial=0)))


def _check_folder(checkpoints: Checkpoints, meta: dict[str, Any], *, resume: bool) -> None:
    if checkpoints.latest is None:
        return
    differences = _differences(checkpoints.meta(), meta)
    run = checkpoints.folder.parent
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


def _differences(stored: dict[str, Any], meta: dict[str, Any]) -> list[str]:
    """Options and data in which two runs differ, the ones that may change on resuming left out."""
    found = []
    may_change = MAY_CHANGE if meta["config"]["network"]["base"] == "case" else MAY_CHANGE - {"train.epochs"}
    for group in ("network", "method", "train"):
        # A run of an earlier version had the default of an option that came later.
        there, here = Config().as_dict()[group] | stored["config"].get(group, {}), meta["config"][group]
        for name in sorted(there.keys() | here.keys()):
            if f"{group}.{name}" not in may_change and there.get(name) != here.get(name):
                found.append(f"{name} was {there.get(name)}, is {here.get(name)}")
    for name, value in meta["data"].items():
        if name != "source" and stored["data"].get(name, value) != value:
            found.append(f"{name} of the data was {stored['data'].get(name)}, is {value}")
    return found


def _keep_lines_up_to(path: Path, step: int) -> None:
    """Drop metrics of steps that a resumed run will do again, and a line cut short by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    files.write_text(path, "".join(kept))


class Restored(NamedTuple):
    """A network from the folder of a run, with its configuration and what it was saved with."""

    folder: Path
    graphdef: nnx.GraphDef[Any]
    state: TrainState
    config: Config
    meta: dict[str, Any]


def restore_run(folder: Path) -> Restored:
    """The selected network of a run where a step was selected, else that of the last step.

    Raises:
      CheckpointError: no checkpoint in the folder, or one that cannot be read.
    """
    selected = folder / "selected"
    place = selected if selected.is_dir() else folder / "checkpoints"
    if not place.is_dir():
        raise CheckpointError(f"{folder} holds no checkpoints/; name the folder of a run or of a converted network")
    with Checkpoints(place) as checkpoints:
        meta = checkpoints.meta()
        try:
            config = Config.from_dict(meta["config"])
        except ValueError as error:
            raise CheckpointError(f"{place}: {error}") from error
        data = meta["data"]
        videos = data["train_videos"], data.get("longest_train_video", 0)
        graphdef, template = initial_state(config, tuple(data["dims"]), len(data["classes"]), videos=videos)
        return Restored(folder, graphdef, checkpoints.restore(template), config, meta)


def convert(
    model_path: AnyPath,
    cls_gt_path: AnyPath,
    out: AnyPath,
    *,
    classes: Sequence[str] | None = None,
    config: Config | None = None,
) -> Published:
    """Write a model of the published program as the checkpoint of a run, at step 0 with a fresh optimizer.

    Args:
      model_path: as for `from_published`.
      cls_gt_path: as for `from_published`.
      out: folder of the run; `out/checkpoints` is written.
      classes: class names in the order of the model's outputs; default `class0`, `class1` and so on.
      config: options of the run; the number of clusters and the width become those of the model.

    Returns:
      The model that was written.

    Raises:
      DataError: files that cannot be used, or class names that do not fit the model.
      OptionError: a configuration that no run can use.
      CheckpointError: `out` already holds a checkpoint.
    """
    model = from_published(model_path, cls_gt_path)
    dims, hidden, num_classes, num_clusters = model.sizes
    names = [f"class{c}" for c in range(num_classes)] if classes is None else list(classes)
    if len(names) != num_classes or len(set(names)) < num_classes:
        raise DataError(
            f"{model_path}: the model has {num_classes} classes, but {len(names)} names were given, "
            f"{len(set(names))} of them different; name each class once, in the order of the model's outputs"
        )
    config = (config or Config()).changed(num_clusters=num_clusters, hidden=hidden)
    config.check()
    nothing = Features.end_to_end(tuple(np.zeros((0, dim), np.float32) for dim in dims), [])
    train, test = (Split(split, (), nothing) for split in ("train", "test"))
    meta = describe(config, Dataset(str(model_path), tuple(names), STREAMS, train, test))
    _, state = initial_state(config, dims, num_classes)
    with Checkpoints(Path(out) / "checkpoints") as checkpoints:
        if checkpoints.latest is not None:
            raise CheckpointError(
                f"{out} already holds a checkpoint (step {checkpoints.latest}); choose another folder"
            )
        checkpoints.save(state._replace(params=model.params, cluster_labels=model.cluster_labels), meta)
    return model


def export_published(run: AnyPath, model_path: AnyPath, cls_gt_path: AnyPath) -> None:
    """Write the model of a run as the two files of the published program.

    Args:
      run: folder of the run. The state its selection kept is taken if there is one, otherwise the newest.
      model_path: file for the state dict; `torch.load(model_path, weights_only=True)` reads it.
      cls_gt_path: file for the (K, 2) cluster labels.

    Raises:
      CheckpointError: no readable checkpoint, or one of a model that the published program cannot hold.
    """
    folders = [folder for name in ("selected", "checkpoints") if (folder := Path(run) / name).is_dir()]
    if not folders:
        raise CheckpointError(f"{run} holds no checkpoints; name the folder of a run")
    try:
        with Checkpoints(folders[0]) as checkpoints:
            meta = checkpoints.meta()
            data, config = meta["data"], Config.from_dict(meta["config"])
            _, template = initial_state(config, tuple(data["dims"]), len(data["classes"]))
            state = checkpoints.restore(template)
        if config.network.base != "case":
            raise ValueError(f"it is a run of --base {config.network.base}; only CASE itself has a published format")
        if config.method.head_temperature != HEAD_TEMPERATURE:
            raise ValueError(
                f"head_temperature is {config.method.head_temperature}, but {HEAD_TEMPERATURE} is fixed in the "
                "published program; only a model trained with that can be exported"
            )
        arrays, labels = to_published(state.params, state.cluster_labels, streams=data["streams"])
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{run}: {error}") from error
    write_torch(model_path, arrays)
    with files.whole_file(cls_gt_path, "wb") as file:
        np.save(file, labels, allow_pickle=False)
