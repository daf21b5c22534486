"""An invented world of filmed motion: stick figures that perform actions from beginning to end, as annotated joints.

An action is a sequence of key poses, none of which follows from the clock: every performer takes time of its own over
each part, may hold a pose, and has a body and a style. Some actions pass the same pose twice, going down and coming
back up, so that a single frame can't tell where in the action it stands. Cameras look from the front or from behind;
joints are hidden now and then, and carry junk coordinates while they are, as in real annotations.
"""

from __future__ import annotations

import numpy as np

from casejax.array_types import Float
from casejax.data.penn_action import JOINTS, PoseTrack

ACTIONS = ("crane_lift", "ladle_pour", "gate_swing", "well_draw", "sheaf_toss", "oar_plant", "net_haul", "bell_pull")
NUM_JOINTS = len(JOINTS)
# angles: torso; head; upper arms and forearms, left and right; thighs and shins, left and right. 0 hangs down or, for
# torso and head, stands up; radians, positive to the image's right.
NUM_ANGLES = 10
STANDING = np.array([0.0, 0.0, 0.2, 0.3, -0.2, -0.3, 0.1, 0.1, -0.1, -0.1])
SPREAD = np.array([0.35, 0.3, 1.3, 0.9, 1.3, 0.9, 0.5, 0.6, 0.5, 0.6])  # of key poses around standing
LIMBS = np.array([1.0, 0.45, 0.6, 0.55, 0.6, 0.55, 0.8, 0.8, 0.8, 0.8])  # lengths, in torsos
HIDDEN_SHARE, HIDDEN_FRAMES = 0.2, 12  # how much of a joint's time is hidden, and for how long at a stretch


def make_motion(
    *,
    seed: int = 0,
    num_actions: int = 4,
    train_videos: int = 24,
    test_videos: int = 16,
    shortest: int = 30,
    longest: int = 110,
    style: float = 0.15,
    noise: float = 0.02,
) -> tuple[PoseTrack, ...]:
    """Draw a world: the same options and seed give the same videos.

    Args:
      seed: seed of everything.
      num_actions: number of actions, at most 8.
      train_videos: videos of each action to learn from.
      test_videos: videos of each action to evaluate on.
      shortest: frames of the shortest video.
      longest: frames of the longest video.
      style: how far a performer departs from an action's key poses, radians.
      noise: error of the annotated joints, in torso lengths.

    Returns:
      The videos, action by action, those of the train part first.

    Raises:
      ValueError: more actions than there are, or lengths that don't ascend from 2.
    """
    if not 1 <= num_actions <= len(ACTIONS):
        raise ValueError(f"num_actions must lie in [1, {len(ACTIONS)}], got {num_actions}")
    if not 2 <= shortest <= longest:
        raise ValueError(f"lengths must satisfy 2 <= shortest <= longest, got {shortest} and {longest}")
    tracks = []
    for a, action in enumerate(ACTIONS[:num_actions]):
        keys = _key_poses(np.random.default_rng([seed, a]), there_and_back=a % 2 == 0)
        for v in range(train_videos + test_videos):
            rng = np.random.default_rng([seed, a, v])
            num_frames = int(rng.integers(shortest, longest + 1))
            joints = _perform(keys, num_frames, style=style, rng=rng)
            tracks.append(
                _film(joints, name=f"{action}_{v:03d}", action=action, train=v < train_videos, noise=noise, rng=rng)
            )
    return tuple(tracks)


def _key_poses(rng: np.random.Generator, *, there_and_back: bool) -> Float[np.ndarray, "k angles"]:
    """The key poses of an action; on the way back those in the middle are passed again."""
    ahead = STANDING + SPREAD * rng.standard_normal((3, NUM_ANGLES))
    ending = STANDING + SPREAD * rng.standard_normal((1 if there_and_back else 2, NUM_ANGLES))
    back = ahead[-2::-1] if there_and_back else ahead[:0]
    return np.concatenate([STANDING[None], ahead, back, ending])


