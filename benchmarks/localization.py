"""From features to mAP at THUMOS14's size: localisation and evaluation beside the loops and the pandas program.

Run:     python benchmarks/localization.py                   two minutes on 2 CPU cores
         python benchmarks/localization.py --skip-inference  half a minute

The peers are what everybody runs, written here for the comparison. Localisation: a loop over videos, classes,
thresholds and proposals, NumPy means inside and outside of each, and per class a while loop of suppression.
Evaluation: the ActivityNet scheme, predictions in a pandas frame, a loop by descending score that looks its video up
in a `groupby`, classes spread over 2 processes by joblib. Both are checked to agree with ours before a time is printed.

Last printout:

    AMD EPYC, 2 cores, cpu, jax 0.10.2, numpy 2.4.6
    210 videos x 750 snippets, 3,358 instances
    32,772 proposals, the same detections to 1e-6
    same AP, largest difference 2e-16; mAP 0.1:0.7 43.9%
                              peer     ours   ratio    bound
    localise, decay once    822 ms  57.7 ms   14.2x  5.27 ms
    localise, soft        1,074 ms  71.9 ms   14.9x  5.24 ms
    evaluate              6,157 ms  47.2 ms  130.4x  4.82 ms
    bound of localise, decay once: memory traffic: curves against 9 thresholds
    bound of localise, soft: the same
    bound of evaluate: arithmetic: tIoU of 448,336 pairs of one video and class
    end to end; inference, compiled in 0.5 s, is bound by arithmetic: its encoder products alone take 2.88 s at
    166 GFLOP/s, 86% of it
                                       ours  share
    inference                      3,357 ms  86.8%
    localise, decay once            57.7 ms   1.5%
    evaluate                        47.2 ms   1.2%
    bootstrap                        404 ms  10.4%
    features to mAP with interval  3,866 ms
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measure import machine, medians, milliseconds, print_table, seconds

from casejax import localize
from casejax.evaluate.bootstrap import bootstrap_detections
from casejax.evaluate.detection import TIOUS, evaluate_detections
from casejax.inference.scoring import make_scorer, score_videos
from casejax.records import Features, Localization, SegmentTable
from casejax.run.config import Config
from casejax.run.state import initial_state

NUM_VIDEOS, NUM_SNIPPETS, NUM_CLASSES, NUM_INSTANCES, DIM = 210, 750, 20, 3358, 1024
CLASSES = tuple(f"class {c}" for c in range(NUM_CLASSES))
Peer = Callable[..., list[tuple[float, float, float]]]


class World(NamedTuple):
    """Scores and annotations of a test split."""

    scores: np.ndarray  # (V, T, C) float32
    video_scores: np.ndarray  # (V, C) float32
    durations: np.ndarray  # (V,) seconds
    truth: SegmentTable


def make_world(rng: np.random.Generator) -> World:
    """Instances at random, and scores that are smooth noise plus a bump over every instance."""
    durations = np.clip(200 * np.exp(0.7 * rng.standard_normal(NUM_VIDEOS)), 10, 1500)
    video = np.sort(np.r_[np.arange(NUM_VIDEOS), rng.integers(0, NUM_VIDEOS, NUM_INSTANCES - NUM_VIDEOS)])
    classes = np.stack([np.arange(NUM_VIDEOS) % NUM_CLASSES, rng.integers(0, NUM_CLASSES, NUM_VIDEOS)])
    second = rng.random(NUM_VIDEOS) < 0.13
    classes[1] = np.where(second, classes[1], classes[0])
    label = classes[rng.integers(0, 2, NUM_INSTANCES), video]
    length = np.minimum(2.9 * np.exp(0.8 * rng.standard_normal(NUM_INSTANCES)), durations[video] / 2)
    start = rng.random(NUM_INSTANCES) * (durations[video] - length)
    truth = SegmentTable.from_rows(video, label, np.stack([start, start + length], axis=1))

    kernel = np.hanning(15) / np.linalg.norm(np.hanning(15))
    logits = rng.standard_normal((NUM_VIDEOS, NUM_CLASSES, NUM_SNIPPETS))
    for v, c, first, last in zip(video, label, start, start + length, strict=True):
        begin, end = (int(at / durations[v] * NUM_SNIPPETS) for at in (first, last))
        logits[v, c, begin : end + 1] += 1.2
    logits = np.apply_along_axis(np.convolve, 2, logits, kernel, mode="same") - 1.5
    video_scores = np.full((NUM_VIDEOS, NUM_CLASSES), 0.01)
    for row in classes:
        video_scores[np.arange(NUM_VIDEOS), row] = rng.uniform(0.3, 0.5, NUM_VIDEOS)
    scores = 1 / (1 + np.exp(-logits))
    return World(np.float32(scores.transpose(0, 2, 1)), np.float32(video_scores), durations, truth)


# The loops that localise


def localize_in_loops(world: World, suppress: Peer) -> list[tuple[int, int, float, float, float]]:
    """Rows (video, class, start, end, score), with the options of `Localization` but for those of suppression."""
    rows = []
    for v in range(len(world.scores)):
        chosen = [c for c in range(NUM_CLASSES) if world.video_scores[v, c] >= 0.25]
        for c in chosen or [int(np.argmax(world.video_scores[v]))]:
            curve = upsample_one(world.scores[v, :, c], 24)
            seconds = world.durations[v] / len(curve)
            proposals = []
            for threshold in localize.THRESHOLDS:
                active = np.where(curve >= threshold)[0]
                if not active.any():
                    continue
                for run in np.split(active, np.where(np.diff(active) != 1)[0] + 1):
                    score = contrast_one(curve, run[0], run[-1]) + 0.2 * world.video_scores[v, c]
                    proposals.append((run[0] * seconds, (run[-1] + 1) * seconds, score))
            rows += [(v, c, *row) for row in suppress(np.array(proposals))] if proposals else []
    return rows


def upsample_one(scores: np.ndarray, scale: int) -> np.ndarray:
    """Linear interpolation, the last slope continued."""
    position = np.arange(len(scores) * scale) / scale
    curve = np.interp(position, np.arange(len(scores)), scores)
    beyond = position > len(scores) - 1
    curve[beyond] = scores[-1] + (position[beyond] - (len(scores) - 1)) * (scores[-1] - scores[-2])
    return curve


def contrast_one(curve: np.ndarray, first: int, last: int) -> float:
    """Mean inside minus mean in the margins."""
    width = 0.15 * (last - first + 1)
    begin, end = max(int(first - width), 0), min(int(last + width), len(curve) - 1)
    margins = np.concatenate([curve[begin:first], curve[last + 1 : end + 1]])
    return np.mean(curve[first : last + 1]) - (np.mean(margins) if len(margins) else 0)


def overlaps(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Temporal IoU of one segment with others."""
    both = np.maximum(np.minimum(one[1], others[:, 1]) - np.maximum(one[0], others[:, 0]), 0)
    return both / ((one[1] - one[0]) + (others[:, 1] - others[:, 0]) - both)


