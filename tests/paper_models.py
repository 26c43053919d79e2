"""FCN and SegNet in PyTorch, written from their papers, on torchvision's VGG."""

import torch
from torch.nn import functional


def build(model: str, backbone: str, classes: int, fc_filters: int = 4096) -> torch.nn.Module:
    """Builds fcn32s, fcn16s, fcn8s or segnet; parameters are random and keep the features' spread from layer to layer."""
    from torchvision.models import vgg

    features = getattr(vgg, backbone)(weights=None, init_weights=False).features
    network = SegNet(features, classes) if model == "segnet" else FCN(model, features, classes, fc_filters)
    if not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in features):
        with torch.no_grad():
            for layer in features:
                if isinstance(layer, torch.nn.Conv2d):
                    layer.weight.mul_(2.4)
    return network


class FCN(torch.nn.Module):
    """Skips, and their number of classes, as the paper draws them."""

    SKIPS = {"fcn32s": (), "fcn16s": ("upscore2",), "fcn8s": ("upscore2", "upscore_pool4")}

    def __init__(self, name: str, features: torch.nn.Sequential, classes: int, fc_filters: int):
        super().__init__()
        self.encoder = torch.nn.Module()
        self.encoder.features = features
        self.decoder = torch.nn.ModuleDict(
            {
                "fc6": torch.nn.Conv2d(512, fc_filters, 7, padding=3),
                "fc7": torch.nn.Conv2d(fc_filters, fc_filters, 1),
                "score_fr": torch.nn.Conv2d(fc_filters, classes, 1),
            }
        )
        self.relu = torch.nn.ReLU()
        self.skips = []
        for upsampling, pool, channels in zip(self.SKIPS[name], ("pool4", "pool3"), (512, 256), strict=False):
            self.decoder[upsampling] = torch.nn.ConvTranspose2d(classes, classes, 4, 2, 1, bias=False)
            self.decoder[f"score_{pool}"] = torch.nn.Conv2d(channels, classes, 1)
            self.skips.append((upsampling, pool))

    def forward(self, x):
        size, pools = x.shape[-2:], {}
        for layer in self.encoder.features:
            x = layer(x)
            if isinstance(layer, (torch.nn.MaxPool2d, torch.nn.AvgPool2d)):  # AvgPool2d: parity.make_smooth puts it there
                pools[f"pool{len(pools) + 1}"] = x
        x = self.relu(self.decoder["fc7"](self.relu(self.decoder["fc6"](x))))
        x = self.decoder["score_fr"](x)
        for upsampling, pool in self.skips:
            x = self.decoder[upsampling](x)
            if x.shape[-2:] != pools[pool].shape[-2:]:
                x = functional.interpolate(x, pools[pool].shape[-2:], mode="bilinear", align_corners=False)
            x = x + self.decoder[f"score_{pool}"](pools[pool])
        return functional.interpolate(x, size, mode="bilinear", align_corners=False)


class SegNet(torch.nn.Module):
    """torchvision's layers with pools that return their indices, and VGG16's mirror image as the decoder."""

    DECODER = [(512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,)]

    def __init__(self, features: torch.nn.Sequential, classes: int):
        super().__init__()
        self.encoder = torch.nn.Module()
        self.encoder.features = features
        self.decoder = torch.nn.Module()
        channels = 512
        for stage, widths in zip((5, 4, 3, 2, 1), self.DECODER, strict=True):
            layers = []
            for width in widths:
                conv = torch.nn.Conv2d(channels, width, 3, padding=1, bias=False)
                layers += [conv, torch.nn.BatchNorm2d(width), torch.nn.ReLU()]
                channels = width
            setattr(self.decoder, f"stage{stage}", torch.nn.Sequential(*layers))
        self.segmentation_head = torch.nn.Sequential(torch.nn.Conv2d(channels, classes, 3, padding=1))

    def forward(self, x):
        pools = []
        for layer in self.encoder.features:
            if isinstance(layer, torch.nn.MaxPool2d):
                size = x.shape[-2:]
                x, indices = functional.max_pool2d(x, 2, 2, return_indices=True)
                pools.append((indices, size))
            else:
                x = layer(x)
        for stage, (indices, size) in zip((5, 4, 3, 2, 1), reversed(pools), strict=True):
            x = functional.max_unpool2d(x, indices, 2, 2, output_size=size)
            x = getattr(self.decoder, f"stage{stage}")(x)
        return self.segmentation_head(x)
