"""The alignment benchmark on pictures: clock, backbone and learned embeddings, by Kendall's tau and by phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

import casejax
from casejax.alignment.data.frames import FrameVideo
from casejax.alignment.evaluate.phases import (
    LabelledVideos,
    classify_frames,
    classify_frames_by_event,
    few_shot_classification,
    phase_classification,
    phase_progression,
)
from casejax.alignment.evaluate.table import Row
from casejax.alignment.train.activation_pictures import draw_activations
from casejax.alignment.train.benchmark import NAMES, PROTOCOLS, check_parts, clock, tau_under, write_tables
from casejax.alignment.train.image_trainer import (
    ImageConfig,
    ImageState,
    over_frames,
    start_image_network,
    train_image_network,
)
from casejax.alignment.train.methods import METHODS
from casejax.array_types import Array
from casejax.errors import DataError, OptionError

Embed = Callable[[Array], Array]
Embedded = Mapping[FrameVideo, np.ndarray]

SHORTEST = 5
"""Frames that a training video must have: Shuffle and Learn draws five."""

FEW = 10
"""The most labelled videos of few-shot classification, as published."""


def run_image_benchmark(
    videos: Sequence[FrameVideo],
    config: ImageConfig,
    out: Path,
    *,
    methods: Sequence[str] = ("gta",),
    seed: int = 0,
    weights: Path | None = None,
    elements: bool = False,
    activations: int = 0,
    resume: bool = False,
    console: Console | None = None,
) -> dict[str, list[Row]]:
    """Embed pictures by the backbone and by every method, measure the test part, print the tables and write `out`.

    The row "backbone" is the mean over the picture of its feature maps, before any training. `out` then holds a
    folder of checkpoints and metrics for each method, `results.json`, `tables.txt` and, where asked for, pictures.

    Args:
      videos: videos of both parts, `read_frame_videos`.
      config: how embedders are built and trained; with `steps=0` the backbone alone is measured.
      out: folder of the run.
      methods: names out of `METHODS`; one network is trained for each, on all actions.
      seed: of everything.
      weights: Keras' file of the backbone's weights; default random ones.
      elements: the phases are FineGym's elements: frames are classified over all actions and action by action.
        Otherwise phases are those of an action, and progress through them is measured as well.
      activations: frames of a test video of each action to draw with what the last method looks at; 0 for none.
      resume: go on in a folder that holds a run; methods that are done are read back.
      console: where progress and tables are printed; default standard output.

    Returns:
      The rows of the table of each protocol, by its title.

    Raises:
      OptionError: an option out of range, or one whose library is missing.
      DataError: an action without two videos in both parts, or with phases for some of its videos alone.
      As `train_image_network`.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    config.check()
    _check_libraries(videos, weights, activations)
    actions = _check_videos(videos)
    parts = {train: [video for video in videos if video.train == train] for train in (True, False)}
    rows: dict[str, list[Row]] = {
        protocol.title: [Row("clock", [{a: clock(_of(parts[False], a), protocol) for a in actions}])]
        for protocol in PROTOCOLS
    }
    meta = {
        "casejax": casejax.__version__,
        "config": asdict(config) | {"depths": list(config.depths)},
        "weights": None if weights is None else weights.name,
        "seed": seed,
        "actions": actions,
        "train_videos": len(parts[True]),
    }
    labelled = any(video.phases is not None for video in videos)
    scores: dict[str, Any] = {}

    def measure(name: str, embed: Embed) -> None:
        shown = videos if labelled else parts[False]
        embedded = {video: over_frames(embed, video, config).astype(np.float64) for video in shown}
        for protocol in PROTOCOLS:
            taus = {a: tau_under([embedded[v] for v in _of(parts[False], a)], protocol) for a in actions}
            rows[protocol.title].append(Row(name, [taus]))
        if labelled:
            measured = _element_scores if elements else _phase_scores
            scores[name] = measured(parts, actions, embedded)

    graphdef, state = start_image_network(METHODS["gta"], config, seed=seed, weights=weights)
    measure("backbone", _backbone(graphdef, state))
    minutes = {}
    for method in methods if config.steps else ():
        since = time.perf_counter()
        graphdef, state = start_image_network(METHODS[method], config, seed=seed, weights=weights)
        state = train_image_network(
            parts[True],
            graphdef,
            state,
            METHODS[method],
            config,
            out / method,
            seed=seed,
            meta=meta | {"method": method},
            resume=resume,
        )
        minutes[method] = (time.perf_counter() - since) / 60
        console.print(f"{NAMES[method]} trained in {minutes[method]:.1f} minutes")
        measure(NAMES[method], _embedder(graphdef, state))
    if activations and minutes:
        first = [_of(parts[False], action)[0] for action in actions]
        draw_activations(first, graphdef, state, config, out / "pictures", num_frames=activations)
        console.print(f"pictures in {out / 'pictures'}")
    write_tables(rows, out, meta | {"minutes": minutes, "labels": scores}, console, more=_format_scores(scores))
    return rows