def decay_once_loop(proposals: np.ndarray) -> list[tuple[float, float, float]]:
    """Suppression in which what is suppressed returns at the end with a decayed score."""
    rest = np.argsort(proposals[:, 2], kind="stable")[::-1]
    kept, decayed = [], []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(tuple(proposals[best]))
        iou = overlaps(proposals[best], proposals[rest])
        for i, value in zip(rest[iou >= 0.4], iou[iou >= 0.4], strict=True):
            decayed.append((*proposals[i, :2], proposals[i, 2] * np.exp(-(value**2) / 0.35)))
        rest = rest[iou < 0.4]
    return kept + decayed


def greedy_loop(segment: np.ndarray, score: np.ndarray) -> list[int]:
    """Rows that hard suppression keeps, by NumPy one pick at a time."""
    rest, kept = np.argsort(score)[::-1], []
    while len(rest):
        kept.append(int(rest[0]))
        rest = rest[overlaps(segment[rest[0]], segment[rest]) < 0.4]
    return kept


def soft_loop(proposals: np.ndarray) -> list[tuple[float, float, float]]:
    """Gaussian Soft-NMS."""
    rest = proposals[np.argsort(proposals[:, 2], kind="stable")[::-1]]
    picks = []
    while len(rest):
        best = np.argmax(rest[:, 2])
        pick, rest = rest[best], np.delete(rest, best, axis=0)
        picks.append(tuple(pick))
        rest[:, 2] *= np.exp(-(overlaps(pick, rest) ** 2) / 0.5)
    return picks


