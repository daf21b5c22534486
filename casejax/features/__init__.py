"""Raw video to features of snippets: pictures, optical flow, backbones, and the folder that the rows are written to.

Reading videos needs PyAV, and flow OpenCV: `pip install 'casejax[video]'`.
"""

from casejax.features.backbones import BACKBONES, Backbone, StreamWeights, find_backbone
from casejax.features.decoder import SUFFIXES, VideoInfo, count_frames, probe, read_frames, sample_frames
from casejax.features.encoder import write_video
from casejax.features.extraction import Extracted, Extractor, extract_videos
from casejax.features.flow import FLOWS, optical_flow
from casejax.features.windows import Cutting, Stretch

__all__ = [
    # videos to features
    "Extractor",
    "Extracted",
    "extract_videos",
    # the networks
    "Backbone",
    "StreamWeights",
    "BACKBONES",
    "find_backbone",
    # videos to pictures, pictures to flow, both to windows
    "read_frames",
    "sample_frames",
    "count_frames",
    "probe",
    "VideoInfo",
    "SUFFIXES",
    "write_video",
    "optical_flow",
    "FLOWS",
    "Cutting",
    "Stretch",
]