def _embedder(graphdef: nnx.GraphDef[Any], state: ImageState) -> Embed:
    return jax.jit(nnx.merge(graphdef, state.params, state.statistics).embedder)


def _backbone(graphdef: nnx.GraphDef[Any], state: ImageState) -> Embed:
    """Mean over the picture of the feature maps of the frame itself, (1, N, C)."""
    network = nnx.merge(graphdef, state.params, state.statistics).embedder
    return jax.jit(lambda images: network.features(images[:, :, -1:])[:, :, -1].mean(axis=(2, 3)))


def _of(videos: Sequence[FrameVideo], action: str) -> list[FrameVideo]:
    return [video for video in videos if video.action == action]


def _labelled(videos: Sequence[FrameVideo], embedded: Embedded) -> LabelledVideos:
    return LabelledVideos([embedded[v] for v in videos], [v.phases for v in videos if v.phases is not None])


def _phase_scores(
    parts: Mapping[bool, Sequence[FrameVideo]], actions: Sequence[str], embedded: Embedded
) -> dict[str, dict[str, float]]:
    """By action: test accuracy for each share of the labels, few-shot accuracy, and R^2 of the progression."""
    scores = {}
    for action in actions:
        train, test = (_of(parts[part], action) for part in (True, False))
        if train[0].phases is None:
            continue
        known, asked = _labelled(train, embedded), _labelled(test, embedded)
        num_phases = 1 + max(int(labels.max()) for labels in (*known.labels, *asked.labels))
        found = {f"SVM {fraction:.0%}": s.test for fraction, s in phase_classification(known, asked).items()}
        few = few_shot_classification(known, asked, num_videos=range(1, min(FEW, len(train)) + 1))
        found |= {f"few-shot {result.num_videos}": result.mean for result in few}
        if num_phases > 1:
            progress = phase_progression(known, asked, num_phases=num_phases)
            found |= {f"R^2 {fraction:.0%}": s.test for fraction, s in progress.items()}
        scores[action] = found
    return scores


def _element_scores(
    parts: Mapping[bool, Sequence[FrameVideo]], actions: Sequence[str], embedded: Embedded
) -> dict[str, dict[str, float]]:
    """Test accuracy of one machine for all elements, and of one for each event."""
    known, asked = (_labelled(parts[part], embedded) for part in (True, False))
    events = [[video.action for video in parts[part]] for part in (True, False)]
    by_event = classify_frames_by_event(known, events[0], asked, events[1])
    return {
        "all events": {"SVM": classify_frames(known, asked).test},
        **{action: {"SVM": by_event[action].test} for action in actions},
    }


def _format_scores(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Lines for a terminal, one for each row of the table and each action; everything in percent."""
    lines = []
    for name, of_name in scores.items():
        for action, found in of_name.items():
            numbers = ", ".join(f"{what} {100 * value:.1f}" for what, value in found.items())
            lines.append(f"  {name}, {action}: {numbers}")
    return "\n".join(["Phases of test frames in percent", *lines]) if lines else ""


def _check_videos(videos: Sequence[FrameVideo]) -> list[str]:
    """Refuse videos that can't be learned from or measured; the actions otherwise."""
    actions = sorted({video.action for video in videos})
    check_parts({train: [v for v in videos if v.train == train] for train in (True, False)}, actions)
    for video in videos:
        if video.train and len(video) < SHORTEST:
            raise DataError(
                f"{video.paths[0].parent}: has {len(video)} frames; a training video needs {SHORTEST}, leave it out"
            )
    for action in actions:
        bare = [video for video in videos if video.action == action and video.phases is None]
        if 0 < len(bare) < len(_of(videos, action)):
            raise DataError(
                f"{bare[0].paths[0].parent}: has no phases.txt, as other videos of {action} have; add it, or remove "
                "theirs"
            )
    return actions


def _check_libraries(videos: Sequence[FrameVideo], weights: Path | None, activations: int) -> None:
    for needed, module, extra, purpose in (
        (True, "PIL", "images", "reading pictures"),
        (weights is not None, "h5py", "keras", "--weights"),
        (any(video.phases is not None for video in videos), "sklearn", "evaluate", "measuring phases"),
        (activations > 0, "matplotlib", "plots", "--activations"),
    ):
        if needed and find_spec(module) is None:
            raise OptionError(f"{purpose} needs a library that is missing: pip install 'casejax[{extra}]'")
