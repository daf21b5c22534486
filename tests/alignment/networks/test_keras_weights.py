import h5py
import jax
import numpy as np
import pytest
from flax import nnx
from keras_resnet import by_keras_names, fill

from casejax.alignment.networks.keras_weights import load_keras_resnet, read_keras_weights
from casejax.alignment.networks.resnet import ResNetV2
from casejax.errors import DataError

LAYOUTS = {
    "weights alone, as older Keras writes them": "{layer}/{layer}/{weight}:0",
    "without the number of the tensor": "{layer}/{layer}/{weight}",
    "with a name made unique in its session": "{layer}/{layer}_1/{weight}:0",
    "with the model": "model_weights/{layer}/{layer}/{weight}:0",
    "as a model in a model": "resnet50v2/{layer}/{weight}:0",
    "as a model in a saved model": "model_weights/resnet50v2/{layer}/{weight}",
}


def network():
    return nnx.eval_shape(lambda: ResNetV2(depths=(2, 1), width=2, rngs=nnx.Rngs(0)))


def leaves(model):
    return jax.tree.leaves(nnx.state(model))


def write(path, weights, layout=LAYOUTS["weights alone, as older Keras writes them"]):
    with h5py.File(path, "w") as file:
        for layer, arrays in weights.items():
            for weight, array in arrays.items():
                file[layout.format(layer=layer, weight=weight)] = array
    return path


@pytest.fixture(scope="module")
def model():
    return fill(network(), np.random.default_rng(0))


@pytest.fixture
def weights(model):
    """Those of a longer network, with a top."""
    longer = {"conv3_block2_1_conv": {"kernel": np.zeros((1, 1, 2, 2))}, "predictions": {"bias": np.zeros(3)}}
    return by_keras_names(model) | longer


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_weights_of_every_layout_arrive(tmp_path, model, weights, layout):
    path = write(tmp_path / "weights.h5", weights, layout)
    read = read_keras_weights(path)
    assert {layer: set(arrays) for layer, arrays in read.items()} == {k: set(v) for k, v in weights.items()}
    np.testing.assert_array_equal(read["conv1_conv"]["kernel"], weights["conv1_conv"]["kernel"])
    assert set(read_keras_weights(path, ["predictions"])) == {"predictions"}

    loaded = network()
    load_keras_resnet(loaded, path)
    for got, want in zip(leaves(loaded), leaves(model), strict=True):
        np.testing.assert_array_equal(got, want)


def test_layers_have_the_names_and_weights_of_keras(weights):
    assert set(weights["conv2_block1_1_conv"]) == {"kernel"}
    assert set(weights["conv2_block1_0_conv"]) == set(weights["conv2_block1_3_conv"]) == {"kernel", "bias"}
    assert set(weights["conv2_block2_preact_bn"]) == {"gamma", "beta", "moving_mean", "moving_variance"}
    assert "conv2_block2_0_conv" not in weights


def test_half_precision_is_widened(tmp_path, weights):
    halves = {layer: {k: a.astype(np.float16) for k, a in arrays.items()} for layer, arrays in weights.items()}
    loaded = network()
    load_keras_resnet(loaded, write(tmp_path / "weights.h5", halves))
    assert {leaf.dtype.name for leaf in leaves(loaded)} == {"float32"}


def test_every_complaint_is_listed_and_nothing_is_loaded(tmp_path, model, weights):
    del weights["conv2_block2_1_bn"]
    del weights["conv1_conv"]["bias"]
    weights["conv2_block1_0_conv"]["kernel"] = np.zeros((1, 1, 2, 7))
    weights["conv2_block1_preact_bn"]["gamma"] = np.array([1, np.nan])
    path = write(tmp_path / "weights.h5", weights)
    loaded = fill(network(), np.random.default_rng(1))
    before = [np.asarray(leaf) for leaf in leaves(loaded)]
    with pytest.raises(DataError) as error:
        load_keras_resnet(loaded, path)
    for words in (
        "weights.h5: not the weights of this network, 7 complaints",
        "conv1_conv/bias is missing",
        "conv2_block2_1_bn/moving_variance is missing",
        "conv2_block1_0_conv/kernel has shape (1, 1, 2, 7), wanted (1, 1, 2, 8)",
        "conv2_block1_preact_bn/gamma is not finite",
    ):
        assert words in str(error.value)
    for got, want in zip(leaves(loaded), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "weights.h5"
    with pytest.raises(DataError, match=r"weights\.h5: no such file"):
        read_keras_weights(path)
    path.write_bytes(b"not HDF5")
    with pytest.raises(DataError, match=r"weights\.h5: not an HDF5 file"):
        read_keras_weights(path)
    write(path, {"a": {"kernel": np.arange(3000.0)}})
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"weights\.h5: not an HDF5 file, or a damaged one"):
        read_keras_weights(path)


def test_keras_3_is_told_apart(tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros(2)
    with pytest.raises(DataError, match="layout of Keras 3"):
        read_keras_weights(tmp_path / "weights.h5")


def test_two_layers_of_one_name_are_refused(tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        for model in ("one", "two"):
            for layer in ("conv1", "conv2"):
                file[f"{model}/{layer}/kernel:0"] = np.zeros(2)
    with pytest.raises(DataError, match="one/conv1 and two/conv1 both hold weights of a layer named conv1"):
        read_keras_weights(tmp_path / "weights.h5")


def test_only_numbers_of_the_file_itself_are_read(tmp_path):
    secret = write(tmp_path / "secret.h5", {"a": {"kernel": np.zeros(2)}})
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["a/kernel"] = np.zeros(1)
        file["a/bias"] = h5py.ExternalLink(secret.name, "/a/a/kernel:0")
    assert set(read_keras_weights(path)["a"]) == {"kernel"}

    def declared(**options):
        with h5py.File(path, "w") as file:
            file.create_dataset("a/kernel", **options)
        with pytest.raises(DataError, match=r"weights.h5: .*a/kernel.* (in this file|promises)"):
            read_keras_weights(path)

    declared(data="text")
    declared(data=h5py.Empty("f4"))
    declared(shape=(10**12,), dtype="f4", chunks=(1024,))
    declared(shape=(2,), dtype="f4", external=[(str(secret), 0, 8)])
