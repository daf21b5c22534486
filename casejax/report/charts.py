"""The charts of a report page, as specifications of Vega-Lite: plain values for JSON.

Widths are left out; the page sets them to the room that there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from casejax.report import pictures

Spec = dict[str, Any]

ORANGE, BLUE, PINK, GREEN, VERMILLION, GREY = "#E69F00", "#2E8BC0", "#CC79A7", "#00A67D", "#D55E00", "#999999"
"""Colours that stay apart under the common kinds of colour blindness, on white and on black."""

MANY = (BLUE, ORANGE, GREEN, VERMILLION, PINK, "#56B4E9", "#B5A642", "#8E6BBF", "#A0522D", "#5F9EA0")
"""For classes and kinds."""

MOST_SNIPPETS = 1500  # of a timeline; more are averaged in groups
MOST_SEGMENTS = 60  # of the detections of a video, the best
MOST_STEPS = 400  # of a training curve

CURVES = {
    pictures.ATTENTION: ("P^A attention", ORANGE),
    pictures.CLUSTERS: ("P^T clusters", BLUE),
    pictures.FUSED: ("P^M fused", PINK),
    pictures.BEST_CLASS: ("highest class score", VERMILLION),
}


def columns(**values: Any) -> Spec:
    """Rows of data from columns of one length, written as columns, which takes a third of the room."""
    plain = {name: _numbers(column) for name, column in values.items()}
    return {"data": {"values": [plain]}, "transform": [{"flatten": list(plain)}]}


def training(heading: str, metrics: Sequence[Mapping[str, Any]], names: Mapping[str, tuple[str, str]]) -> Spec | None:
    """Metrics over steps, a line each; None where no line of the log has any.

    Args:
      heading: of the chart.
      metrics: the lines of `metrics.jsonl`.
      names: keys of the lines with what they are called.
    """
    step, value, name = [], [], []
    for key, (label, _) in names.items():
        own = [(line["step"], line[key]) for line in metrics if "step" in line and line.get(key) is not None]
        for s, v in own[:: max(1, len(own) // MOST_STEPS)]:
            step.append(s)
            value.append(v)
            name.append(_plain(label))
    if not step:
        return None
    y: Spec = {"field": "value", "type": "quantitative", "title": None}
    if names is pictures.ERRORS and min(value) > 0:
        y |= {"scale": {"type": "log"}, "axis": {"tickCount": 5, "format": "~e"}}
    order = list(dict.fromkeys(name))
    return {
        "title": heading,
        "height": 200,
        **columns(step=step, value=value, name=name),
        "mark": {"type": "line", "tooltip": True, "point": len(set(step)) < 30},
        "encoding": {
            "x": {"field": "step", "type": "quantitative"},
            "y": y,
            "color": {"field": "name", "title": None, "scale": {"domain": order, "range": list(MANY[: len(order)])}},
        },
    }


def precision_by_tiou(tious: Sequence[float], mean_ap: Sequence[float], interval: Sequence[Sequence[float]]) -> Spec:
    """MAP over tIoU, %, in the band of its interval; `interval` may be empty."""
    x = {"field": "tIoU", "type": "quantitative", "scale": {"zero": False}}
    layers: list[Spec] = []
    if len(interval):
        low, high = (100 * np.asarray(interval)).T
        band = {"x": x, "y": {"field": "low", "type": "quantitative", "title": "mAP, %"}, "y2": {"field": "high"}}
        mark = {"type": "area", "opacity": 0.25, "color": BLUE}
        layers.append({**columns(tIoU=tious, low=low, high=high), "mark": mark, "encoding": band})
    line = {"x": x, "y": {"field": "mAP", "type": "quantitative", "title": "mAP, %", "scale": {"zero": True}}}
    mark = {"type": "line", "point": True, "tooltip": True, "color": BLUE}
    layers.append({**columns(tIoU=tious, mAP=100 * np.asarray(mean_ap)), "mark": mark, "encoding": line})
    return {"title": "mAP by tIoU", "height": 200, "layer": layers}


def timeline(
    *,
    duration: float,
    truth: Sequence[tuple[str, float, float]],
    found: Sequence[tuple[str, float, float, float]],
    heading: str = "",
    covered: tuple[float, float] = (0.0, 0.0),
    curves: Mapping[str, np.ndarray] | None = None,
    scores: Mapping[str, np.ndarray] | None = None,
) -> Spec:
    """One video over time: annotation, curves, class scores, detections, and a strip in which to choose what is seen.

    Args:
      duration: seconds.
      truth: label, start, end of the annotated instances.
      found: label, start, end, score of the detections, the best first.
      heading: what the curves are.
      covered: from when to when their values stand evenly, seconds.
      curves: (T,) values by name; None or empty for none.
      scores: the same of classes.
    """
    edge = {"data": {"values": [{"t": 0}, {"t": duration}]}, "mark": {"type": "point", "opacity": 0}}
    scale = {"domain": {"param": "seen"}, "nice": False, "zero": False}
    time = {"field": "t", "type": "quantitative", "title": None, "scale": scale, "axis": {"labels": False}}
    edge["encoding"] = {"x": time}
    views = [_lanes("Ground truth", truth, time, edge, GREEN)]
    for name, values, colors in ((heading, curves, CURVES), ("Class scores", scores, {})):
        if values:
            views.append(_curves(name, values, covered, time, edge, colors))
    views.append(_lanes("Predictions", found[:MOST_SEGMENTS], time, edge, VERMILLION))
    strip = {**time, "scale": {"domain": [0, duration], "nice": False}, "title": "seconds", "axis": {}}
    lane = columns(start=[each[1] for each in truth], end=[each[2] for each in truth])
    brush = {"name": "seen", "select": {"type": "interval", "encodings": ["x"]}, "value": {"x": [0, duration]}}
    bars = {"x": {**strip, "field": "start"}, "x2": {"field": "end"}}
    shown = {"title": "drag here to zoom", "height": 26, "params": [brush]}
    views.append({**shown, **lane, "mark": {"type": "bar", "color": GREEN, "clip": True}, "encoding": bars})
    return {"vconcat": views, "spacing": 8}


def _lanes(heading: str, segments: Sequence[tuple[Any, ...]], time: Spec, edge: Spec, color: str) -> Spec:
    """Segments as bars, a lane a class; a score is their opacity."""
    names = list(dict.fromkeys(each[0] for each in segments))
    data = columns(**{name: [each[i] for each in segments] for i, name in enumerate(("label", "start", "end"))})
    shown = [{"field": name} for name in ("label", "start", "end")]
    encoding: Spec = {"x": {**time, "field": "start"}, "x2": {"field": "end"}}
    encoding["y"] = {"field": "label", "type": "nominal", "title": None, "sort": names}
    if segments and len(segments[0]) > 3:
        data = columns(**{n: [each[i] for each in segments] for i, n in enumerate(("label", "start", "end", "score"))})
        best = max(each[3] for each in segments)
        least = min(0.0, *(each[3] for each in segments))
        opacity = {"domain": [least, max(best, least + 1e-9)], "range": [0.12, 1]}
        encoding["opacity"] = {"field": "score", "type": "quantitative", "scale": opacity, "legend": None}
        shown.append({"field": "score"})
    encoding["tooltip"] = [{**each, "format": ".2f"} if each["field"] != "label" else each for each in shown]
    bars = {**data, "mark": {"type": "bar", "color": color, "clip": True, "minBandSize": 6}, "encoding": encoding}
    title = heading if segments else f"{heading}: none"
    return {"title": title, "height": 20 * max(len(names), 1), "layer": [edge, bars] if segments else [edge]}


def _curves(
    heading: str,
    curves: Mapping[str, np.ndarray],
    covered: tuple[float, float],
    time: Spec,
    edge: Spec,
    colors: Mapping[str, tuple[str, str]],
) -> Spec:
    """Curves as steps, with a rule that says the values where the pointer is."""
    given = np.stack(list(curves.values())).astype(np.float64)
    group = -(-given.shape[1] // MOST_SNIPPETS)
    edges = np.linspace(*covered, given.shape[1] + 1)[:-1:group]
    parts = np.add.reduceat(given, np.arange(0, given.shape[1], group), axis=1)
    values = parts / np.diff(np.append(np.arange(0, given.shape[1], group), given.shape[1]))
    edges, values = np.append(edges, covered[1]), np.append(values, values[:, -1:], axis=1)
    names = [colors.get(name, (name, ""))[0] for name in curves]
    shades = [colors.get(name, ("", MANY[i % len(MANY)]))[1] for i, name in enumerate(curves)]
    long = columns(
        t=np.tile(edges, len(names)), value=values.reshape(-1), curve=np.repeat(names, values.shape[1]).tolist()
    )
    palette = {"domain": names, "range": shades}
    color = {"field": "curve", "title": None, "scale": palette}
    y: Spec = {"field": "value", "type": "quantitative", "title": None}
    if values.min() >= 0 and values.max() <= 1:
        y["scale"] = {"domain": [0, 1]}
    line = {"type": "line", "interpolate": "step-after", "clip": True, "strokeWidth": 1.4}
    tips = [{"field": "t", "title": "seconds", "format": ".1f"}]
    wide = columns(t=edges[:-1], **{f"c{i}": row[:-1] for i, row in enumerate(values)})
    tips += [{"field": f"c{i}", "title": name, "format": ".3f"} for i, name in enumerate(names)]
    at = {"type": "point", "on": "pointerover", "nearest": True, "encodings": ["x"], "clear": "pointerout"}
    # A name of its own in every view: parameters of a page's chart share one scope.
    hover = f"at_{heading.split()[0].lower() or 'curves'}"
    opacity = {"condition": {"param": hover, "empty": False, "value": 0.6}, "value": 0}
    rule = {
        **wide,
        "params": [{"name": hover, "select": at}],
        "mark": {"type": "rule", "color": GREY, "clip": True},
        "encoding": {"x": time, "opacity": opacity, "tooltip": tips},
    }
    drawn = {**long, "mark": line, "encoding": {"x": time, "y": y, "color": color}}
    return {
        "title": heading,
        "height": 110,
        "layer": [edge, drawn, rule],
        "resolve": {"scale": {"color": "independent"}},
    }


def clusters(foreground: np.ndarray, size: np.ndarray | None) -> Spec:
    """Clusters by their foreground probability, (K,); the bar's colour says how many snippets they hold."""
    order = np.argsort(-foreground, kind="stable")
    data = columns(cluster=order.astype(str).tolist(), foreground=foreground[order])
    if size is not None:
        share = 100 * size[order]
        data = columns(cluster=order.astype(str).tolist(), foreground=foreground[order], share=share)
    encoding: Spec = {
        "x": {"field": "cluster", "type": "nominal", "sort": None, "axis": {"labelOverlap": True, "labelAngle": 0}},
        "y": {"field": "foreground", "type": "quantitative", "title": "Q^C of foreground", "scale": {"domain": [0, 1]}},
    }
    if size is not None:
        title = "% of the snippets"
        encoding["color"] = {"field": "share", "type": "quantitative", "title": title, "scale": {"scheme": "viridis"}}
    mark = {"type": "bar", "tooltip": True, "color": BLUE}
    half = {"data": {"values": [{"y": 0.5}]}, "mark": {"type": "rule", "strokeDash": [4, 4], "color": GREY}}
    half["encoding"] = {"y": {"field": "y", "type": "quantitative"}}
    return {
        "title": "Foreground probability",
        "height": 200,
        "layer": [{**data, "mark": mark, "encoding": encoding}, half],
    }


