"""Videos of actions from files, as poses or as pictures, and two invented worlds for those who have none."""

from casejax.alignment.data.blobs import write_blob_videos
from casejax.alignment.data.finegym import (
    EVENTS,
    Clip,
    EventVideo,
    Reorganised,
    read_finegym,
    read_finegym_folder,
    reorganise,
    typical_order,
)
from casejax.alignment.data.frames import FrameVideo, load_frames, read_frame_videos, reorganise_videos
from casejax.alignment.data.image_augmentation import augment_images
from casejax.alignment.data.motion import make_motion
from casejax.alignment.data.pose_augmentation import augment_poses
from casejax.alignment.data.pose_distances import (
    FOUR_FLIPS,
    NO_FLIP,
    clock_features,
    pose_distance,
    pose_neighbours,
    with_context,
)
from casejax.alignment.data.video_set import VideoSet, pack_videos
from casejax.data.penn_action import JOINTS, PoseTrack, read_penn_action, read_pose_track
from casejax.data.poses import Poses, normalise_pose, pose_features, raw_features

__all__ = [
    # Penn Action's poses
    "read_penn_action",
    "read_pose_track",
    "PoseTrack",
    "JOINTS",
    # features of poses
    "normalise_pose",
    "Poses",
    "pose_features",
    "raw_features",
    "clock_features",
    "with_context",
    "pose_distance",
    "pose_neighbours",
    "NO_FLIP",
    "FOUR_FLIPS",
    "augment_poses",
    "pack_videos",
    "VideoSet",
    # folders of pictures
    "read_frame_videos",
    "FrameVideo",
    "load_frames",
    "augment_images",
    # FineGym
    "read_finegym_folder",
    "read_finegym",
    "EventVideo",
    "Clip",
    "EVENTS",
    "typical_order",
    "reorganise",
    "Reorganised",
    "reorganise_videos",
    # invented worlds
    "make_motion",
    "write_blob_videos",
]
