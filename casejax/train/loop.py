"""From a data set to a trained state: resume, train, log, checkpoint."""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from casejax.errors import CheckpointError, DivergedError, Interrupted, TrainingWarning
from casejax.records import Dataset
from casejax.run import record
from casejax.run.config import Config
from casejax.run.folder import Restored, check_folder, describe, extent, keep_lines_up_to, restore_run
from casejax.run.state import TrainState, initial_state
from casejax.runtime import distributed, files
from casejax.runtime import mesh as placement
from casejax.runtime.checkpoint import Checkpoints
from casejax.runtime.interrupt import StopRequest
from casejax.runtime.lock import own_folder
from casejax.train import health
from casejax.train.feed import make_advance
from casejax.train.progress import Progress
from casejax.train.pseudo_labelling import PseudoLabels
from casejax.train.selection import Selection
from casejax.train.step import num_steps_per_epoch
from casejax.train.teaching import Teaching, check_teacher, provenance
from casejax.train.writers import check_writer, make_writer


@dataclass(frozen=True)
class Trained:
    """A trained network: its structure, the selected state, and the state before the first step.

    `score` is what the judge gave the selected state, None where the last step was taken; `remarks` say what went
    wrong, if something did.
    """

    graphdef: nnx.GraphDef[Any]
    state: TrainState
    initial: TrainState
    seconds: float
    score: float | None = None
    remarks: tuple[str, ...] = ()