def composition(held: np.ndarray, foreground: np.ndarray, classes: Sequence[str]) -> Spec:
    """What each cluster holds, (K, C + 1) shares of the snippets, the last column none; as shares of the cluster."""
    order = np.argsort(-foreground, kind="stable")
    share = held / np.maximum(held.sum(axis=1, keepdims=True), 1e-12)
    names = [*classes, "no action"]
    shown = np.flatnonzero(held.sum(axis=0) > 0)
    cluster, label = np.meshgrid(order, shown, indexing="ij")
    data = columns(
        cluster=cluster.reshape(-1).astype(str).tolist(),
        label=[names[c] for c in label.reshape(-1)],
        percent=100 * share[order][:, shown].reshape(-1),
    )
    ends = {"field": "percent", "type": "quantitative", "title": "% of the cluster", "scale": {"scheme": "viridis"}}
    encoding = {
        "x": {"field": "cluster", "type": "nominal", "sort": None, "axis": {"labelOverlap": True, "labelAngle": 0}},
        "y": {"field": "label", "type": "nominal", "title": None, "sort": [names[c] for c in shown]},
        "color": ends,
    }
    title = "What clusters hold, by annotated class"
    return {
        "title": title,
        "height": 16 * len(shown),
        **data,
        "mark": {"type": "rect", "tooltip": True},
        "encoding": encoding,
    }


