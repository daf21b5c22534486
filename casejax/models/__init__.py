"""Networks; those of CASE and of its relatives return the same named outputs, embedders a vector a frame."""

from casejax.models.a2cl_pt import A2CLPTNet, A2CLPTOutputs
from casejax.models.alignment_heads import OrderHead, SpeedHead
from casejax.models.case import CaseNet, project_prototypes
from casejax.models.clustered import ClusteredNet, ClusteredOutputs
from casejax.models.frame_embedder import ConvEmbedder, SequenceEmbedder, VideoEmbedder
from casejax.models.outputs import Outputs
from casejax.models.resnet import ResNetV2

__all__ = [
    "A2CLPTNet",
    "A2CLPTOutputs",
    "CaseNet",
    "ClusteredNet",
    "ClusteredOutputs",
    "ConvEmbedder",
    "OrderHead",
    "Outputs",
    "ResNetV2",
    "SequenceEmbedder",
    "SpeedHead",
    "VideoEmbedder",
    "project_prototypes",
]
