"""`official` against the published program: every intermediate, loss, gradient and Adam step of the goldens.

All sizes and the number of steps are read off the arrays.
"""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from casejax import losses, ot
from casejax.labels import self_labels
from casejax.methods import Schedule, Step
from casejax.methods.case import CaseNet, CaseSettings, HeadSettings
from casejax.methods.case.clustering import initial_cluster_labels
from casejax.methods.case.head import make_head
from casejax.methods.contract import adam
from casejax.run.config import Config

STREAMS = ("rgb", "flow")
LAYERS = {
    "class_encoder": "cas_module_{}.0",
    "classifier": "cas_module_{}.2",
    "embedding_encoder": "base_module_{}.0",
    "attention": "att_module_{}",
}


def published_params(arrays, prefix, dtype):
    """Published weights (or gradients) in our structure."""
    streams = {}
    for s, stream in enumerate(STREAMS):
        streams[s] = {
            ours: {
                "kernel": jnp.asarray(arrays[f"{prefix}/{theirs.format(stream)}.weight"][:, :, 0].T, dtype),
                "bias": jnp.asarray(arrays[f"{prefix}/{theirs.format(stream)}.bias"], dtype),
            }
            for ours, theirs in LAYERS.items()
        }
        directions = arrays[f"{prefix}/clu_head_{stream}.prototypes.weight"]
        streams[s]["clusters"] = {"directions": jnp.asarray(directions, dtype)}
    return {"streams": streams}


def official(settings):
    """CASE with the settings that the program ran with."""
    return Config.of("case").changed(
        epsilon=settings["temp"] / settings["ot_eps"] / 10,  # on cosines; its cluster head has a fixed factor of 10
        cluster_temperature=float(settings["temp"]),
        gce_exponent=settings["q"],
        sinkhorn_iters=settings["ot_iters"],
        prior_std=float(settings["std"]),
        snippet_weight=float(settings["w_clu"]),
        cluster_weight=settings["w_cls"],
    )


def flat(x):
    return x.reshape(-1, *x.shape[2:])


def intermediates(outputs, directions, labels, cluster_labels, settings):
    """What the published training loop computes on its way, from our functions, under its names."""
    base, method = settings.base, settings.head
    attention = losses.stream_mean(outputs.attention)
    calibrated = losses.calibrate(outputs.cas, attention, cas_weight=base.cas_weight)
    selected = losses.select_top_k(calibrated, divisor=base.top_k_divisor)
    foreground = self_labels.foreground_labels(selected, labels)
    ranked = ot.published_rank(attention.reshape(-1))
    prior = ot.gaussian_rank_prior(
        attention.reshape(-1), cluster_labels[0, :, 0], std=method.prior_std, rank=ot.published_rank
    )
    cluster_logits = [flat(logits) for logits in outputs.cluster_logits]
    fused = losses.stream_mean(cluster_logits)
    q_snippet = self_labels.transport_labels(
        fused, log_prior=prior, epsilon=method.epsilon * method.head_temperature, num_iters=method.sinkhorn_iters
    ).labels
    embedding = [flat(x) for x in outputs.embedding]
    clusters = [self_labels.prototypes(q_snippet, e) for e in embedding]
    sides = [self_labels.prototypes(self_labels.foreground_background(foreground.reshape(-1)), e) for e in embedding]
    of_clusters = [
        self_labels.cluster_logits(c, f, temperature=method.cluster_temperature)
        for c, f in zip(clusters, sides, strict=True)
    ]
    marginal = ot.foreground_marginal(foreground)
    q_cluster = self_labels.transport_labels(
        losses.stream_mean(of_clusters),
        column_marginal=marginal,
        epsilon=method.epsilon * method.cluster_temperature,
        num_iters=method.sinkhorn_iters,
    ).labels
    found = {
        "combined_cas": calibrated,
        "att_gt_bt": foreground,
        "att": attention.reshape(-1),
        "rank": (1 - ranked) * len(ranked) - 1,
        "pos_sim_gt": 1 - cluster_labels[0, :, 0],
        "D": jnp.abs(ranked[:, None] - cluster_labels[0, None, :, 0]),
        "T": jax.nn.softmax(prior, axis=(0, 1)),
        "clu": fused,
        "Q_S": q_snippet,
        "cls": losses.stream_mean(of_clusters),
        "beta": marginal,
        "Q_C": q_cluster,
        "cls_gt_in": cluster_labels[0],
    }
    for s, stream in enumerate(STREAMS):
        top = losses.pooled(outputs.cas[s], selected)
        found |= {
            f"cas_{stream}": outputs.cas[s],
            f"cas_top_{stream}": top,
            f"att_{stream}": outputs.attention[s].reshape(-1),
            f"clu_{stream}": cluster_logits[s],
            f"base_{stream}": embedding[s],
            f"proto_clu_{stream}": losses.unit(clusters[s]),
            f"proto_att_{stream}": losses.unit(sides[s]),
            f"cls_{stream}": of_clusters[s],
            f"ce_{stream}": losses.video_cross_entropy(top, labels).mean(),
            f"gce_{stream}": losses.generalized_bce(
                outputs.attention[s], foreground, exponent=base.gce_exponent
            ).mean(),
            f"protoN/clu_head_{stream}.prototypes.weight": directions[s],
        }
    return found, selected


