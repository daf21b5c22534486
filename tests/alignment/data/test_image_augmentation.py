import jax
import numpy as np

from casejax.alignment.data.image_augmentation import augment_images


def test_every_video_is_mirrored_shifted_and_stretched_as_a_whole(rng):
    images = (0.4 + 0.1 * rng.random((16, 2, 1, 3, 4, 3))).astype(np.float32)
    got = np.asarray(jax.jit(augment_images)(images, jax.random.key(0)))
    mirrored = 0
    for video, out in zip(images, got, strict=True):
        fits = []
        for look in (video, video[..., ::-1, :]):
            mean = look.mean(axis=(-3, -2), keepdims=True)
            factor = ((out - out.mean(axis=(-3, -2), keepdims=True)) * (look - mean)).sum() / ((look - mean) ** 2).sum()
            shift = (out - mean - factor * (look - mean)).mean()
            fits.append((np.abs(out - mean - factor * (look - mean) - shift).max(), factor, shift))
        error, factor, shift = min(fits)
        assert error < 1e-5
        assert 0.5 <= factor <= 1.5
        assert abs(shift) <= 32 / 255
        mirrored += fits[1] < fits[0]
    assert 0 < mirrored < 16


def test_pictures_stay_in_range():
    images = np.stack([np.zeros((1, 1, 2, 2, 3)), np.ones((1, 1, 2, 2, 3))]).astype(np.float32)
    got = np.asarray(jax.jit(augment_images)(images, jax.random.key(1)))
    assert got.min() >= 0
    assert got.max() <= 1