# The pandas program that evaluates


def evaluate_with_pandas(truth: Any, predictions: Any) -> np.ndarray:
    """AP of every class at every tIoU, (C, K), from frames with columns video, label, start, end (and score)."""
    by_class, predicted = truth.groupby("label"), predictions.groupby("label")
    tasks = [
        (by_class.get_group(c).reset_index(drop=True), predicted.get_group(c).reset_index(drop=True))
        for c in range(NUM_CLASSES)
    ]
    try:
        from joblib import Parallel, delayed
    except ImportError:
        return np.array([class_precision(*task) for task in tasks])
    return np.array(Parallel(n_jobs=2)(delayed(class_precision)(*task) for task in tasks))


def class_precision(truth: Any, predictions: Any) -> np.ndarray:
    """AP of one class at every tIoU."""
    predictions = predictions.iloc[np.argsort(predictions["score"].values, kind="stable")[::-1]].reset_index(drop=True)
    taken = np.zeros((len(TIOUS), len(truth)), bool)
    true = np.zeros((len(TIOUS), len(predictions)))
    by_video = truth.groupby("video")
    for row, prediction in predictions.iterrows():
        try:
            candidates = by_video.get_group(prediction["video"])
        except KeyError:
            continue
        iou = overlaps(prediction[["start", "end"]].to_numpy(float), candidates[["start", "end"]].values)
        best_first = np.argsort(iou)[::-1]
        for k, tiou in enumerate(TIOUS):
            for at in best_first:
                if iou[at] < tiou:
                    break
                if not taken[k, candidates.index[at]]:
                    taken[k, candidates.index[at]] = True
                    true[k, row] = 1
                    break
    hits = np.cumsum(true, axis=1)
    precision = hits / np.arange(1, len(predictions) + 1)
    return np.array([interpolated(p, r) for p, r in zip(precision, hits / len(truth), strict=True)])


def interpolated(precision: np.ndarray, recall: np.ndarray) -> float:
    """Area under the curve of the best precision at each recall or a higher one."""
    precision, recall = np.r_[0, precision, 0], np.r_[0, recall, 1]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    moved = np.where(recall[1:] != recall[:-1])[0] + 1
    return float(np.sum((recall[moved] - recall[moved - 1]) * precision[moved]))


# Ours, and the bounds


class Inference(NamedTuple):
    """Inference on all videos, and what it is bound by."""

    run: Callable[[], object]
    product: Callable[[], object]  # one product of one encoder on one batch
    products: float  # how many of these inference cannot do without
    compile_seconds: float  # what the first call of a batch takes beyond a second


