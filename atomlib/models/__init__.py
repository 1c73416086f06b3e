"""Networks by name (``build_model``): ConvNet, AlexNet, VGG-11, ResNet-18, ViT."""

from atomlib.models.build import MODELS, NetworkConfig, build_model, network_for

__all__ = ["MODELS", "NetworkConfig", "build_model", "network_for"]
