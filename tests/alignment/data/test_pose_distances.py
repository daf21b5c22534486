import numpy as np
import pytest
from pose_tracks import random_track

from casejax.alignment.data import pose_distances
from casejax.alignment.evaluate.kendall import nearest_neighbours
from casejax.data.poses import normalise_pose


def test_the_clock_stops_at_its_limit():
    np.testing.assert_array_equal(pose_distances.clock_features(5, limit=3)[:, 0], [0, 1, 2, 3, 3])


def test_context_looks_where_it_says(rng):
    video = normalise_pose(random_track(rng, never=(4,)))
    p = video.positions
    context = pose_distances.with_context(video, frames=3)
    for t in range(12):
        np.testing.assert_array_equal(context.positions[t], np.concatenate([p[max(t - 3, 0)], p[t]]))
    np.testing.assert_array_equal(context.joints, np.tile(video.joints, 2))
    np.testing.assert_array_equal(context.frames(slice(2, None, 4)).positions, context.positions[[2, 6, 10]])


def test_flips_are_a_group_of_four(rng):
    video = pose_distances.with_context(normalise_pose(random_track(rng, never=(4, 7))))
    for flip in pose_distances.FOUR_FLIPS:
        once, twice = flip(video), flip(flip(video))
        np.testing.assert_array_equal(twice.positions, video.positions)
        np.testing.assert_array_equal(twice.joints, video.joints)
        assert not once.positions[:, ~once.joints].any()
    np.testing.assert_array_equal(pose_distances.swap_sides(video).positions[:, 13 + 3], video.positions[:, 13 + 4])
    assert pose_distances.swap_sides(video).joints[3] == video.joints[4] == False  # noqa: E712
    np.testing.assert_array_equal(pose_distances.mirror(video).positions[..., 0], -video.positions[..., 0])
    np.testing.assert_array_equal(pose_distances.mirror(video).positions[..., 1], video.positions[..., 1])


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


@pytest.mark.parametrize("flips", [pose_distances.NO_FLIP, pose_distances.FOUR_FLIPS])
def test_distances_are_those_of_shared_joints_under_the_best_flip(rng, flips):
    videos = [
        pose_distances.with_context(normalise_pose(random_track(rng, 5 + i, never=n)))
        for i, n in enumerate([(), (3, 7), (4,)])
    ]
    videos.append(pose_distances.mirror_and_swap(videos[0]))
    wanted = []
    for i, query in enumerate(videos):
        for j, other in enumerate(videos):
            want = distance_oracle(query, other, flips)
            np.testing.assert_allclose(pose_distances.pose_distance(query, other, flips=flips), want, atol=1e-9)
            if i != j:
                wanted.append(nearest_neighbours(want))
    got = pose_distances.pose_neighbours(videos, flips=flips)
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    if flips is not pose_distances.NO_FLIP:  # a mirrored video is no other video
        assert pose_distances.pose_distance(videos[0], videos[3], flips=flips).min(axis=1).max() < 1e-9


def test_videos_with_two_joints_in_common_are_infinitely_far(rng):
    one = normalise_pose(random_track(rng, never=range(5)))
    two = normalise_pose(random_track(rng, never=range(7, 13)))
    assert (one.joints & two.joints).sum() == 2
    assert (pose_distances.pose_distance(one, two) == np.inf).all()
    for neighbours in pose_distances.pose_neighbours([one, two]):
        np.testing.assert_array_equal(neighbours, np.zeros(12))


def test_videos_that_cannot_be_compared_are_refused(rng):
    video = normalise_pose(random_track(rng))
    with pytest.raises(ValueError, match="26 and 13 joints"):
        pose_distances.pose_distance(pose_distances.with_context(video), video)
    with pytest.raises(ValueError, match="0 flips"):
        pose_distances.pose_distance(video, video, flips=())
    with pytest.raises(ValueError, match="0 and 12 frames"):
        pose_distances.pose_distance(video.frames(slice(0)), video)
    with pytest.raises(ValueError, match=r"\[13, 26\] joints"):
        pose_distances.pose_neighbours([pose_distances.with_context(video), video])