def _perform(
    keys: Float[np.ndarray, "k angles"], num_frames: int, *, style: float, rng: np.random.Generator
) -> Float[np.ndarray, "t 13 2"]:
    """Joints of one performance, in torso lengths around the hips, y pointing down."""
    own = keys + style * rng.standard_normal(keys.shape)
    durations = rng.dirichlet(np.full(len(own) - 1, 2.0)) + 0.3 / len(own)
    times = np.concatenate([[0], np.cumsum(durations)]) / durations.sum()
    clock = np.linspace(0, 1, num_frames)
    part = np.clip(np.searchsorted(times, clock, side="right") - 1, 0, len(own) - 2)
    along = (clock - times[part]) / (times[part + 1] - times[part])
    along = along**2 * (3 - 2 * along)  # the limbs come to rest in every key pose
    angles = own[part] + along[:, None] * (own[part + 1] - own[part])
    return _skeleton(angles, LIMBS * np.exp(0.08 * rng.standard_normal(len(LIMBS))))


def _skeleton(
    angles: Float[np.ndarray, "t angles"], limbs: Float[np.ndarray, " angles"]
) -> Float[np.ndarray, "t 13 2"]:
    """Forward kinematics in the image plane; Penn Action's order of joints."""
    bone = np.stack([np.sin(angles), np.cos(angles)], axis=-1) * limbs[:, None]
    hips = np.zeros((len(angles), 2))
    neck = hips - bone[:, 0] * np.array([-1.0, 1.0])
    head = neck - bone[:, 1] * np.array([-1.0, 1.0])
    half_shoulders, half_hips = np.array([0.35, 0.0]), np.array([0.2, 0.0])
    joints = np.empty((len(angles), NUM_JOINTS, 2))
    joints[:, 0] = head
    for side, sign in ((0, -1.0), (1, 1.0)):
        shoulder, hip = neck + sign * half_shoulders, hips + sign * half_hips
        elbow, knee = shoulder + bone[:, 2 + 2 * side], hip + bone[:, 6 + 2 * side]
        joints[:, 1 + side], joints[:, 7 + side] = shoulder, hip
        joints[:, 3 + side], joints[:, 9 + side] = elbow, knee
        joints[:, 5 + side] = elbow + bone[:, 3 + 2 * side]
        joints[:, 11 + side] = knee + bone[:, 7 + 2 * side]
    return joints


def _film(
    joints: Float[np.ndarray, "t 13 2"],
    *,
    name: str,
    action: str,
    train: bool,
    noise: float,
    rng: np.random.Generator,
) -> PoseTrack:
    """What the annotator of a video of the performance leaves: pixels, visibility and boxes."""
    num_frames, (width, height) = len(joints), (480, 360)
    behind = bool(rng.random() < 0.5)
    tilt = 0.1 * rng.standard_normal()
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    seen = joints * np.array([-1.0 if behind else 1.0, 1.0]) @ turn.T
    seen = seen + noise * rng.standard_normal(seen.shape)
    torso = height * rng.uniform(0.15, 0.22)  # pixels
    drift = np.linspace(0, 1, num_frames)[:, None, None] * 0.3 * rng.standard_normal(2)
    centre = np.array([width, height]) * rng.uniform(0.45, 0.55, 2)
    positions = np.clip(centre + torso * (seen + drift), 6, [width - 1, height - 1])

    visible = np.ones((num_frames, NUM_JOINTS), bool)
    for k in range(NUM_JOINTS):
        for start in np.flatnonzero(rng.random(num_frames) < HIDDEN_SHARE / HIDDEN_FRAMES):
            visible[start : start + rng.integers(1, 2 * HIDDEN_FRAMES), k] = False
    low, high = positions.min(axis=1) - 5, positions.max(axis=1) + 5
    return PoseTrack(
        name=name,
        action=action,
        train=train,
        positions=np.where(visible[..., None], positions, 1.0).astype(np.float32),
        visible=visible,
        bbox=np.concatenate([low, high], axis=1).astype(np.float32),
        image_size=(width, height),
        viewpoint="back" if behind else "front",
    )
