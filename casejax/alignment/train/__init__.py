"""Training embedders of poses and of pictures by any of the six methods, and the two benchmarks that compare them."""

from casejax.alignment.train.benchmark import run_benchmark
from casejax.alignment.train.image_benchmark import run_image_benchmark
from casejax.alignment.train.image_trainer import (
    ImageConfig,
    ImageState,
    over_frames,
    start_image_network,
    train_image_network,
)
from casejax.alignment.train.methods import METHODS, Method
from casejax.alignment.train.picture import synchronised_poses
from casejax.alignment.train.trainer import (
    AlignConfig,
    AlignState,
    embed_videos,
    network_params,
    train_embedders,
)

__all__ = [
    # whole benchmarks
    "run_benchmark",
    "run_image_benchmark",
    # the methods
    "METHODS",
    "Method",
    # embedders of poses, or of any features
    "AlignConfig",
    "train_embedders",
    "AlignState",
    "network_params",
    "embed_videos",
    # embedders of pictures
    "ImageConfig",
    "start_image_network",
    "train_image_network",
    "ImageState",
    "over_frames",
    # pictures
    "synchronised_poses",
]
