"""Learning from video with weak temporal supervision, in JAX.

Rooms, each imported when it is first asked for:

  ot          Sinkhorn, priors and marginals: `casejax.ot.sinkhorn`
  losses      losses, pooling over time, angles: `casejax.losses.generalized_bce`
  arrays      arguments and meshes: what `losses` and `alignment` share
  labels      labels without an annotator: `casejax.labels.transport_labels`
  localize    from scores to segments: `casejax.localize.soft_nms`
  evaluate    from detections to numbers: `casejax.evaluate.evaluate_detections`
  alignment   temporal alignment of videos: `casejax.alignment.dtw`
  data        files: layouts, packed features, the embedded world
  features    raw video to features: `casejax.features.Extractor`
  methods     CASE and its relatives: `casejax.methods.find("co2net+case")`
  run         options, state and folder of a run: `casejax.run.Config`
  inference   a trained network used: `casejax.inference.evaluate_run`
  train       from a data set to a trained network: `casejax.train.run`; `casejax.train(...)` from files of one's own
  report      tables and pictures
  records     the nouns that travel between them
  errors      the errors that a user can meet

`casejax.Localizer` finds segments with a trained network: `casejax.Localizer.load(folder)(features)`.

`ot`, `losses`, `labels` and `alignment` load jax and numpy alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from casejax import (
        alignment,
        arrays,
        data,
        errors,
        evaluate,
        features,
        inference,
        labels,
        localize,
        losses,
        methods,
        ot,
        records,
        report,
        run,
    )
    from casejax.inference import Localizer
    from casejax.train import Room

    train: Room

__version__ = "0.1.0"

__all__ = [
    "ot",
    "losses",
    "arrays",
    "labels",
    "localize",
    "evaluate",
    "alignment",
    "data",
    "features",
    "methods",
    "run",
    "inference",
    "train",
    "report",
    "records",
    "errors",
    "Localizer",
]


if not TYPE_CHECKING:  # a type checker has the rooms from above, and shall say what is not there

    def __getattr__(name: str) -> Any:
        if name == "Localizer":
            return importlib.import_module("casejax.inference").Localizer
        if name in __all__:
            return importlib.import_module(f"casejax.{name}")
        raise AttributeError(f"module 'casejax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
