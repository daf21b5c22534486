"""Arguments for every public function of arrays in six rooms, and the rooms as users have them.

The rooms are imported anew, since the checks of annotations which tests put around every call would find what the
functions must find themselves.
"""

import importlib
import sys
from typing import NamedTuple

import jax
import numpy as np

ROOMS = ("ot", "losses", "labels", "localize", "alignment", "evaluate")


def as_users_have_them():
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "casejax"}
    try:
        return {room: importlib.import_module(f"casejax.{room}") for room in (*ROOMS, "records")}
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "casejax"]:
            del sys.modules[name]
        sys.modules.update(kept)


rooms = as_users_have_them()
draw = np.random.default_rng(0)


def normal(*shape):
    return draw.normal(size=shape).astype(np.float32)


def shares(*shape):
    return draw.random(shape).astype(np.float32).clip(0.05, 0.95)


def some(*shape):
    return draw.random(shape) < 0.6


class Sizes(NamedTuple):
    """Videos, snippets, classes, dimensions, rows and columns; B, N <= 5."""

    B: int = 2
    T: int = 6
    C: int = 3
    D: int = 4
    N: int = 5
    K: int = 3


def arguments(sizes=Sizes()):
    """The arguments of every function by name. Arrays, also those in lists and tables, are what is varied."""
    B, T, C, D, N, K = sizes
    S = min(K, 3)
    lengths = np.array([T] + [max(1, T * 2 // 3)] * (B - 1))[:, None]
    MASK = np.arange(T) < lengths
    ROWS = np.arange(N) < max(1, N - 1)
    CLASSES = np.float32((np.arange(C) + np.arange(B)[:, None]) % min(C, 2) == 0)
    SEGMENTS = np.float32([[0, 4], [1, 5], [6, 8]])[:S]
    SCORES = np.float32([0.5, 0.25, 0.75])[:S]
    HIDDEN = np.array([True, True, False])[:S]
    ONE_CLASS = np.zeros(S, np.int32)
    TABLE = rooms["records"].SegmentTable(
        np.array([0, 0, 1])[:S], np.array([0, 1, 0])[:S], np.float32([[0, 2], [3, 5], [1, 4]])[:S], SCORES
    )
    TRUTH = TABLE._replace(score=np.ones(S, np.float32))
    CYCLE = {"log_probabilities": np.log(shares(B, T)), "start": np.eye(T, dtype=bool)[np.arange(B) % T]}
    CYCLE["times"] = shares(B, T)
    LOG_CYCLE = {"log_cycle": np.log(shares(B, T, T)), "targets": shares(B, T, T), "mask": MASK}
    COST = {"cost": shares(B, T, D), "x_mask": MASK, "y_mask": np.arange(D) < lengths}
    FRAMES = {"embeddings": normal(B, T, D), "mask": MASK}
    X, Y = {"x": normal(B, T, D), "x_mask": MASK}, {"y": normal(B, K, D), "y_mask": np.ones((B, K), bool)}
    LENGTH = {"length": np.int32(5 * T), "num_frames": 3}
    LENGTHS = np.int32([9, 8, 7]) if T > 1 else np.int32([1, 1, 1])
    KEY = {"key": jax.random.key(0)}
    POTENTIALS = {"row_marginal": shares(N), "column_marginal": shares(K), "mask": ROWS}
    BINARY = np.int32([0, 1, 1, 0, 1])[:N]
    EXAMPLES = {"features": normal(N, D), "labels": np.int32([0, 1, 2, 1, 0])[:N] % C, "centers": normal(C, D)}

    return {
        "ot.sinkhorn": {"scores": normal(N, K), "log_prior": normal(N, K), "column_init": normal(K), **POTENTIALS},
        "ot.sinkhorn_objective": {
            # of a result the plan and its potentials are read
            "result": rooms["ot"].SinkhornOutput(*jax.device_get(rooms["ot"].sinkhorn(normal(N, K))[:3]), *[None] * 4),
            "scores": normal(N, K),
            "log_prior": normal(N, K),
            **POTENTIALS,
        },
        "ot.sinkhorn_embeddings": {"embeddings": normal(N, D), "prototypes": normal(K, D), **POTENTIALS},
        "ot.gaussian_rank_prior": {"attention": shares(N), "cluster_foreground": shares(K), "std": 0.5},
        "ot.ascending_rank": {"attention": shares(N)},
        "ot.published_rank": {"attention": shares(N)},
        "ot.equipartition": {"num_columns": K + 1, "mass": np.float32(2)},
        "ot.foreground_marginal": {"labels": shares(N), "mask": ROWS},
        "losses.video_cross_entropy": {"video_scores": normal(B, C), "labels": CLASSES},
        "losses.generalized_bce": {"probabilities": shares(B, T), "labels": shares(B, T), "mask": MASK},
        "losses.soft_cross_entropy": {"logits": normal(B, C), "targets": shares(B, C)},
        "losses.softmax_bce": {"logits": normal(B, C), "targets": shares(B, C)},
        "losses.mil_loss": {"cas": normal(B, T, C), "labels": CLASSES, "mask": MASK, "divisor": 2},
        "losses.shared_out": {"labels": CLASSES},
        "losses.with_background": {"labels": CLASSES, "background": 1.0},
        "losses.entropy": {"labels": shares(N, K)},
        "losses.center_loss": {**EXAMPLES, "background": normal(N, D), "mask": ROWS, "candidates": some(N, C)},
        "losses.triplets": {**EXAMPLES, "background": normal(N, D), "candidates": some(N, C)},
        "losses.nearest_negative": {**EXAMPLES, "candidates": some(N, C)},
        "losses.mined_contrast": {
            "embedding": normal(B, T, D),
            "query": MASK,
            "positive": MASK[:, ::-1],
            "negatives": some(B, T),
            "temperature": 0.1,
        },
        "losses.best_of_kinds": {
            "kinds": some(B, T, C) | (np.arange(T) == 0)[:, None],
            "by": shares(B, T, C),
            "divisor": 2,
            "mask": MASK,
        },
        "losses.select_top_k": {"scores": normal(B, T, C), "mask": MASK, "divisor": 2},
        "losses.selected_mean": {"values": normal(B, T, C), "selected": some(B, T, C) | (np.arange(T) == 0)[:, None]},
        "losses.top_k_mean": {"values": normal(B, T, C), "mask": MASK, "divisor": 2},
        "losses.pooled": {"cas": normal(B, T, C), "selected": some(B, T, C) | (np.arange(T) == 0)[:, None]},
        "losses.class_probabilities": {"cas": [normal(B, T, C), normal(B, T, C)]},
        "losses.calibrate": {"cas": [normal(B, T, C), normal(B, T, C)], "foreground": shares(B, T), "cas_weight": 0.25},
        "losses.stream_mean": {"streams": [normal(B, T), normal(B, T)]},
        "losses.masked_mean": {"values": normal(B, T), "mask": MASK},
        "losses.time_mean": {"x": normal(B, T, D), "mask": MASK},
        "losses.time_softmax": {"logits": normal(B, T, C), "mask": MASK},
        "losses.moving_average": {"x": normal(B, T, D), "window": 3, "mask": MASK},
        "losses.without_padding": {"x": normal(B, T, D), "mask": MASK},
        "losses.lengths": {"x": normal(B, T, D), "mask": MASK},
        "losses.unit": {"x": normal(N, D)},
        "losses.norm": {"x": normal(N, D)},
        "losses.inverse_norm": {"x": normal(N, D)},
        "losses.angular_distance": {"features": normal(N, D), "centers": normal(C, D)},
        "losses.guarded_arccos": {"x": shares(N)},
        "labels.foreground_labels": {"selected": some(B, T, C), "labels": CLASSES},
        "labels.transport_labels": {
            "logits": normal(N, K),
            "log_prior": normal(N, K),
            "column_marginal": shares(K),
            "mask": ROWS,
        },
        "labels.model_labels": {"logits": normal(N, K), "mask": ROWS},
        "labels.harden": {"labels": shares(N, K)},
        "labels.mean_probabilities": {"streams": [normal(N, K), normal(N, K)]},
        "labels.prototypes": {"weights": shares(N, K), "embeddings": normal(N, D)},
        "labels.foreground_background": {"labels": shares(N), "mask": ROWS},
        "labels.cluster_logits": {"cluster_prototypes": normal(K, D), "fb_prototypes": normal(2, D)},
        "labels.snippet_labels": {
            "segments": SEGMENTS,
            "scores": SCORES,
            "num_snippets": 9,
            "mask": HIDDEN,
            "snippet_mask": np.arange(9) < 8,
        },
        "labels.contrast_rows": {
            "segments": SEGMENTS,
            "num_snippets": 9,
            "mask": np.ones(S, bool),
            "snippet_mask": np.arange(9) < 8,
        },
        "labels.least_mass": {
            "rows": np.float32([[1, 1, 0, 0], [0, -1, 1, 1]])[:B, :N],
            "targets": np.float32([0.5, 0.25])[:B],
            "mask": np.array([True, True])[:B],
            "value_mask": np.array([True, True, True, False])[:N],
        },
        "labels.power_margin": {"length": shares(N)},
        "labels.linear_margin": {"length": shares(N)},
        "labels.pseudo_label_loss": {"logits": normal(B, T, C), "labels": normal(B, T, C), "mask": MASK},
        "labels.label_target": {
            "history": rooms["labels"].LabelHistory(shares(B, T), shares(B, T), np.int32(2)),
            "epoch": np.int32(260),
        },
        "labels.label_weight": {"epoch": np.int32(201)},
        "localize.localize": {
            "scores": shares(B, T, C),
            "video_scores": shares(B, C),
            "durations": np.float32([4, 3, 5, 2, 9])[:B],
            "ranked": shares(B, T, C),
            "lengths": lengths[:, 0],
        },
        "localize.localize_proposals": {
            "segments": np.sort(shares(B, K, 2), axis=2),
            "labels": np.zeros((B, K), np.int32),
            "scores": shares(B, K),
            "video_scores": shares(B, C),
            "snippet_seconds": shares(B),
        },
        "localize.localize_tcam": {"tcams": [normal(T, C), normal(T, C)]},
        "localize.select_classes": {"video_scores": shares(B, C)},
        "localize.smooth": {"curves": shares(B, T), "width": 3},
        "localize.upsample": {"scores": shares(B, T), "scale": 3},
        "localize.propose": {"curves": shares(B, T), "thresholds": np.float32([0.25, 0.5])},
        "localize.outer_inner_contrast": {
            "curves": shares(B, T),
            "curve": np.array([0, 1]) % B,
            "first": np.array([1, 2]) % T,
            "last": np.maximum(np.array([3, 2]) % T, np.array([1, 2]) % T),
        },
        **{
            f"localize.{name}": {"segment": SEGMENTS, "score": SCORES, "group": ONE_CLASS}
            for name in ("soft_nms", "hard_nms", "decay_once_nms", "fuse_table")
        },
        "localize.fuse_instances": {
            "segments": SEGMENTS,
            "scores": SCORES,
            "logits": normal(S),
            "labels": ONE_CLASS,
            "mask": HIDDEN,
        },
        "localize.temporal_iou": {"a": SEGMENTS, "b": SEGMENTS[::-1]},
        "localize.candidate_overlap": {"best": SEGMENTS, "candidate": SEGMENTS[::-1]},
        **{
            f"localize.{name}": {
                "values": normal(N, 2),
                "weights": np.full(N, 0.2, np.float32),
                "group": np.zeros(N, np.int32),
                "num_groups": 1,
            }
            for name in ("gaussian", "exponential", "uniform", "student_t")
        },
        "localize.confidences": {"tcam": normal(T, C), "divisor": 2},
        **{
            f"alignment.{name}": COST
            for name in ("dtw", "dtw_table", "dtw_path", "alignment_matrix", "visitation_matrix")
        },
        "alignment.soft_dtw_divergence": {**X, **Y},
        "alignment.soft_dtw_barycenter": {
            "sequences": normal(B, T, D),
            "mask": MASK,
            "weights": shares(B),
            "init": normal(3, D),
            "num_steps": 2,
        },
        "alignment.smooth_min": {"values": normal(N, K), "gamma": 0.1, "where": np.arange(K) < max(1, K - 1)},
        "alignment.min_gamma": {"values": normal(N, K), "gamma": 0.1, "where": np.arange(K) < max(1, K - 1)},
        "alignment.hard_min": {"values": normal(N, K), "where": np.arange(K) < max(1, K - 1)},
        "alignment.contrastive_cost": {**X, **Y},
        "alignment.squared_distance": {**X, **Y},
        "alignment.inner_product": {"x": normal(B, T, D), "y": normal(B, K, D)},
        "alignment.negative_squared_distance": {"x": normal(B, T, D), "y": normal(B, K, D)},
        "alignment.gta_loss": FRAMES,
        "alignment.pair_losses": {**X, **Y},
        "alignment.cycle_cross_entropy": LOG_CYCLE,
        "alignment.cycle_cross_entropy_published": LOG_CYCLE,
        "alignment.tcc_loss": {**FRAMES, "times": shares(B, T)},
        "alignment.stochastic_tcc_loss": {
            **FRAMES,
            "times": shares(B, T),
            "cycles": np.int32([[0, 1, 0], [1, 0, 1]]) % B,
            "starts": np.int32([0, 1]) % T,
        },
        **{
            f"alignment.{name}": {**CYCLE, "mask": MASK}
            for name in ("classification", "regression_mse", "regression_mse_var", "regression_huber")
        },
        "alignment.tcn_npairs_loss": {"anchors": normal(B, T, D), "positives": normal(B, T, D), "mask": MASK},
        "alignment.tcn_triplet_loss": {"anchors": normal(B, D), "positives": normal(B, D), "negatives": normal(B, D)},
        "alignment.d3tw_loss": {
            **X,
            "positive": normal(B, K, D),
            "negative": normal(B, K, D),
            "positive_mask": np.ones((B, K), bool),
            "negative_mask": np.ones((B, K), bool),
            "margin": 9.0,
        },
        "alignment.shuffle_and_learn_loss": {"logits": normal(N, 2), "labels": BINARY},
        "alignment.triplet_features": {
            "embeddings": normal(B, T, D),
            "videos": np.int32([0, 1, 1]) % B,
            "frames": np.int32([[0, 1, 2], [1, 2, 3], [2, 1, 5]]) % T,
        },
        "alignment.speednet_loss": {"logits": normal(N), "labels": BINARY},
        "alignment.clip_features": FRAMES,
        "alignment.sample_frames": {**LENGTH, **KEY},
        "alignment.context_indices": {"frames": np.int32([0, 20, 40])},
        "alignment.tcn_pairs": {"length": np.int32(5 * T), "num_pairs": 3, **KEY},
        "alignment.random_cycles": {"lengths": LENGTHS, "num_cycles": 2, **KEY},
        "alignment.random_triplets": {"lengths": LENGTHS, "per_video": 2, **KEY},
        "alignment.speed_clips": {**LENGTH, **KEY},
        "alignment.regular_speed_clips": {**LENGTH, **KEY},
        "alignment.frames_without_portions": {**LENGTH, **KEY},
        "evaluate.judge": {
            "predictions": TABLE,
            "ground_truth": TRUTH,
            "classes": ["run", "jump"],
            "protocol": rooms["evaluate"].CASE,
            "videos": ["a", "b"],
            "ambiguous": TABLE,
        },
        "evaluate.between": {"tious": np.float64([0.1, 0.3, 0.5]), "low": 0.1, "high": 0.3},
        "evaluate.evaluate_detections": {
            "predictions": TABLE,
            "ground_truth": TRUTH,
            "classes": ["run", "jump"],
            "tious": np.float32([0.25, 0.5]),
        },
        "evaluate.match_detections": {"predictions": TABLE, "ground_truth": TRUTH, "classes": ["run", "jump"]},
        "evaluate.average_precision": {
            "matches": rooms["evaluate"].match_detections(TABLE, TRUTH, ["run", "jump"], tious=[0.25, 0.5]),
            "ground_truth": TRUTH,
            "classes": ["run", "jump"],
            "num_listed": np.array([1, 2]),
        },
        "evaluate.diagnose": {"predictions": TABLE, "ground_truth": TRUTH, "classes": ["run", "jump"], "tiou": 0.4},
        "evaluate.kinds_by_rank": {
            "kind": np.array([0, 5, 1, 3])[: S + 1],
            "label": np.array([0, 1, 0, 1])[: S + 1],
            "num_ground_truth": np.array([1, 2]),
            "multiples": 2,
        },
        "evaluate.quantile_groups": {"values": shares(N + 4), "parts": 3},
        "evaluate.touches": {"segments": TABLE, "others": TRUTH},
        "evaluate.bootstrap_detections": {
            "predictions": TABLE,
            "ground_truth": TRUTH,
            "classes": ["run", "jump"],
            "videos": ["a", "b"],
            "num_resamples": 5,
        },
        "evaluate.classification_metrics": {"scores": shares(B, C), "selected": CLASSES > 0, "labels": CLASSES},
        "evaluate.results_dict": {"table": TABLE, "video_ids": ["a", "b"], "classes": ["run", "jump"]},
        "evaluate.parse_results": {
            "results": {"results": {"a": [{"label": "run", "score": np.float32(0.5), "segment": np.float32([0, 2])}]}},
            "video_ids": ["a", "b"],
            "classes": ["run", "jump"],
        },
    }


JOBS = arguments()
MASK = JOBS["losses.time_mean"]["mask"]
NO_ARRAYS = {
    "losses.initial_centers",
    "alignment.anchor_pairs",
    "alignment.all_pairs",
    "evaluate.bootstrap_difference",
    "evaluate.gain_without",
    "evaluate.average_precision_of_groups",
    "evaluate.match_names",
    "evaluate.bare_name",
}
