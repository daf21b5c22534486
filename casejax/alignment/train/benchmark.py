"""The alignment benchmark: controls and learned embeddings of pose tracks, compared by Kendall's tau."""

from __future__ import annotations

import time
import typing
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import casejax
from casejax.alignment.data.pose_augmentation import augment_poses
from casejax.alignment.data.pose_distances import FOUR_FLIPS, clock_features, pose_neighbours, with_context
from casejax.alignment.data.video_set import pack_videos
from casejax.alignment.evaluate.kendall import (
    KendallTau,
    kendall_tau,
    nearest_neighbours,
    squared_euclidean,
    tau_of_neighbours,
    warping_path,
)
from casejax.alignment.evaluate.table import HONEST, PUBLISHED, Protocol, Row, format_table
from casejax.alignment.train.methods import METHODS
from casejax.alignment.train.picture import synchronised_poses
from casejax.alignment.train.trainer import AlignConfig, embed_videos, network_params, train_embedders
from casejax.array_types import Float
from casejax.data.penn_action import PoseTrack
from casejax.data.poses import normalise_pose, pose_features, raw_features
from casejax.errors import DataError
from casejax.report.canvas import save
from casejax.runtime.files import write_json, write_text

PROTOCOLS = (PUBLISHED, HONEST)
NAMES = {
    "speednet": "SpeedNet",
    "sal": "SaL",
    "tcn": "TCN",
    "d3tw": "D3TW*",
    "tcc": "TCC",
    "gta": "GTA",
}
"""The methods as tables name them."""


@typing.runtime_checkable
class Video(typing.Protocol):
    """What any layout of alignment gives: a number of frames of an action."""

    @property
    def action(self) -> str:
        """Name of the action."""

    def __len__(self) -> int:
        """Number of frames."""


Measure = Callable[[Sequence[PoseTrack], Protocol], KendallTau]


def clock(tracks: Sequence[Sized], protocol: Protocol) -> KendallTau:
    """What min(t, 15) alone gets, which a context frame clipped at the start of the video tells."""
    return tau_under([clock_features(len(track)) for track in tracks], protocol)


def raw_poses(tracks: Sequence[PoseTrack], protocol: Protocol) -> KendallTau:
    """Pixels over the size of the picture, visible or not."""
    return tau_under([raw_features(track) for track in tracks], protocol)


def best_without_learning(tracks: Sequence[PoseTrack], protocol: Protocol) -> KendallTau:
    """Normalised poses of a frame and of 15 frames earlier, under the best of four flips for each pair of videos."""
    poses = [
        with_context(normalise_pose(track)).frames(slice(protocol.first_frame, None, protocol.stride))
        for track in tracks
        if protocol.reaches(len(track))
    ]
    return tau_of_neighbours(pose_neighbours(poses, flips=FOUR_FLIPS))


CONTROLS: Mapping[str, Measure] = {"clock": clock, "raw": raw_poses, "no learning": best_without_learning}


