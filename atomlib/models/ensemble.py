"""Several networks of one architecture trained as one: stacked weights, one forward pass for all.

On a GPU a small network leaves most of the processor idle, and several side by side take little
longer than one. On a CPU they take longer than one after another: stacked convolutions become
grouped ones, which are slow there.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from atomlib.models.build import reset_parameters


def can_stack(network: nn.Module) -> bool:
    """Whether such networks can be an Ensemble.

    Not with Dropout: its masks come from a generator of each network's own (see
    architectures.Dropout), of which one forward for all has no notion.
    """
    return not any(isinstance(module, nn.Dropout) for module in network.modules())


class Ensemble:
    """``size`` networks like ``network``, each with weights and running statistics of its own.

    To an optimiser and a training loop it is what a network is. ``network`` lends its
    architecture and takes part in no result; what it holds is overwritten.
    """

    def __init__(self, network: nn.Module, size: int):
        self.network = network
        self.weights, self.buffers = stack_module_state([network] * size)
        convolutions = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
        self.convolutions = [n for n in self.weights if n.rpartition(".")[0] in convolutions]
        """Names of their weights and biases."""

    @torch.no_grad()
    def reset_parameters(self, generators: Sequence[torch.Generator]) -> None:
        """Draw every network anew, in place, each from its own generator."""
        state = self.state_dict()
        for index, generator in enumerate(generators):
            reset_parameters(self.network, generator)
            for name, own in self.network.state_dict().items():
                state[name][index].copy_(own)

    def state_dict(self) -> dict[str, Float[Tensor, "networks *shape"]]:
        """Weights and buffers by the names that they have in one network."""
        return self.weights | self.buffers

    def parameters(self) -> Iterable[Float[Tensor, "networks *shape"]]:
        return self.weights.values()

    def modules(self) -> Iterable[nn.Module]:
        return self.network.modules()

    def train(self) -> None:
        self.network.train()

    def eval(self) -> None:
        self.network.eval()

    def __call__(
        self, images: Float[Tensor, "networks n c h w"] | Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "networks n classes"]:
        """Class scores: of images of each network's own, or of images that all of them share."""

        def scores(state: dict[str, Tensor], images: Tensor) -> Tensor:
            return functional_call(self.network, state, (images,))

        shared, state = images.dim() == 4, self.state_dict()
        if images.is_cuda and torch.is_autocast_enabled("cuda"):
            # Under vmap autocast sees a convolution without its bias, which, left in float32, would
            # make float32 of all that follows.
            number = torch.get_autocast_dtype("cuda")
            state |= {name: state[name].to(number) for name in self.convolutions}
            images = images.to(number)
        return vmap(scores, in_dims=(0, None if shared else 0))(state, images)