def published_steps(arrays, settings, num_steps, dtype):
    """Training steps on the golden batch: intermediates, selection, loss aux, gradient, parameters after."""
    start = published_params(arrays, "p0", dtype)
    dims = [stream["class_encoder"]["kernel"].shape[0] for stream in start["streams"].values()]
    num_clusters, hidden = start["streams"][0]["clusters"]["directions"].shape
    x, labels = jnp.asarray(arrays["x"], dtype), jnp.asarray(arrays["label"], dtype)
    features = jnp.split(x, np.cumsum(dims)[:-1], axis=2)
    assert [f.shape[2] for f in features] == dims
    head = make_head(HeadSettings(num_clusters=num_clusters))

    def build():
        return CaseNet(dims, labels.shape[1], settings=CaseSettings(hidden=hidden), head=head, rngs=nnx.Rngs(0))

    graphdef, params = nnx.split(nnx.eval_shape(build), nnx.Param)
    nnx.replace_by_pure_dict(params, start)
    optimizer = adam(params, settings["lr"], schedule=Schedule(weight_decay=settings["weight_decay_L2_in_gradient"]))
    opt_state = optimizer.init(params)
    config = official(settings)
    case, own = config.method, config.settings
    q = initial_cluster_labels(len(dims), num_clusters).astype(dtype)

    @jax.jit
    def step(params, opt_state, q):
        params = case.prepare(params, own)

        def loss(params):
            network = nnx.merge(graphdef, params)
            loss = case.loss(network(features), labels, Step(network, cluster_labels=q), settings=own)
            return loss.value, (loss.value, loss.terms, loss.cluster_labels)

        (_, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        directions = [stream["clusters"]["directions"][...] for stream in params["streams"].values()]
        seen = intermediates(nnx.merge(graphdef, params)(features), directions, labels, q, own)
        return jax.tree.map(jnp.add, params, updates), opt_state, aux, grads, seen

    for _ in range(num_steps):
        params, opt_state, aux, grads, (found, selected) = step(params, opt_state, q)
        q = aux[2]
        yield found, selected, aux, nnx.to_pure_dict(grads), nnx.to_pure_dict(params)


def compare(arrays, wanted, settings, dtype, tolerance):
    """`tolerance` is relative to each value and, for what is near zero, to the array's greatest."""
    num_steps = max(int(match[1]) for name in wanted if (match := re.match(r"it(\d+)/", name)))
    compared = set()

    def check(got, name):
        want = wanted[name]
        assert np.shape(got) == want.shape, name
        scale = np.abs(want).max(initial=0)
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale, err_msg=name)
        compared.add(name)

    for n, (found, selected, aux, grads, params) in enumerate(
        published_steps(arrays, settings, num_steps, dtype), start=1
    ):
        cost, terms, cluster_labels = aux
        found |= {
            "vid": terms["loss_video"],
            "clu_loss": terms["loss_snippet"],
            "cls_loss": terms["loss_cluster"],
            "cost": cost,
        }
        for name, value in found.items():
            if f"it{n}/{name}" in wanted:
                check(value, f"it{n}/{name}")
        both = wanted[f"it{n}/gce_flow"] + wanted[f"it{n}/gce_rgb"]
        np.testing.assert_allclose(terms["loss_attention"], both, rtol=tolerance)
        for stream in cluster_labels:
            check(stream, f"it{n}/Q_C")
        index = wanted[f"it{n}/topk_indices"]
        chosen = np.zeros(selected.shape, bool)
        np.put_along_axis(chosen, index, True, axis=1)
        np.testing.assert_array_equal(selected, chosen)
        compared.add(f"it{n}/topk_indices")
        for prefix, ours in ((f"g{n}", grads), (f"p{n}", params)):
            names = [name for name in wanted if name.startswith(f"{prefix}/")]
            if names:
                theirs = published_params(wanted, prefix, dtype)
                for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
                    scale = float(np.abs(b).max())
                    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale, err_msg=prefix)
                compared.update(names)
    left = {name for name in wanted if not name.startswith("p0/")} - compared - {"x", "label"}
    assert not left, f"golden arrays that nothing was compared with: {sorted(left)}"


def test_in_float32(golden):
    arrays = golden.arrays("case_forward")
    settings = golden.notes("case_forward")["config"]
    compare(arrays, arrays | golden.arrays("case_forward_adam"), settings, jnp.float32, 1e-5)


@pytest.mark.usefixtures("x64")
def test_in_float64(golden):
    arrays, wanted = golden.arrays("case_forward"), golden.arrays("case_forward_f64")
    compare(arrays, wanted, golden.notes("case_forward")["config"], jnp.float64, 1e-10)


def test_official_has_the_published_settings():
    settings = json.loads((Path(__file__).parents[2] / "golden" / "case_forward.json").read_text())["config"]
    assert official(settings) == (published := Config.of("case"))
    assert settings["lr"] == published.schedule.learning_rate
    assert settings["weight_decay_L2_in_gradient"] == published.schedule.weight_decay
