"""Networks that embed every frame of a video, the classifiers two baselines need, and what an embedder looks at."""

from casejax.alignment.networks.activation_maps import class_activation, overlay
from casejax.alignment.networks.embedders import ConvEmbedder, SequenceEmbedder, VideoEmbedder, l2_penalty
from casejax.alignment.networks.heads import OrderHead, SpeedHead
from casejax.alignment.networks.keras_weights import load_keras_resnet, read_keras_weights
from casejax.alignment.networks.resnet import ResNetV2, frozen, only_bn, train_all

__all__ = [
    # embedders
    "SequenceEmbedder",
    "VideoEmbedder",
    "ConvEmbedder",
    "l2_penalty",
    # the backbone, its weights, and what of it is trained
    "ResNetV2",
    "load_keras_resnet",
    "read_keras_weights",
    "train_all",
    "only_bn",
    "frozen",
    # classifiers of Shuffle and Learn and of SpeedNet
    "OrderHead",
    "SpeedHead",
    # what an embedder looks at
    "class_activation",
    "overlay",
]