def embedding_map(
    points: np.ndarray, labels: np.ndarray, classes: Sequence[str], prototypes: np.ndarray | None, heading: str
) -> Spec:
    """Snippets on two axes, (M, 2), in the colours of their classes, with the prototypes, (K, 2), by their number."""
    common = [c for c in np.argsort(-np.bincount(labels[labels >= 0], minlength=1)) if (labels == c).any()]
    named = {int(c): classes[c] for c in common[: len(MANY)]}
    kind = ["no action" if c < 0 else named.get(int(c), "other classes") for c in labels]
    domain = [*named.values(), *(["other classes"] if "other classes" in kind else []), "no action"]
    shades = [*MANY[: len(named)], *(["#777777"] if "other classes" in kind else []), "#BBBBBB"]
    x = {"field": "x", "type": "quantitative", "title": "first axis", "scale": {"zero": False}}
    y = {"field": "y", "type": "quantitative", "title": "second axis", "scale": {"zero": False}}
    chosen = {"name": "chosen", "select": {"type": "point", "fields": ["label"]}, "bind": "legend"}
    dots = {
        **columns(x=points[:, 0], y=points[:, 1], label=kind),
        "params": [chosen],
        "mark": {"type": "circle", "size": 26},
        "encoding": {
            "x": x,
            "y": y,
            "color": {"field": "label", "title": None, "scale": {"domain": domain, "range": shades}},
            "opacity": {"condition": {"param": "chosen", "value": 0.75}, "value": 0.06},
            "tooltip": [{"field": "label", "title": "class"}],
        },
    }
    layers = [dots]
    if prototypes is not None:
        data = columns(x=prototypes[:, 0], y=prototypes[:, 1], cluster=[str(k) for k in range(len(prototypes))])
        place = {"x": x, "y": y}
        mark = {
            "type": "point",
            "shape": "diamond",
            "size": 110,
            "filled": True,
            "color": "#000000",
            "stroke": "#FFFFFF",
        }
        layers.append({**data, "mark": mark, "encoding": place | {"tooltip": {"field": "cluster"}}})
        text = {"type": "text", "dy": -10, "fontSize": 9, "color": GREY}
        layers.append({**data, "mark": text, "encoding": place | {"text": {"field": "cluster"}}})
    return {"title": heading, "height": 360, "layer": layers}


