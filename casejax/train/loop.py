"""From a data set to a trained state: resume, train, log, checkpoint."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from casejax.errors import DivergedError, Interrupted
from casejax.records import Dataset
from casejax.run import record
from casejax.run.config import Config
from casejax.run.folder import check_folder, describe, extent, keep_lines_up_to
from casejax.run.state import TrainState, initial_state
from casejax.runtime import distributed, files
from casejax.runtime import mesh as placement
from casejax.runtime.checkpoint import Checkpoints
from casejax.runtime.interrupt import StopRequest
from casejax.train.feed import make_advance
from casejax.train.progress import Progress
from casejax.train.pseudo_labelling import PseudoLabels
from casejax.train.selection import Selection
from casejax.train.step import num_steps_per_epoch
from casejax.train.writers import check_writer, make_writer


@dataclass(frozen=True)
class Trained:
    """A trained network: its structure, the selected state, and the state before the first step.

    `score` is what the judge gave the selected state, None where the last step was taken.
    """

    graphdef: nnx.GraphDef[Any]
    state: TrainState
    initial: TrainState
    seconds: float
    score: float | None = None


def train(
    dataset: Dataset,
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    devices: int | None = None,
    selection: Selection | None = None,
    console: Console | None = None,
) -> Trained:
    """Train a method on the train split and keep checkpoints and metrics in `out`.

    Args:
      dataset: only features and video-level labels of its train split are used.
      config: all options.
      out: folder of the run; `out/checkpoints` and `out/metrics.jsonl` are written.
      resume: go on from the newest checkpoint in `out`, if there is one.
      devices: shard the batch over this many devices; default all.
      selection: how the returned state is chosen, kept in `out/selected`; default the last step's.
      console: where progress goes: a bar on a terminal, else a line every so often.

    Raises:
      DataError: fewer videos than one batch takes.
      CheckpointError: `out` holds a run and `resume` is off, or a run of other options or data.
      Interrupted: SIGINT or SIGTERM came; the state was saved.
      DivergedError: the loss stopped being finite; the last good checkpoint stays.
      PeerLostError: another process of the run is gone.
    """
    config.check()
    config.check_data(dataset)
    check_writer(config.training.log)
    console = console or Console(stderr=True, quiet=not distributed.is_first())
    mesh = placement.make_mesh(devices, config.training.model_devices)
    placement.check_placement(
        mesh,
        batch_size=config.schedule.batch_size,
        hidden=config.flat()["hidden"],
        data_parts=config.training.data_parts,
    )
    out.mkdir(parents=True, exist_ok=True)
    try:
        with Checkpoints(out / "checkpoints") as checkpoints:
            meta = describe(config, dataset)
            check_folder(checkpoints, config, meta, resume=resume)
            if selection is None:
                return _fit(dataset, config, out, mesh, checkpoints, meta, console)
            with Checkpoints(out / "selected", keep=1) as best:
                candidates = _Candidates(selection, best, meta)
                return _fit(dataset, config, out, mesh, checkpoints, meta, console, candidates)
    except jax.errors.JaxRuntimeError as error:
        distributed.raise_peer_lost(error)


def _fit(
    dataset: Dataset,
    config: Config,
    out: Path,
    mesh: Mesh,
    checkpoints: Checkpoints,
    meta: dict[str, Any],
    console: Console,
    candidates: _Candidates | None = None,
) -> Trained:
    """Train from the newest checkpoint, or from the start, to the last step."""
    total = config.schedule.epochs * num_steps_per_epoch(len(dataset.train.videos), config)
    snippets_a_step = config.schedule.batch_size * config.schedule.num_snippets
    graphdef, state = initial_state(config, dataset.dims, len(dataset.classes), videos=extent(dataset))
    initial = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
    state = placement.place(state, placement.state_shardings(state, mesh, config.method.split))
    if checkpoints.latest is not None:
        state = checkpoints.restore(state)
        console.print(f"resuming at step {int(state.step)} of {total}")
    step = saved = int(state.step)
    metrics_file = out / "metrics.jsonl"
    if distributed.is_first():
        keep_lines_up_to(metrics_file, step)
        record.write_start(out, config, dataset, step=step, devices=mesh.size)
    writer = make_writer(config.training.log if distributed.is_first() else "none", out, config.as_dict(), step=step)

    clusters = config.flat().get("num_clusters")
    bounds = {} if clusters is None else {"log_num_clusters": math.log(clusters)}  # of the entropies, in pictures
    labeller = PseudoLabels(dataset, graphdef, config, mesh) if config.flat().get("pseudo_labels") else None
    began = time.perf_counter()
    with (
        make_advance(dataset.train, dataset.classes, graphdef, config, mesh) as advance,
        StopRequest() as stop,
        (metrics_file if distributed.is_first() else Path(os.devnull)).open("a") as log,
        Progress(console, step, total) as progress,
        closing(writer),
    ):
        while step < total and not (signum := distributed.largest(stop.signum or 0)):
            count = min(config.training.log_every - step % config.training.log_every, total - step)
            if candidates is not None:
                count = min(count, candidates.every - step % candidates.every)
            if labeller is not None:
                state = labeller.refresh(state, step)
                count = min(count, labeller.until_next(step) or count)
            since = time.perf_counter()
            state, device_metrics = advance(state, step, count)
            metrics = {name: float(value) for name, value in jax.device_get(device_metrics).items()}
            step += count
            if not math.isfinite(metrics["loss"]):
                raise DivergedError(
                    f"the loss is {metrics['loss']} by step {step}; lower --learning-rate, or resume from the "
                    f"checkpoint at step {checkpoints.latest} in {checkpoints.folder}"
                )
            rate = count * snippets_a_step / (time.perf_counter() - since)
            line = {"step": step, **metrics, "snippets_per_second": round(rate, 1)}
            log.write(json.dumps(files.plain(line | bounds), allow_nan=False) + "\n")
            log.flush()
            writer.write(step, metrics)
            progress.update(step, metrics["loss"], rate)
            if candidates is not None and (step % candidates.every == 0 or step == total):
                candidates.consider(state)
            if step - saved >= config.training.checkpoint_every:
                checkpoints.save(state, meta)
                saved = step
        if step > saved or checkpoints.latest is None:
            checkpoints.save(state, meta)
        if step < total:
            raise Interrupted(signum, step)
    seconds = time.perf_counter() - began
    if candidates is None:
        return Trained(graphdef, state, initial, seconds)
    return Trained(graphdef, candidates.best.restore(state), initial, seconds, candidates.score)


class _Candidates:
    """The best state so far by a judge, kept in a checkpoint of its own."""

    def __init__(self, selection: Selection, best: Checkpoints, meta: dict[str, Any]) -> None:
        self.best, self.every = best, selection.every
        self._judge, self._meta = selection.judge, meta
        self.score = -math.inf if best.latest is None else float(best.meta()["score"])

    def consider(self, state: TrainState) -> None:
        """Keep this state if its score is above all before it."""
        params, cluster_labels = placement.local((state.params, state.cluster_labels))
        judged = state._replace(params=params, cluster_labels=cluster_labels)
        score = distributed.from_first(self._judge(judged) if distributed.is_first() else 0.0)
        if score > self.score:
            self.score = score
            self.best.save(state, self._meta | {"score": score})
