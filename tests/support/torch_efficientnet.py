"""EfficientNet-Lite0 in PyTorch, written from arXiv 1905.11946, with the names that its published state dict has."""

import torch
from torch import nn
from torch_i3d import pad_same

STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))


class Same(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding."""

    def forward(self, x):
        return super().forward(pad_same(x, self.kernel_size, self.stride))


class Block(nn.Module):
    def __init__(self, c_in, size, stride, expand, c_out):
        super().__init__()
        hidden = c_in * expand
        if expand > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(c_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden, eps=1e-3)
        self._depthwise_conv = Same(hidden, hidden, size, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._project_conv, self._bn2 = nn.Conv2d(hidden, c_out, 1, bias=False), nn.BatchNorm2d(c_out, eps=1e-3)
        self.adds = stride == 1 and c_in == c_out

    def forward(self, x):
        y = nn.functional.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class TorchEfficientNet(nn.Module):
    """Takes scaled images (N, 3, H, W), gives features (N, 1280)."""

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = Same(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32, eps=1e-3)
        blocks, width = [], 32
        for repeats, size, stride, expand, out in (*STAGES, (1, 3, 1, 6, 320)):
            for repeat in range(repeats):
                blocks.append(Block(width, size, stride if repeat == 0 else 1, expand, out))
                width = out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280, eps=1e-3)

    def forward(self, x):
        x = self._blocks(nn.functional.relu6(self._bn0(self._conv_stem(x))))
        return nn.functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


def random_efficientnet(seed=0):
    """Weights under which signals keep their scale, with statistics that are neither 0 nor 1; for inference."""
    generator = torch.Generator().manual_seed(seed)
    model = TorchEfficientNet().eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("weight", "running_var")) and value.ndim == 1:
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.ndim == 4:
                value.normal_(0, value[0].numel() ** -0.5, generator=generator)
            elif value.is_floating_point():
                value.normal_(0, 0.1, generator=generator)
    return model