def run_benchmark(
    tracks: Sequence[PoseTrack],
    config: AlignConfig,
    out: Path,
    *,
    methods: Sequence[str] = tuple(METHODS),
    seeds: Sequence[int] = (0, 1, 2),
    shared: bool = False,
    resume: bool = False,
    devices: int | None = None,
    console: Console | None = None,
) -> dict[str, list[Row]]:
    """Train every method, measure it and the controls on the test part, print the tables and write `out`.

    `out` then holds a folder of checkpoints and metrics for each method, `results.json`, `tables.txt` and, where there
    is matplotlib, a picture for each action of two videos synchronised by the last method with the last seed.

    Args:
      tracks: videos of both parts; those flagged `train` are learned from, the others measured.
      config: how embedders are trained.
      out: folder of the run.
      methods: names out of `METHODS`.
      seeds: every method is trained once for each.
      shared: train one network for all actions; otherwise one for each, as in Table 4 of GTA's supplement.
      resume: go on in a folder that holds a run; methods that are done are read back.
      devices: spread the networks over this many devices; default all.
      console: where progress and tables are printed; default standard output.

    Returns:
      The rows of the table of each protocol, by its title.

    Raises:
      DataError: an action without two videos in both parts.
      As `train_embedders`.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    parts = {train: [track for track in tracks if track.train == train] for train in (True, False)}
    actions = tuple(sorted({track.action for track in tracks}))
    check_parts(parts, actions)
    test = {action: [track for track in parts[False] if track.action == action] for action in actions}
    rows: dict[str, list[Row]] = {protocol.title: [] for protocol in PROTOCOLS}
    for name, measure in CONTROLS.items():
        for protocol in PROTOCOLS:
            rows[protocol.title].append(Row(name, [{a: measure(test[a], protocol) for a in actions}]))
    features = {action: [pose_features(track) for track in test[action]] for action in actions}
    videos, names, _ = pack_videos([pose_features(t) for t in parts[True]], [t.action for t in parts[True]])
    learners = [-1] if shared else list(range(len(names)))
    meta = {
        "casejax": casejax.__version__,
        "config": asdict(config),
        "actions": list(names),
        "train_videos": len(parts[True]),
        "seeds": list(seeds),
        "shared": shared,
    }
    minutes, embeddings = {}, {}
    for method in methods:
        since = time.perf_counter()
        graphdef, state = train_embedders(
            videos,
            METHODS[method],
            config,
            actions=[action for _ in seeds for action in learners],
            seeds=[seed for seed in seeds for _ in learners],
            augment=augment_poses,
            out=out / method,
            meta=meta | {"method": method},
            resume=resume,
            devices=devices,
        )
        minutes[method] = (time.perf_counter() - since) / 60
        taus: dict[str, list[dict[str, KendallTau]]] = {protocol.title: [] for protocol in PROTOCOLS}
        for s in range(len(seeds)):
            for protocol in PROTOCOLS:
                taus[protocol.title].append({})
            for a, action in enumerate(actions):
                params = network_params(state, s * len(learners) + (0 if shared else a))
                embeddings[action] = embed_videos(graphdef, params, features[action], config)
                for protocol in PROTOCOLS:
                    taus[protocol.title][-1][action] = tau_under(embeddings[action], protocol)
        for title, seeds_taus in taus.items():
            rows[title].append(Row(NAMES[method], seeds_taus))
        shown = "  ".join(f"{100 * rows[protocol.title][-1].mean:.1f}" for protocol in PROTOCOLS)
        console.print(f"{NAMES[method]:9s} tau {shown}  in {minutes[method]:.1f} minutes")
    write_tables(rows, out, meta | {"minutes": minutes}, console)
    if methods:
        _draw(test, embeddings, out / "pictures", console)
    return rows


def _draw(
    test: Mapping[str, Sequence[PoseTrack]],
    embeddings: Mapping[str, Sequence[Float[np.ndarray, "_ d"]]],
    folder: Path,
    console: Console,
) -> None:
    """A picture an action: its first two test videos synchronised by the embeddings."""
    try:
        for action, tracks in test.items():
            first, second = embeddings[action][:2]
            distances = squared_euclidean(first, second)
            figure = synchronised_poses(
                title=f"{action}: {tracks[0].name} and {tracks[1].name}",
                reference=normalise_pose(tracks[0]),
                other=normalise_pose(tracks[1]),
                distances=distances,
                matches=nearest_neighbours(distances),
                path=warping_path(distances),
            )
            folder.mkdir(parents=True, exist_ok=True)
            save(figure, folder / f"{action}.png")
    except ImportError as error:
        console.print(f"no pictures: {error}")
    else:
        console.print(f"pictures in {folder}")


def write_tables(
    rows: Mapping[str, Sequence[Row]], out: Path, results: Mapping[str, Any], console: Console, *, more: str = ""
) -> None:
    """Print the table of each protocol, and write `out`/tables.txt and `out`/results.json.

    Args:
      rows: the rows of each protocol, by its title.
      out: folder.
      results: what `results.json` holds beside the taus.
      console: where the tables are printed.
      more: what follows them.
    """
    tables = "\n\n".join([*(format_table(protocol, rows[protocol.title]) for protocol in PROTOCOLS), more]).rstrip()
    console.print("\n" + tables)
    write_text(out / "tables.txt", tables + "\n")
    taus = {title: {row.name: row.as_dict() for row in table} for title, table in rows.items()}
    write_json(out / "results.json", {**results, "tau": taus})


def tau_under(embeddings: Sequence[Float[np.ndarray, "_ d"]], protocol: Protocol) -> KendallTau:
    """Kendall's tau of the videos of an action under a protocol."""
    return kendall_tau(embeddings, stride=protocol.stride, first_frame=protocol.first_frame)


def check_parts(parts: Mapping[bool, Sequence[Video]], actions: Sequence[str]) -> None:
    """Refuse data of which an action could not be learned or measured.

    Args:
      parts: the training videos under True, the test videos under False.
      actions: the names that must be in both.

    Raises:
      DataError: naming the action, what it has and a remedy.
    """
    remedy = "add videos, or leave the action out with --actions"
    for train, part in parts.items():
        for action in actions:
            lengths = [len(video) for video in part if video.action == action]
            if len(lengths) < 2:
                raise DataError(
                    f"action {action} has {len(lengths)} {'training' if train else 'test'} video(s); two are needed in "
                    f"either part: {remedy}"
                )
            for protocol in PROTOCOLS if not train else ():
                if sum(protocol.reaches(length) for length in lengths) < 2:
                    raise DataError(
                        f"action {action} has fewer than two test videos that reach beyond frame "
                        f"{protocol.first_frame + 2 * protocol.stride}, by which alignment is measured; {remedy}"
                    )
