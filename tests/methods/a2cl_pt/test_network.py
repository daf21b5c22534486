import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from casejax.methods.a2cl_pt.network import ERASED, A2CLPTNet, select_erased
from casejax.methods.a2cl_pt.settings import A2CLPTSettings

STREAMS = {"r": "rgb", "f": "flow"}  # the published program's letters


def abstract(dims, num_classes, **options):
    return nnx.eval_shape(lambda: A2CLPTNet(dims, num_classes, settings=A2CLPTSettings(**options), rngs=nnx.Rngs(0)))


def published_network(arrays, erase_divisor, adversary_weight):
    """The network with published weights: linear layers are stored transposed, adversaries class by class."""
    w = {key.removeprefix("model/w/"): jnp.asarray(x) for key, x in arrays.items() if key.startswith("model/w/")}
    dim, num_classes = len(w["fc_r.bias"]), len(w["classifier_r.bias"])
    options = {"hidden": dim, "erase_divisor": erase_divisor, "adversary_weight": adversary_weight}
    network = abstract((dim, dim), num_classes, **options)
    for letter, stream in zip(STREAMS, network.streams, strict=True):
        for ours, name in (
            ("first", f"fc_{letter}"),
            ("second", f"fc1_{letter}"),
            ("classifier", f"classifier_{letter}"),
        ):
            layer, weight = getattr(stream, ours), w[f"{name}.weight"]
            layer.kernel, layer.bias = nnx.Param(weight.reshape(weight.shape[:2]).T), nnx.Param(w[f"{name}.bias"])
        weights, biases = (
            np.stack([w[f"classifier_{letter}a.{c}.{part}"].reshape(-1) for c in range(num_classes)])
            for part in ("weight", "bias")
        )
        stream.adversary.kernel, stream.adversary.bias = nnx.Param(weights.T), nnx.Param(biases[:, 0])
        stream.scale = nnx.Param(w[f"mul_{letter}"])
    return network


def test_golden_network(golden):
    arrays, notes = golden.arrays("a2cl_pt"), golden.notes("a2cl_pt")
    inputs = [key for key in arrays if re.fullmatch(r"model/\w+/x", key)]
    assert inputs
    longest = max(arrays[key].shape[1] for key in inputs)  # all are padded to that, for one compilation
    forward = jax.jit(lambda model, params, x, mask: nnx.merge(model, params)(x, mask=mask), static_argnums=0)
    for key in inputs:
        case = key.removesuffix("/x")
        meaning = notes["arrays"][f"{case}/tcam"]["meaning"]
        divisor, weight = re.search(r"s_a=(\d+)", meaning), re.search(r"omega=([\d.]+)", meaning)
        network = published_network(arrays, int(divisor[1]), float(weight[1]))
        batch, length, _ = arrays[key].shape
        x = np.pad(arrays[key], [(0, 0), (0, longest - length), (0, 0)])
        mask = np.broadcast_to(np.arange(longest) < length, (batch, longest))
        out = forward(*nnx.split(network), np.split(x, 2, axis=2), mask)
        out = jax.tree.map(lambda x, n=length: np.asarray(x)[:, :n], out)
        np.testing.assert_allclose(out.own.tcam, arrays[f"{case}/tcam"], rtol=1e-5, atol=1e-6)
        for s, letter in enumerate(STREAMS):
            np.testing.assert_allclose(out.embedding[s], arrays[f"{case}/x_{letter}"], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(out.cas[s], arrays[f"{case}/cls_{letter}"], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(out.own.erased[s], arrays[f"{case}/cls_{letter}a"], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(out.own.erased[s] == ERASED, arrays[f"{case}/cls_{letter}a"] == ERASED)


def test_erasing(rng):
    cas, mask = rng.normal(size=(2, 9, 3)).astype(np.float32), np.arange(9)[None] < np.array([[9], [5]])
    cas[0, :4, 1] = cas[0, :, 1].max() + 1  # four of equal score, of which three may go: none does
    erase = jax.jit(select_erased, static_argnames="divisor")
    got = np.asarray(erase(cas, mask=mask, divisor=3))
    for b, c in np.ndindex(2, 3):
        n = mask[b].sum()
        k_th = sorted(cas[b, :n, c])[max(n - n // 3, 1) - 1]
        np.testing.assert_array_equal(got[b, :n, c], cas[b, :n, c] > k_th)
    assert not got[~mask].any()
    assert got[0].sum(axis=0).tolist() == [3, 0, 3]
    assert got[1].sum(axis=0).tolist() == [1, 1, 1]
    np.testing.assert_array_equal(got, erase(np.where(mask[:, :, None], cas, np.nan), mask=mask, divisor=3))
    assert not np.asarray(erase(cas[1:, :5], divisor=6)).any()  # too short to lose one
    with pytest.raises(ValueError, match="divisor must be 2 or more, or nothing is left, got 1"):
        erase(cas, divisor=1)


def test_parameter_count():
    assert sum(x.size for x in jax.tree.leaves(nnx.state(abstract((1024, 1024), 20), nnx.Param))) == 4_280_440


def test_padding_and_dropout(rng):
    settings = A2CLPTSettings(hidden=8, erase_divisor=3)
    network = nnx.split(A2CLPTNet((4,), 3, settings=settings, rngs=nnx.Rngs(0)))
    mask = np.arange(7)[None] < 5
    x = rng.normal(size=(1, 7, 4)).astype(np.float32)

    @jax.jit
    def forward(params, x, spoiled, key):
        network_ = nnx.merge(network[0], params)
        return network_([spoiled], mask=jnp.asarray(mask)), network_([x[:, :5]]), network_([x], key)

    out, short, noisy = jax.device_get(forward(network[1], x, np.where(mask[:, :, None], x, np.nan), jax.random.key(0)))
    for got, want in zip(jax.tree.leaves(out), jax.tree.leaves(short), strict=True):
        np.testing.assert_allclose(got[:, :5], want, rtol=1e-5, atol=1e-6)
        assert np.isfinite(got).all()
    assert (out.own.erased[0] == ERASED).sum(axis=1).tolist() == [[1, 1, 1]]
    dropped, kept = noisy.embedding[0][:, :5], short.embedding[0]
    gone = (dropped == 0) & (kept > 0)
    assert gone.any()
    np.testing.assert_allclose(dropped, np.where(gone, 0, kept / np.float32(0.3)), rtol=1e-5)


def test_unusable_networks_are_refused():
    for dims, num_classes, options, message in (
        ((6,), 0, {}, r"counts of at least 1, got dims=\(6,\), num_classes=0"),
        ((), 3, {}, "at least one stream"),
        ((6,), 3, {"dropout": 1.0}, r"rates of dropout must lie in \[0, 1\), got dropout=1.0"),
        ((6,), 3, {"erase_divisor": 1}, "erase_divisor must be 2 or more, or nothing is left, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            A2CLPTNet(dims, num_classes, settings=A2CLPTSettings(**options), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="has 1 streams, got 2 feature arrays"):
        abstract((6,), 3, hidden=4)([jnp.zeros((1, 2, 6))] * 2)
