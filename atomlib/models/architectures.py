"""AlexNet, VGG-11, ResNet-18 and ViT: the networks of the cross-architecture experiment.

Source: docs/facts.md, 'Networks'. Each is built for one image size; the error message for a size
that is too small names the allowed ones.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atomlib.errors import SettingError, check_choice
from atomlib.models.convnet import NORMS, make_norm


# torchvision is imported where it is used: it takes longer to import than all of atomlib.
class AlexNet(nn.Module):
    """Five convolutions, three max poolings and a linear classifier; no normalisation.

    5x5-128, pool, 5x5-192, pool, 3x3-256, 3x3-192, 3x3-192, pool (docs/facts.md, 'Networks'), each
    convolution followed by ReLU: 1,872,202 parameters for 10 classes of 32 x 32 colour images.
    """

    SETTINGS = ()

    def __init__(self, in_channels: int, image_size: int, num_classes: int):
        super().__init__()
        if image_size < 8:
            raise _wrong_size(image_size, "model 'alexnet'", "8 or more")
        layers, channels = [], in_channels
        for width, kernel, pooled in (
            (128, 5, True),
            (192, 5, True),
            (256, 3, False),
            (192, 3, False),
            (192, 3, True),
        ):
            layers += [nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.ReLU()]
            if pooled:
                layers.append(nn.MaxPool2d(2))
            channels = width
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * (image_size // 8) ** 2, num_classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Class scores."""
        return self.classifier(self.layers(images).flatten(1))


class VGG11(nn.Module):
    """Eight [3x3 convolution, norm, ReLU], five max poolings and a linear classifier.

    64 M 128 M 256 256 M 512 512 M 512 512 M, where M is a 2x2 max pooling (docs/facts.md,
    'Networks'): 9,231,114 parameters for 10 classes of 32 x 32 colour images. From 32 pixels on,
    the maps that are normalised have 2 x 2 pixels or more; of a single pixel InstanceNorm would
    leave nothing but its shift.
    """

    SETTINGS = ("norm",)

    def __init__(
        self, in_channels: int, image_size: int, num_classes: int, *, norm: str = "instance"
    ):
        super().__init__()
        check_choice("norm", norm, NORMS)
        if image_size < 32:
            raise _wrong_size(image_size, "model 'vgg11'", "32 or more")
        layers, channels, side = [], in_channels, image_size
        for widths in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
            for width in widths:
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1),
                    make_norm(norm, width, side),
                    nn.ReLU(),
                ]
                channels = width
            layers.append(nn.MaxPool2d(2))
            side //= 2
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * side * side, num_classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Class scores."""
        return self.classifier(self.layers(images).flatten(1))


# LayerNorm must know the side of the maps, which torchvision does not tell.
RESNET_NORMS = tuple(name for name in NORMS if name != "layer")


class ResNet18(nn.Module):
    """torchvision's ResNet-18 with a stem for small images: 3x3, stride 1, no pooling.

    Four stages of two blocks, of 64, 128, 256 and 512 channels, each stage but the first halving
    the side; global average pooling and a linear classifier (docs/facts.md, 'Networks'). 11,173,962
    parameters for 10 classes of 32 x 32 colour images, with any norm that has parameters. No
    convolution has a bias.
    """

    SETTINGS = ("norm",)

    def __init__(
        self, in_channels: int, image_size: int, num_classes: int, *, norm: str = "instance"
    ):
        from torchvision.models import resnet18

        super().__init__()
        check_choice("norm of model 'resnet18'", norm, RESNET_NORMS)
        # Up to 8 pixels the last maps are a single one: InstanceNorm would leave nothing but
        # its shift, and BatchNorm cannot take a batch of one image.
        if norm in ("instance", "batch") and image_size <= 8:
            raise _wrong_size(image_size, f"model 'resnet18' and norm {norm!r}", "9 or more")
        self.network = resnet18(num_classes=num_classes, norm_layer=partial(make_norm, norm))
        self.network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.network.maxpool = nn.Identity()

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Class scores."""
        return self.network(images)


class ViT(nn.Module):
    """torchvision's vision transformer on patches of 4 x 4 pixels.

    Width 512, 6 layers of 8 heads of 64 and an MLP of 512, dropout 0.1, a class token, norm before
    each part (docs/facts.md, 'Networks'): 9,532,938 parameters for 10 classes of 32 x 32 colour
    images. Dropout is where torchvision has it by default: after the positional embedding, the
    attention and both layers of each MLP. The attention weights themselves are not dropped.
    """

    SETTINGS = ()
    PATCH = 4

    def __init__(self, in_channels: int, image_size: int, num_classes: int):
        from torchvision.models import VisionTransformer

        super().__init__()
        if image_size < self.PATCH or image_size % self.PATCH:
            raise _wrong_size(image_size, "model 'vit'", f"multiples of {self.PATCH}")
        self.network = VisionTransformer(
            image_size=image_size,
            patch_size=self.PATCH,
            num_layers=6,
            num_heads=8,
            hidden_dim=512,
            mlp_dim=512,
            dropout=0.1,
            num_classes=num_classes,
        )
        self.network.conv_proj = nn.Conv2d(in_channels, 512, self.PATCH, stride=self.PATCH)
        for parent in list(self.network.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(parent, name, Dropout(child.p))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Class scores."""
        return self.network(images)


class Dropout(nn.Dropout):
    """Dropout with a stream of its own, so that training depends on no global state.

    PyTorch's takes every mask from the global generator. This one takes them from a seed that
    ``reseed`` draws, and the same seed gives the same masks, compiled or not. Never reseeded, it
    draws from the global generator too.
    """

    def __init__(self, p: float):
        super().__init__(p)
        self.seed: int | None = None
        # One for each device, made at first use: a network moves after it is built.
        self.generators: dict[torch.device, torch.Generator] = {}
        # The compiler has no generators but the global one. (Said here, not above the method:
        # it imports the compiler, which only those who build a ViT should wait for.)
        self._drop = torch.compiler.disable(self._drop)

    def reseed(self, generator: torch.Generator | None) -> None:
        """Start a new stream, from a seed drawn from ``generator``; None ends it."""
        self.seed, self.generators = None, {}
        if generator is not None:
            seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
            self.seed = int(seed)

    def stream(self, device: torch.device) -> torch.Generator | None:
        """The generator of masks on ``device``; None is PyTorch's global one."""
        if self.seed is not None and device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators.get(device)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """x / (1 - p) with a fraction p set to zero; in eval mode x itself."""
        return self._drop(x) if self.training else x

    def _drop(self, x: Tensor) -> Tensor:
        kept = torch.empty_like(x, dtype=torch.bool)
        kept.bernoulli_(1 - self.p, generator=self.stream(x.device))
        return x * kept / (1 - self.p)


def _wrong_size(image_size: int, what: str, allowed: str) -> SettingError:
    return SettingError(f"image_size is {image_size}; allowed with {what}: {allowed}")
