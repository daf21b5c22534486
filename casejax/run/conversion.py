"""A run from the files of the published CASE program, and back."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from casejax.data.pickles.torch_files import write_torch
from casejax.errors import CheckpointError, DataError
from casejax.methods.case.published import HEAD_TEMPERATURE, STREAMS, AnyPath, Published, from_published, to_published
from casejax.records import Dataset, Features, Split
from casejax.run.config import Config
from casejax.run.folder import describe, restore_run
from casejax.run.state import initial_state
from casejax.runtime import files
from casejax.runtime.checkpoint import Checkpoints
from casejax.runtime.lock import own_folder

PUBLISHED = {"head_temperature": HEAD_TEMPERATURE, "cluster_context": 1, "transformed_streams": "mean"}
"""What the published program does without asking."""


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

    Example:
      >>> from pathlib import Path
      >>> from casejax import run
      >>> run.export_published("run", "best_model.pkl", "cls_gt.npy")
      >>> model = run.convert("best_model.pkl", "cls_gt.npy", "converted", classes=["CliffDive", "Dive"])
      >>> run.restore_run(Path("converted")).config.method.name
      'case'
    """
    model = from_published(model_path, cls_gt_path)
    dims, hidden, num_classes, num_clusters = model.sizes
    names = [f"class{c}" for c in range(num_classes)] if classes is None else list(classes)
    if len(names) != num_classes or len(set(names)) < num_classes:
        raise DataError(
            f"{model_path}: the model has {num_classes} classes, but {len(names)} names were given, "
            f"{len(set(names))} of them different; name each class once, in the order of the model's outputs"
        )
    config = (config or Config.of("case")).changed(num_clusters=num_clusters, hidden=hidden)
    config.check()
    nothing = Features.end_to_end(tuple(np.zeros((0, dim), np.float32) for dim in dims), [])
    train, test = (Split(split, (), nothing) for split in ("train", "test"))
    meta = describe(config, Dataset(str(model_path), tuple(names), STREAMS, train, test))
    _, state = initial_state(config, dims, num_classes)
    place = Path(out) / "checkpoints"
    with own_folder(out):
        if place.is_dir():
            with Checkpoints(place) as checkpoints:
                if checkpoints.latest is not None:
                    raise CheckpointError(
                        f"{out} already holds a checkpoint (step {checkpoints.latest}); choose another folder"
                    )
            shutil.rmtree(place)  # nothing but what was never finished
        with files.whole_folder(place) as partial, Checkpoints(partial) as checkpoints:
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

    Example:
      >>> import numpy as np
      >>> from casejax import run
      >>> run.export_published("run", "best_model.pkl", "cls_gt.npy")
      >>> np.load("cls_gt.npy").shape  # background and foreground of 16 clusters
      (16, 2)
    """
    restored = restore_run(Path(run))
    options = restored.config.flat()
    try:
        if restored.config.method.foreground is None:
            raise ValueError(f"method {restored.config.method.name} has no clusters; only CASE has a published format")
        for name, fixed in PUBLISHED.items():
            if options.get(name, fixed) != fixed:
                raise ValueError(
                    f"{name} is {options[name]}, but {fixed} is fixed in the published program, which would find other "
                    "segments; only a model trained with that, such as --variant paper, can be exported"
                )
        arrays, labels = to_published(
            restored.state.params, restored.state.cluster_labels, streams=restored.meta["data"]["streams"]
        )
    except ValueError as error:
        raise CheckpointError(f"{run}: {error}") from error
    Path(cls_gt_path).unlink(missing_ok=True)  # so that no kill pairs the new model with the labels of an older one
    write_torch(model_path, arrays)
    with files.whole_file(cls_gt_path, "wb", size=labels.nbytes) as file:
        np.save(file, labels, allow_pickle=False)
