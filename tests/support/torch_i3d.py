"""I3D in PyTorch, written from arXiv 1705.07750, with the names that the common port gives its parameters.

Batch normalisation stays on its own, and padding is made by hand: TensorFlow's SAME, in which the odd zero comes last.
"""

import torch
from torch import nn

INCEPTION = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


def pad_same(x, sizes, strides, value=0.0):
    padding = []
    for length, size, stride in reversed(list(zip(x.shape[2:], sizes, strides, strict=True))):
        out = (length + stride - 1) // stride
        total = max((out - 1) * stride + size - length, 0)
        padding += [total // 2, total - total // 2]
    return nn.functional.pad(x, padding, value=value)


def max_pool(x, sizes, strides):
    return nn.functional.max_pool3d(pad_same(x, sizes, strides, float("-inf")), sizes, strides)


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, c_in, c_out, size=1, stride=1):
        super().__init__()
        self.sizes, self.strides = (size,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(c_in, c_out, size, stride, bias=False)
        self.bn = nn.BatchNorm3d(c_out, eps=1e-3)

    def forward(self, x):
        return torch.relu(self.bn(self.conv3d(pad_same(x, self.sizes, self.strides))))


class Mixed(nn.Module):
    def __init__(self, c_in, widths):
        super().__init__()
        n0, n1a, n1b, n2a, n2b, n3 = widths
        self.b0 = Unit(c_in, n0)
        self.b1a, self.b1b = Unit(c_in, n1a), Unit(n1a, n1b, 3)
        self.b2a, self.b2b = Unit(c_in, n2a), Unit(n2a, n2b, 3)
        self.b3b = Unit(c_in, n3)

    def forward(self, x):
        last = self.b3b(max_pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), last], 1)


class Logits(nn.Module):
    def __init__(self, c_in, num_classes):
        super().__init__()
        self.conv3d = nn.Conv3d(c_in, num_classes, 1)


class TorchI3D(nn.Module):
    """Takes (B, C, T, H, W) in [-1, 1]; `share` divides all widths but those of input and classes."""

    def __init__(self, channels=3, num_classes=400, share=1):
        super().__init__()
        n = 192 // share
        self.Conv3d_1a_7x7 = Unit(channels, 64 // share, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64 // share, 64 // share)
        self.Conv3d_2c_3x3 = Unit(64 // share, n, 3)
        for name, widths in INCEPTION.items():
            widths = [width // share for width in widths]
            setattr(self, f"Mixed_{name}", Mixed(n, widths))
            n = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = Logits(n, num_classes)

    def map(self, x):
        x = max_pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = max_pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        x = max_pool(self.Mixed_3c(self.Mixed_3b(x)), (3, 3, 3), (2, 2, 2))
        for name in ("4b", "4c", "4d", "4e", "4f"):
            x = getattr(self, f"Mixed_{name}")(x)
        return self.Mixed_5c(self.Mixed_5b(max_pool(x, (2, 2, 2), (2, 2, 2))))

    def forward(self, x):
        """Features after the average pool, logits: the pool's window covers 2 frames where there are 2."""
        x = self.map(x)
        pooled = nn.functional.avg_pool3d(x, (min(2, x.shape[2]), *x.shape[3:]), stride=1)
        return pooled.mean((2, 3, 4)), self.logits.conv3d(pooled).mean((2, 3, 4))


def random_model(seed=0, **options):
    """Weights under which signals keep their scale, with statistics that are neither 0 nor 1; for inference."""
    generator = torch.Generator().manual_seed(seed)
    model = TorchI3D(**options).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("bn.weight", "running_var")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("conv3d.weight"):
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
            elif value.is_floating_point():
                value.normal_(0, 0.1, generator=generator)
    return model
