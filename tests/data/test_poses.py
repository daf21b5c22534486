import numpy as np
import pytest
from pose_tracks import random_track

from casejax.data import poses
from casejax.data.penn_action import PoseTrack


def change(old, **changes):
    return PoseTrack(**{**vars(old), **changes})


def oracle(video):
    """The normalisation, frame by frame and joint by joint."""
    count = len(video)
    seen = video.visible
    filled = np.full((count, 13, 2), np.nan)
    for k in range(13):
        times = [t for t in range(count) if seen[t, k]]
        for t in range(count if times else 0):
            before, after = [s for s in times if s <= t], [s for s in times if s >= t]
            a, b = (before or after)[-1 if before else 0], (after or before)[0 if after else -1]
            part = 0 if a == b else (t - a) / (b - a)
            filled[t, k] = (1 - part) * video.positions[a, k] + part * video.positions[b, k].astype(np.float64)
    there = seen.any(0)
    hips = [k for k in (7, 8) if there[k]]
    low, high = video.bbox[:, :2].astype(np.float64), video.bbox[:, 2:].astype(np.float64)
    torsos = []
    for t in range(count):
        hip, shoulder = [k for k in (7, 8) if seen[t, k]], [k for k in (1, 2) if seen[t, k]]
        if hip and shoulder:
            torsos.append(np.linalg.norm(filled[t, shoulder].mean(0) - filled[t, hip].mean(0)))
    fallback = 0.33 * np.median(np.sqrt(((high - low) ** 2).sum(1)))
    scale = np.median(torsos) if torsos and np.median(torsos) >= 0.2 * fallback else fallback
    centre = np.stack([filled[t, hips].mean(0) if hips else (low[t] + high[t]) / 2 for t in range(count)])
    return np.nan_to_num((filled - centre[:, None]) / scale), there


@pytest.mark.parametrize("never", [(), (7,), (7, 8), (1, 2, 5), tuple(range(13))])
def test_normalisation_is_the_one_frame_by_frame(rng, never):
    video = random_track(rng, never=never)
    if len(never) == 13:
        video = change(video, visible=np.zeros_like(video.visible))
    got, (want, there) = poses.normalise_pose(video), oracle(video)
    np.testing.assert_array_equal(got.joints, there)
    np.testing.assert_allclose(got.positions, want, atol=2e-6)
    assert got.positions.dtype == np.float32


def test_a_foreshortened_torso_gives_way_to_the_box(rng):
    video = random_track(rng)
    video.positions[:, [7, 8]] = video.positions[:, [1, 2]] + 1
    got, (want, _) = poses.normalise_pose(video), oracle(video)
    np.testing.assert_allclose(got.positions, want, atol=1e-5)
    diagonal = np.linalg.norm(video.bbox[:, 2:] - video.bbox[:, :2], axis=1)
    shoulders = got.positions[0, 1:3].mean(0) - got.positions[0, 7:9].mean(0)
    np.testing.assert_allclose(shoulders, -1 / (0.33 * np.median(diagonal)), rtol=1e-4)


def test_what_invisible_joints_say_changes_nothing(rng):
    video = random_track(rng, never=(3, 8), share=0.5)
    spoiled = np.where(video.visible[..., None], video.positions, np.float32(1e4))
    for function in (lambda v: poses.normalise_pose(v).positions, poses.pose_features):
        np.testing.assert_array_equal(function(change(video, positions=spoiled)), function(video))


def test_poses_do_not_depend_on_place_and_size_in_the_picture(rng):
    video = random_track(rng)
    moved = change(video, positions=video.positions * 2 + np.float32(40), bbox=video.bbox * 2 + np.float32(40))
    np.testing.assert_allclose(poses.normalise_pose(moved).positions, poses.normalise_pose(video).positions, atol=1e-5)


def test_a_video_of_one_point_stays_finite(rng):
    video = change(random_track(rng), positions=np.zeros((12, 13, 2), np.float32), bbox=np.zeros((12, 4), np.float32))
    assert np.isfinite(poses.pose_features(video)).all()


def test_features_are_the_poses_and_their_mask(rng):
    video = random_track(rng, never=(0, 12))
    features, normalised = poses.pose_features(video), poses.normalise_pose(video)
    assert features.shape == (12, 39)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features[:, :26].reshape(12, 13, 2), normalised.positions)
    np.testing.assert_array_equal(features[:, 26:], np.tile(np.isin(np.arange(13), (0, 12), invert=True), (12, 1)))
    assert not features[:, [0, 1, 24, 25]].any()


def test_raw_pixels(rng):
    video = random_track(rng)
    raw = poses.raw_features(video).reshape(12, 13, 2)
    np.testing.assert_allclose(raw * [480, 360], video.positions, rtol=1e-6)
