"""From video to features of snippets: the networks, and readers of their published weights.

Each network is read from a file, split once with `nnx.split`, and then used as a function of its parameters and clips.
"""

from casejax.features.efficientnet import EFFICIENTNET_SIZE, EfficientNetLite0, efficientnet_features, read_efficientnet
from casejax.features.i3d import FLOW_LIMIT, I3D, i3d_features
from casejax.features.i3d_weights import read_i3d, read_i3d_weights
from casejax.features.kinetics import KINETICS_400
from casejax.features.weights import KNOWN_FILES, checksum, known_weights

__all__ = [
    # two streams of clips
    "I3D",
    "read_i3d",
    "read_i3d_weights",
    "i3d_features",
    "KINETICS_400",
    "FLOW_LIMIT",
    # single images
    "EfficientNetLite0",
    "read_efficientnet",
    "efficientnet_features",
    "EFFICIENTNET_SIZE",
    # files of weights
    "KNOWN_FILES",
    "known_weights",
    "checksum",
]