def train(
    dataset: Dataset,
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    devices: int | None = None,
    selection: Selection | None = None,
    console: Console | None = None,
    teacher: Restored | None = None,
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
      teacher: of a student; default the run that the option `teacher` names.

    Raises:
      DataError: fewer videos than one batch takes.
      CheckpointError: `out` holds a run and `resume` is off, a run of other options or data, or one that is going on; a
        teacher that does not fit the data.
      OptionError: a student without anything to learn from.
      WriteError: a disk that is full, or a folder that cannot be written.
      Interrupted: SIGINT or SIGTERM came; the state was saved.
      DivergedError: the loss or the state stopped being finite; the last good checkpoint stays.
      PeerLostError: another process of the run is gone.

    Warns:
      TrainingWarning: the run has most likely diverged, though all is finite.

    Example:
      >>> from pathlib import Path
      >>> from casejax import data, run, train
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> config = run.Config.of("asl", hidden=8, num_snippets=32, batch_size=6, epochs=1)
      >>> trained = train.train(world, config, Path("out"), devices=1)
      >>> int(trained.state.step), int(trained.initial.step)
      (1, 0)
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
    try:
        with own_folder(out), Checkpoints(out / "checkpoints") as checkpoints:
            check_folder(checkpoints, config, describe(config, dataset), resume=resume)
            checkpoints.tidy()
            if checkpoints.latest is not None:
                taught_by = checkpoints.meta().get("teacher")  # its labels are in the state
            else:
                teacher = teacher or _named_teacher(config)
                if teacher is not None:
                    check_teacher(teacher, dataset)
                taught_by = None if teacher is None else provenance(teacher)
            meta = describe(config, dataset, taught_by)
            if selection is None:
                if distributed.is_first():  # left by a run that was killed before its first checkpoint
                    shutil.rmtree(out / "selected", ignore_errors=True)
                return _fit(dataset, config, out, mesh, checkpoints, meta, console, teacher=teacher)
            with Checkpoints(out / "selected", keep=None) as best:
                best.tidy()
                candidates = _Candidates(selection, best, checkpoints, meta)
                return _fit(dataset, config, out, mesh, checkpoints, meta, console, candidates, teacher)
    except jax.errors.JaxRuntimeError as error:
        distributed.raise_peer_lost(error)


def _named_teacher(config: Config) -> Restored | None:
    """The run that the options of a student name as its teacher."""
    own = {each.name: each.value for each in config.options() if each.acts and each.group == "settings"}
    named = own.get("teacher") if config.method.learns_instances else None
    return restore_run(Path(named)) if named else None


def _fit(
    dataset: Dataset,
    config: Config,
    out: Path,
    mesh: Mesh,
    checkpoints: Checkpoints,
    meta: dict[str, Any],
    console: Console,
    candidates: _Candidates | None = None,
    teacher: Restored | None = None,
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
    lines = keep_lines_up_to(metrics_file, step) if distributed.is_first() else []
    first_largest = health.largest(initial.params)
    remarks: list[str] = []

    def remark(text: str) -> None:
        if text and not remarks and distributed.is_first():  # the first says it all
            remarks.append(text)
            warnings.warn(TrainingWarning(text), stacklevel=4)

    def check(what: str) -> None:
        if what:
            kept = f"the checkpoint at step {checkpoints.latest}" if checkpoints.latest is not None else "the start"
            skip = f", or go on from {kept} with --resume --on-nan skip, which leaves out steps that end so"
            raise DivergedError(
                f"not finite by step {step}: {what}. Start again in another --out with a lower --learning-rate"
                + (skip if config.training.on_nan == "stop" else f"; what was good until then is {kept}")
            )

    def look() -> None:
        what, largest = health.measure(state)
        check(what)
        remark(health.growth(largest, first_largest, step))

    def keep() -> None:
        look()
        found = None if candidates is None else candidates.found
        checkpoints.save(state, meta | {"selected": found})
        if candidates is not None:
            candidates.forget_others()

    if distributed.is_first():
        record.write_start(out, config, dataset, step=step, devices=mesh.size)
    writer = make_writer(config.training.log if distributed.is_first() else "none", out, config.as_dict(), step=step)

    clusters = config.flat().get("num_clusters")
    bounds = {} if clusters is None else {"log_num_clusters": math.log(clusters)}  # of the entropies, in pictures
    labeller: PseudoLabels | Teaching | None = None
    if config.method.learns_instances:
        say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
        labeller = Teaching(dataset, graphdef, config, mesh, teacher=teacher, say=say)
    elif config.flat().get("pseudo_labels"):
        labeller = PseudoLabels(dataset, graphdef, config, mesh)
    began = time.perf_counter()
    with (
        make_advance(dataset.train, dataset.classes, graphdef, config, mesh) as advance,
        StopRequest() as stop,
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
            metrics = health.without_skipped(metrics)
            step += count
            if not math.isfinite(metrics["loss"]):
                check(health.not_finite(metrics))
            rate = count * snippets_a_step / (time.perf_counter() - since)
            lines.append({"step": step, **metrics, "snippets_per_second": round(rate, 1)} | bounds)
            if distributed.is_first():
                files.append_line(metrics_file, json.dumps(files.plain(lines[-1]), allow_nan=False))
            remark(health.rise(lines))
            writer.write(step, metrics)
            progress.update(step, metrics["loss"], rate)
            if candidates is not None and (step % candidates.every == 0 or step == total):
                look()
                candidates.consider(state)
            if step - saved >= config.training.checkpoint_every:
                keep()
                saved = step
        if step > saved or checkpoints.latest is None:
            keep()
        if step < total:
            raise Interrupted(signum, step)
    seconds = time.perf_counter() - began
    if candidates is None:
        return Trained(graphdef, state, initial, seconds, remarks=tuple(remarks))
    return Trained(graphdef, candidates.restore(state), initial, seconds, candidates.score, tuple(remarks))


class _Candidates:
    """The best state so far by a judge, kept in a checkpoint of its own, which the run's next checkpoint names.

    Only what the run's newest checkpoint names counts when the run is resumed: candidates after it are judged again.
    """

    def __init__(self, selection: Selection, best: Checkpoints, run: Checkpoints, meta: dict[str, Any]) -> None:
        self.best, self.every = best, selection.every
        self._judge, self._meta = selection.judge, meta
        self.found = _found(best, run)
        self.forget_others()

    @property
    def score(self) -> float:
        """Of the best state; minus infinity before there is one."""
        return -math.inf if self.found is None else float(self.found["score"])

    def consider(self, state: TrainState) -> None:
        """Keep this state if its score is above all before it."""
        params, cluster_labels = placement.local((state.params, state.cluster_labels))
        judged = state._replace(params=params, cluster_labels=cluster_labels)
        score = distributed.from_first(self._judge(judged) if distributed.is_first() else 0.0)
        if score > self.score:
            self.best.save(state, self._meta | {"score": score})
            self.found = {"step": int(state.step), "score": score}

    def forget_others(self) -> None:
        """Delete all states but the best; those before it are kept until the run's checkpoint names it."""
        self.best.keep_only(None if self.found is None else self.found["step"])

    def restore(self, template: TrainState) -> TrainState:
        """The best state."""
        return self.best.restore(template, None if self.found is None else self.found["step"])


def _found(best: Checkpoints, run: Checkpoints) -> dict[str, Any] | None:
    """Step and score of the state that the run's newest checkpoint names as the best."""
    if run.latest is None:
        return None
    meta = run.meta()
    if "selected" not in meta:  # of a release that did not say: a state of the steps done is this run's
        steps = [step for step in best.steps if step <= run.latest]
        return {"step": steps[-1], "score": float(best.meta(steps[-1])["score"])} if steps else None
    found: dict[str, Any] | None = meta["selected"]
    if found is not None and found["step"] not in best.steps:
        raise CheckpointError(
            f"{best.folder}: lacks step {found['step']}, the best of {run.folder.parent} by step {run.latest}; start "
            "again in another --out"
        )
    return found
