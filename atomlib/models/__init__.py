"""The networks: ``build_model`` is how one is asked for."""

from atomlib.models.build import MODELS, NetworkConfig, build_model, network_for

__all__ = ["MODELS", "NetworkConfig", "build_model", "network_for"]