def make_inference(rng: np.random.Generator) -> Inference:
    """A network with random parameters, and features of THUMOS14's lengths."""
    config = Config.of("case")
    lengths = np.clip(330 * np.exp(0.5 * rng.standard_normal(NUM_VIDEOS)), 30, 2000).astype(np.int64)
    streams = tuple(rng.random((int(lengths.sum()), DIM), np.float32) for _ in range(2))
    graphdef, state = initial_state(config, (DIM, DIM), NUM_CLASSES)
    scorer = make_scorer(graphdef, config)
    score = partial(scorer, state.params, state.cluster_labels)
    batch = tuple(np.zeros((16, NUM_SNIPPETS, DIM), np.float32) for _ in streams)
    first, second = (seconds(partial(score, batch)) for _ in range(2))
    run = partial(score_videos, score, Features.end_to_end(streams, lengths), num_snippets=NUM_SNIPPETS)
    x = jnp.asarray(rng.random((16 * NUM_SNIPPETS, DIM), np.float32))
    w = jnp.asarray(rng.random((DIM, config.settings.base.hidden), np.float32))
    product = jax.jit(jnp.matmul)
    places = 16 * NUM_SNIPPETS
    batches = [np.minimum(part, NUM_SNIPPETS) for part in np.array_split(np.sort(lengths), range(16, NUM_VIDEOS, 16))]
    halves = sum(1 if part.sum() <= places // 2 else 2 for part in batches)
    return Inference(run, lambda: product(x, w), 4 * halves / 2, first - second)


def comparisons(world: World) -> Callable[[], object]:
    """Comparing the curves, already upsampled, with every threshold, a block that stays in cache at a time."""
    v, c = np.nonzero(localize.select_classes(world.video_scores))
    curves = localize.upsample(world.scores[v, :, c])
    block = max(1, 2**18 // curves.shape[1])
    active = np.empty((block, curves.shape[1]), bool)

    def run() -> None:
        for begin in range(0, len(curves), block):
            part = curves[begin : begin + block]
            for threshold in localize.THRESHOLDS:
                np.greater_equal(part, threshold, out=active[: len(part)])

    return run


def pair_overlaps(detections: SegmentTable, truth: SegmentTable) -> tuple[Callable[[], object], int]:
    """The tIoU of every pair of a detection and an instance of its video and class, and how many pairs there are."""
    instances: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(truth.video.tolist(), truth.label.tolist(), strict=True)):
        instances.setdefault(key, []).append(row)
    keys = zip(detections.video.tolist(), detections.label.tolist(), strict=True)
    i, j = np.array([(i, j) for i, key in enumerate(keys) for j in instances.get(key, ())]).T
    return partial(localize.temporal_iou, detections.segment[i], truth.segment[j]), len(i)


def frame_columns(table: SegmentTable) -> dict[str, np.ndarray]:
    """The columns of a pandas frame."""
    start, end = table.segment.T
    return {"video": table.video, "label": table.label, "start": start, "end": end, "score": table.score}


def check_detections(ours: SegmentTable, rows: list[tuple[int, int, float, float, float]]) -> None:
    """Same videos and classes, same segments and scores to 1e-6, in the same order."""
    theirs = np.array(rows)
    assert theirs.shape == (len(ours.score), 5), (theirs.shape, len(ours.score))
    mine = np.column_stack([ours.video, ours.label, ours.segment, ours.score])
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--skip-inference", action="store_true", help="localisation and evaluation only")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    world = make_world(rng)

    variants = {
        "decay once": (Localization(nms_plus_one=False), decay_once_loop),
        "soft": (Localization(nms="soft", nms_decay=0.5, nms_plus_one=False), soft_loop),
    }
    localizers = {
        name: partial(localize.localize, world.scores, world.video_scores, world.durations, options=options)
        for name, (options, _) in variants.items()
    }
    for name, (_, loop) in variants.items():
        check_detections(localizers[name](), localize_in_loops(world, loop))
    detections = localizers["decay once"]()
    evaluate = partial(evaluate_detections, detections, world.truth, CLASSES)
    names = [f"video {v}" for v in range(NUM_VIDEOS)]
    bootstrap = partial(bootstrap_detections, detections, world.truth, CLASSES, videos=names)
    print(machine("numpy"))
    print(f"{NUM_VIDEOS} videos x {NUM_SNIPPETS} snippets, {NUM_INSTANCES:,} instances")
    print(f"{len(detections.score):,} proposals, the same detections to 1e-6")

    mine = {f"localise, {name}": run for name, run in localizers.items()} | {"evaluate": evaluate}
    peers = {f"localise, {name}": partial(localize_in_loops, world, loop) for name, (_, loop) in variants.items()}
    try:
        import pandas

        frames = [pandas.DataFrame(frame_columns(table)) for table in (world.truth, detections)]
        peers["evaluate"] = partial(evaluate_with_pandas, *frames)
        difference = np.abs(evaluate().ap - peers["evaluate"]()).max()
        assert difference < 1e-9, difference
        print(f"same AP, largest difference {difference:.1g}; mAP 0.1:0.7 {evaluate().average(0.1, 0.7):.1%}")
    except ImportError:
        print('pandas is not installed: pip install -e ".[bench]"')
    compare, overlap, count = comparisons(world), *pair_overlaps(detections, world.truth)
    bounds = {
        "localise, decay once": (compare, "memory traffic: curves against 9 thresholds"),
        "localise, soft": (compare, "the same"),
        "evaluate": (overlap, f"arithmetic: tIoU of {count:,} pairs of one video and class"),
    }
    times = medians(
        {f"peer {name}": run for name, run in peers.items()}
        | {f"ours {name}": run for name, run in mine.items()}
        | {f"bound {name}": run for name, (run, _) in bounds.items()},
        repeats=arguments.repeats,
        warm=False,  # the checks have called them all
    )
    rows = []
    for name in bounds:
        ours = times[f"ours {name}"]
        peer = times.get(f"peer {name}")
        against = ("-", "-") if peer is None else (milliseconds(peer), f"{peer / ours:.1f}x")
        rows.append([name, against[0], milliseconds(ours), against[1], milliseconds(times[f"bound {name}"])])
    print_table(["", "peer", "ours", "ratio", "bound"], rows)
    for name, (_, what) in bounds.items():
        print(f"bound of {name}: {what}")
    print_suppression(rng)
    if not arguments.skip_inference:
        print_end_to_end(
            rng,
            evaluate_seconds=times["ours evaluate"],
            localize_seconds=times["ours localise, decay once"],
            bootstrap=bootstrap,
        )


def print_suppression(rng: np.random.Generator, *, count: int = 10_000) -> None:
    """Hard suppression of one video and class, where proposals overlap by thousands and where they hardly do."""
    score, rows = rng.random(count), []
    for name, span, low, high in (("dense", 100, 20, 60), ("sparse", 10 * count, 5, 30)):
        start = span * rng.random(count)
        segment = np.stack([start, start + rng.uniform(low, high, count)], axis=1)
        loop, ours = partial(greedy_loop, segment, score), partial(localize.hard_nms, segment, score)
        assert ours().row.tolist() == loop(), name
        times = medians({"loop": loop, "ours": ours}, repeats=5)
        row = [f"suppress {count:,}, {name}", milliseconds(times["loop"]), milliseconds(times["ours"])]
        rows.append([*row, f"{times['loop'] / times['ours']:.1f}x"])
    print_table(["", "loop", "ours", "ratio"], rows)


def print_end_to_end(
    rng: np.random.Generator, *, localize_seconds: float, evaluate_seconds: float, bootstrap: Callable[[], object]
) -> None:
    """All stages from features to an interval, and what inference is bound by."""
    inference = make_inference(rng)
    times = medians({"inference": inference.run, "product": inference.product, "bootstrap": bootstrap}, repeats=3)
    stages = {
        "inference": times["inference"],
        "localise, decay once": localize_seconds,
        "evaluate": evaluate_seconds,
        "bootstrap": times["bootstrap"],
    }
    gflop = 2 * 16 * NUM_SNIPPETS * DIM * Config.of("case").settings.base.hidden / 1e9
    bound = inference.products * times["product"]
    print(
        f"end to end; inference, compiled in {inference.compile_seconds:.1f} s, is bound by arithmetic: its encoder "
        f"products alone take {bound:.2f} s at\n{gflop / times['product']:,.0f} GFLOP/s, "
        f"{bound / times['inference']:.0%} of it"
    )
    total = sum(stages.values())
    rows = [[name, milliseconds(value), f"{value / total:.1%}"] for name, value in stages.items()]
    print_table(["", "ours", "share"], [*rows, ["features to mAP with interval", milliseconds(total), ""]])


if __name__ == "__main__":
    main()
