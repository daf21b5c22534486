"""Raw video to features of snippets: pictures, optical flow, networks with published weights, and files of the rows.

Reading videos needs PyAV, and flow OpenCV: `pip install 'casejax[video]'`. Each network is read from a file, split once
with `nnx.split`, and then used as a function of its parameters and clips.

Examples begin where `rgb_imagenet.pt` and `efficientnet-lite0-57934424.pth` are, files of weights that are published.
"""

from casejax.features.backbones import BACKBONES, Backbone, StreamWeights, find_backbone
from casejax.features.decoder import SUFFIXES, VideoInfo, count_frames, probe, read_frames, sample_frames
from casejax.features.efficientnet import EFFICIENTNET_SIZE, EfficientNetLite0, efficientnet_features, read_efficientnet
from casejax.features.encoder import write_video
from casejax.features.extraction import Extracted, Extractor, extract_videos
from casejax.features.flow import FLOW_LIMIT, FLOWS, optical_flow
from casejax.features.i3d import I3D, i3d_features
from casejax.features.i3d_weights import read_i3d, read_i3d_weights
from casejax.features.kinetics import KINETICS_400
from casejax.features.weights import KNOWN_FILES, checksum, known_weights
from casejax.features.windows import Cutting, Stretch

__all__ = [
    # videos to features
    "Extractor",
    "Extracted",
    "extract_videos",
    # what extractors can use
    "Backbone",
    "StreamWeights",
    "BACKBONES",
    "find_backbone",
    # two streams of clips
    "I3D",
    "read_i3d",
    "read_i3d_weights",
    "i3d_features",
    "KINETICS_400",
    # single images
    "EfficientNetLite0",
    "read_efficientnet",
    "efficientnet_features",
    "EFFICIENTNET_SIZE",
    # files of weights
    "KNOWN_FILES",
    "known_weights",
    "checksum",
    # videos to pictures and back, pictures to flow, both to windows
    "read_frames",
    "sample_frames",
    "count_frames",
    "probe",
    "VideoInfo",
    "SUFFIXES",
    "write_video",
    "optical_flow",
    "FLOWS",
    "FLOW_LIMIT",
    "Cutting",
    "Stretch",
]