def kinds(shares: np.ndarray, names: Sequence[str]) -> Spec:
    """Shares of the kinds of detections, (M, kinds), among the G, 2 G, ... best."""
    best = [f"{i + 1} G" for i in range(len(shares))]
    data = columns(
        best=np.repeat(best, len(names)).tolist(), kind=list(names) * len(shares), percent=100 * shares.reshape(-1)
    )
    palette = {"domain": list(names), "range": [GREEN, BLUE, PINK, ORANGE, VERMILLION, GREY]}
    encoding = {
        "x": {
            "field": "best",
            "type": "nominal",
            "sort": best,
            "title": "best detections of a class",
            "axis": {"labelAngle": 0},
        },
        "y": {"field": "percent", "type": "quantitative", "title": "%", "scale": {"domain": [0, 100]}},
        "color": {"field": "kind", "title": None, "scale": palette, "sort": list(names)},
        "order": {"field": "place"},
    }
    data["transform"].append({"calculate": f"indexof({_quoted(names)}, datum.kind)", "as": "place"})
    mark = {"type": "bar", "tooltip": True}
    return {"title": "Kinds of detections", "height": 220, **data, "mark": mark, "encoding": encoding}


def bars(heading: str, names: Sequence[str], values: Sequence[float | None], title: str, *, color: str = BLUE) -> Spec:
    """A bar a name, in their order; a value may be missing."""
    encoding = {
        "y": {"field": "name", "type": "nominal", "title": None, "sort": list(names)},
        "x": {"field": "value", "type": "quantitative", "title": title},
    }
    mark = {"type": "bar", "tooltip": True, "color": color}
    height = 24 * len(names)
    return {
        "title": heading,
        "height": height,
        **columns(name=list(names), value=values),
        "mark": mark,
        "encoding": encoding,
    }


def paired_seeds(figures: Sequence[tuple[str, int, float]], title: str) -> Spec:
    """The figure of every run and seed, a fraction, drawn in %; the same seed of two runs is tied by a line."""
    runs = [run for run, _, _ in figures]
    values = 100 * np.array([value for *_, value in figures])
    data = columns(run=runs, seed=[str(seed) for _, seed, _ in figures], value=values)
    order = list(dict.fromkeys(runs))
    color = {"field": "seed", "title": "seed", "scale": {"range": list(MANY)}}
    encoding = {
        "x": {"field": "run", "type": "nominal", "sort": order, "title": None, "axis": {"labelAngle": 0}},
        "y": {"field": "value", "type": "quantitative", "title": f"mAP {title}, %", "scale": {"zero": False}},
        "color": color,
    }
    mark = {"type": "line", "point": {"size": 60, "filled": True}, "tooltip": True}
    return {"title": "The same seeds, run by run", "height": 220, **data, "mark": mark, "encoding": encoding}


def _numbers(column: Any) -> list[Any]:
    """Plain values, rounded to what a screen shows; None for what is not finite."""
    values = np.asarray(column)
    if values.dtype.kind not in "fiu":
        return [None if each is None else each for each in column]
    if values.dtype.kind == "f":
        return [float(f"{x:.5g}") if np.isfinite(x) else None for x in values.tolist()]
    return values.tolist()


def _plain(label: str) -> str:
    """A label without the marks of mathematics."""
    return label.replace("$", "").replace("\\ln", "ln ")


def _quoted(names: Sequence[str]) -> str:
    return "[" + ", ".join(f"'{name}'" for name in names) + "]"
