import numpy as np
import pytest

from casejax.alignment.data import poses
from casejax.alignment.data.penn_action import PoseTrack
from casejax.alignment.evaluate.kendall import nearest_neighbours


def track(rng, frames=12, *, never=(), share=0.7):
    """A random video; `never` are joints that it does not show."""
    visible = rng.random((frames, 13)) < share
    visible[0] |= True
    visible[:, list(never)] = False
    return PoseTrack(
        name="a",
        action="squat",
        train=False,
        viewpoint="front",
        positions=rng.uniform(0, 300, (frames, 13, 2)).astype(np.float32),
        visible=visible,
        bbox=rng.uniform((0, 0, 200, 300), (50, 80, 300, 450), (frames, 4)).astype(np.float32),
        image_size=(480, 360),
    )


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
    video = track(rng, never=never)
    if len(never) == 13:
        video = change(video, visible=np.zeros_like(video.visible))
    got, (want, there) = poses.normalise_pose(video), oracle(video)
    np.testing.assert_array_equal(got.joints, there)
    np.testing.assert_allclose(got.positions, want, atol=2e-6)
    assert got.positions.dtype == np.float32


def test_a_foreshortened_torso_gives_way_to_the_box(rng):
    video = track(rng)
    video.positions[:, [7, 8]] = video.positions[:, [1, 2]] + 1
    got, (want, _) = poses.normalise_pose(video), oracle(video)
    np.testing.assert_allclose(got.positions, want, atol=1e-5)
    diagonal = np.linalg.norm(video.bbox[:, 2:] - video.bbox[:, :2], axis=1)
    shoulders = got.positions[0, 1:3].mean(0) - got.positions[0, 7:9].mean(0)
    np.testing.assert_allclose(shoulders, -1 / (0.33 * np.median(diagonal)), rtol=1e-4)


def test_what_invisible_joints_say_changes_nothing(rng):
    video = track(rng, never=(3, 8), share=0.5)
    spoiled = np.where(video.visible[..., None], video.positions, np.float32(1e4))
    for function in (lambda v: poses.normalise_pose(v).positions, poses.pose_features):
        np.testing.assert_array_equal(function(change(video, positions=spoiled)), function(video))


def test_poses_do_not_depend_on_place_and_size_in_the_picture(rng):
    video = track(rng)
    moved = change(video, positions=video.positions * 2 + np.float32(40), bbox=video.bbox * 2 + np.float32(40))
    np.testing.assert_allclose(poses.normalise_pose(moved).positions, poses.normalise_pose(video).positions, atol=1e-5)


def test_a_video_of_one_point_stays_finite(rng):
    video = change(track(rng), positions=np.zeros((12, 13, 2), np.float32), bbox=np.zeros((12, 4), np.float32))
    assert np.isfinite(poses.pose_features(video)).all()


def test_features_are_the_poses_and_their_mask(rng):
    video = track(rng, never=(0, 12))
    features, normalised = poses.pose_features(video), poses.normalise_pose(video)
    assert features.shape == (12, 39)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features[:, :26].reshape(12, 13, 2), normalised.positions)
    np.testing.assert_array_equal(features[:, 26:], np.tile(np.isin(np.arange(13), (0, 12), invert=True), (12, 1)))
    assert not features[:, [0, 1, 24, 25]].any()


def test_raw_pixels_and_the_clock(rng):
    video = track(rng)
    raw = poses.raw_features(video).reshape(12, 13, 2)
    np.testing.assert_allclose(raw * [480, 360], video.positions, rtol=1e-6)
    np.testing.assert_array_equal(poses.clock_features(5, limit=3)[:, 0], [0, 1, 2, 3, 3])


def test_context_looks_where_it_says(rng):
    video = poses.normalise_pose(track(rng, never=(4,)))
    p = video.positions
    context = poses.with_context(video, frames=3)
    for t in range(12):
        np.testing.assert_array_equal(context.positions[t], np.concatenate([p[max(t - 3, 0)], p[t]]))
    np.testing.assert_array_equal(context.joints, np.tile(video.joints, 2))
    np.testing.assert_array_equal(context.frames(slice(2, None, 4)).positions, context.positions[[2, 6, 10]])


def test_flips_are_a_group_of_four(rng):
    video = poses.with_context(poses.normalise_pose(track(rng, never=(4, 7))))
    for flip in poses.FOUR_FLIPS:
        once, twice = flip(video), flip(flip(video))
        np.testing.assert_array_equal(twice.positions, video.positions)
        np.testing.assert_array_equal(twice.joints, video.joints)
        assert not once.positions[:, ~once.joints].any()
    np.testing.assert_array_equal(poses.swap_sides(video).positions[:, 13 + 3], video.positions[:, 13 + 4])
    assert poses.swap_sides(video).joints[3] == video.joints[4] == False  # noqa: E712
    np.testing.assert_array_equal(poses.mirror(video).positions[..., 0], -video.positions[..., 0])
    np.testing.assert_array_equal(poses.mirror(video).positions[..., 1], video.positions[..., 1])


def distance_oracle(query, other, flips):
    best, least = None, np.inf
    for flip in flips:
        flipped = flip(query)
        both = flipped.joints & other.joints
        difference = flipped.positions[:, None].astype(np.float64) - other.positions[None]
        matrix = (difference[:, :, both] ** 2).sum((2, 3)) / max(both.sum(), 1)
        if both.sum() >= 3 and matrix.min(1).mean() < least:
            best, least = matrix, matrix.min(1).mean()
    return np.full((len(query.positions), len(other.positions)), np.inf) if best is None else best


@pytest.mark.parametrize("flips", [poses.NO_FLIP, poses.FOUR_FLIPS])
def test_distances_are_those_of_shared_joints_under_the_best_flip(rng, flips):
    videos = [
        poses.with_context(poses.normalise_pose(track(rng, 5 + i, never=n))) for i, n in enumerate([(), (3, 7), (4,)])
    ]
    videos.append(poses.mirror_and_swap(videos[0]))
    wanted = []
    for i, query in enumerate(videos):
        for j, other in enumerate(videos):
            want = distance_oracle(query, other, flips)
            np.testing.assert_allclose(poses.pose_distance(query, other, flips=flips), want, atol=1e-9)
            if i != j:
                wanted.append(nearest_neighbours(want))
    got = poses.pose_neighbours(videos, flips=flips)
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    if flips is not poses.NO_FLIP:  # a mirrored video is no other video
        assert poses.pose_distance(videos[0], videos[3], flips=flips).min(axis=1).max() < 1e-9


def test_videos_with_two_joints_in_common_are_infinitely_far(rng):
    one = poses.normalise_pose(track(rng, never=range(5)))
    two = poses.normalise_pose(track(rng, never=range(7, 13)))
    assert (one.joints & two.joints).sum() == 2
    assert (poses.pose_distance(one, two) == np.inf).all()
    for neighbours in poses.pose_neighbours([one, two]):
        np.testing.assert_array_equal(neighbours, np.zeros(12))


def test_videos_that_cannot_be_compared_are_refused(rng):
    video = poses.normalise_pose(track(rng))
    with pytest.raises(ValueError, match="26 and 13 joints"):
        poses.pose_distance(poses.with_context(video), video)
    with pytest.raises(ValueError, match="0 flips"):
        poses.pose_distance(video, video, flips=())
    with pytest.raises(ValueError, match="0 and 12 frames"):
        poses.pose_distance(video.frames(slice(0)), video)
    with pytest.raises(ValueError, match=r"\[13, 26\] joints"):
        poses.pose_neighbours([poses.with_context(video), video])
