"""Slow, obvious float64 NumPy versions of the library's functions."""

import math

import numpy as np


def log_sum_exp(x, axis):
    top = x.max(axis=axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(x - top).sum(axis=axis))


def sinkhorn(scores, *, prior=None, rows=None, columns=None, epsilon=0.05, num_iters=3):
    """Columns first, rows last, in the log domain; returns plan and both potentials."""
    scores = np.asarray(scores, np.float64)
    n, k = scores.shape
    rows = np.ones(n) if rows is None else np.asarray(rows, np.float64)
    columns = np.ones(k) if columns is None else np.asarray(columns, np.float64)
    columns = columns / columns.sum() * rows.sum()
    kernel = scores / epsilon + (0 if prior is None else np.log(np.asarray(prior, np.float64)))
    u, v = np.zeros(n), np.zeros(k)
    for _ in range(num_iters):
        v = np.log(columns) - log_sum_exp(kernel + u[:, None], 0)
        u = np.log(rows) - log_sum_exp(kernel + v[None, :], 1)
    return np.exp(kernel + u[:, None] + v[None, :]), u, v


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def select_top_k(scores, divisor, mask=None):
    """Sort every column of every video; of equal scores the earlier snippet comes first."""
    selected = np.zeros(scores.shape, bool)
    for b in range(scores.shape[0]):
        real = np.arange(scores.shape[1]) if mask is None else np.flatnonzero(mask[b])
        k = min(max(len(real) // divisor, 1), len(real))
        for c in range(scores.shape[2]):
            best = sorted(real, key=lambda t: (-scores[b, t, c], t))[:k]
            selected[b, best, c] = True
    return selected


def generalized_bce(p, q, exponent, guard=1e-7):
    """Eq. 2 for one video, term by term."""
    total = 0.0
    for labels, chances in ((q, p), (1 - q, 1 - p)):
        numerator = sum(w * (1 - (x + guard) ** exponent) / exponent for w, x in zip(labels, chances, strict=True))
        total += numerator / (sum(labels) + guard)
    return total


def cross_entropy(logits, targets):
    return -(targets * np.log(softmax(logits))).sum(axis=-1)


def prototypes(weights, embeddings):
    out = np.zeros((weights.shape[1], embeddings.shape[1]))
    for k in range(weights.shape[1]):
        if weights[:, k].sum() > 0:
            out[k] = sum(w * e for w, e in zip(weights[:, k], embeddings, strict=True)) / weights[:, k].sum()
    return out


def loop_iou(a, b, extra=0.0):
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]) + extra)
    union = (a[1] - a[0] + extra) + (b[1] - b[0] + extra) - overlap
    return overlap / union if union > 0 else 0.0


def loop_greedy(segment, score, group, threshold, extra=0.0, sigma=None):
    """(row, score) in output order; with `sigma` the suppressed follow, decayed."""
    out = []
    for g in sorted(set(group.tolist())):
        rest = sorted(np.flatnonzero(group == g), key=lambda i: (-score[i], -i))
        kept, decayed = [], []
        while rest:
            best, rest = rest[0], rest[1:]
            kept.append((best, score[best]))
            left = []
            for i in rest:
                iou = loop_iou(segment[best], segment[i], extra)
                if iou < threshold:
                    left.append(i)
                elif sigma is not None:
                    decayed.append((i, score[i] * math.exp(-(iou**2) / sigma)))
            rest = left
        out += kept + decayed
    return out
