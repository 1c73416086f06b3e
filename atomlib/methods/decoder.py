"""A decoder of images, G: from latents f [w, s/4, s/4] to pixels in [0, 1] [c, s, s].

    f -> twice as large -> conv w, norm, leaky ReLU -> twice as large -> conv w/2, norm, leaky ReLU
      -> conv c -> sigmoid

Its weights are drawn and stay as they are, or are those of an autoencoder that was trained on the
training images, min_{E, G} mean (G(E(x)) - x)^2, by Adam. A trained one is one for all seeds, and
cached (``ATOM_CACHE``) with the facts it is of; training that is killed goes on where it was.
"""

import json
from dataclasses import asdict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atomlib.datasets.image_data import ImageData
from atomlib.models.build import reset_parameters, undrawn
from atomlib.randomness import stream
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.cache import check_cache, kept_tensors, place
from atomlib.runtime.device import Arithmetic, Execution
from atomlib.runtime.files import lock, write_tensors
from atomlib.runtime.progress import Bar
from atomlib.runtime.provenance import Facts, libraries

REVISION = 1
"""Of what training gives: raised when, and only when, its numbers change."""

LR, BATCH = 1e-3, 128
"""Of Adam, in the training of an autoencoder."""

FIT_LR = 0.1
"""Of Adam, in the search for the latents of given images."""

SLOPE = 0.2
"""Of the leaky ReLU, below zero."""


def sides(side: int) -> tuple[int, int, int]:
    """Of latents, of the maps between, and of images."""
    half = -(-side // 2)
    return -(-half // 2), half, side


class Decoder(nn.Module):
    """G, for images of ``side`` pixels; ``width`` is a multiple of 8."""

    def __init__(self, channels: int, side: int, width: int):
        super().__init__()
        _, *self.sides = sides(side)
        self.shape = width, *sides(side)[:1] * 2
        self.convs = nn.ModuleList(
            nn.Conv2d(width, wide, 3, padding=1) for wide in (width, width // 2)
        )
        self.norms = nn.ModuleList(_norm(wide) for wide in (width, width // 2))
        self.last = nn.Conv2d(width // 2, channels, 3, padding=1)

    def forward(self, latents: Float[Tensor, "n w h h"]) -> Float[Tensor, "n c s s"]:
        for side, conv, norm in zip(self.sides, self.convs, self.norms, strict=True):
            larger = F.interpolate(latents, size=(side, side))
            latents = F.leaky_relu(norm(conv(larger)), SLOPE)
        return torch.sigmoid(self.last(latents))


class Autoencoder(nn.Module):
    """E, which mirrors G, and G."""

    def __init__(self, channels: int, side: int, width: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
            for narrow, wide in ((channels, width // 2), (width // 2, width))
        )
        self.norm = _norm(width // 2)
        self.last = nn.Conv2d(width, width, 3, padding=1)
        # Latents of deviation 1, whatever the images: one rate serves all decoders.
        self.standard = nn.GroupNorm(1, width, affine=False)
        self.decoder = Decoder(channels, side, width)

    def encode(self, pixels: Float[Tensor, "n c s s"]) -> Float[Tensor, "n w h h"]:
        first, second = self.convs
        maps = F.leaky_relu(self.norm(first(pixels)), SLOPE)
        return self.standard(self.last(F.leaky_relu(second(maps), SLOPE)))

    def forward(self, pixels: Float[Tensor, "n c s s"]) -> Float[Tensor, "n c s s"]:
        return self.decoder(self.encode(pixels))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // 4, width)


def operations(data: ImageData, width: int, *, autoencoder: bool = False) -> int:
    """Floating point operations of one image's forward, counted without computing it."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    shape = data.channels, data.image_size
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        if autoencoder:
            Autoencoder(*shape, width)(torch.empty(1, data.channels, *shape[1:] * 2))
        else:
            decoder = Decoder(*shape, width)
            decoder(torch.empty(1, *decoder.shape))
    return counter.get_total_flops()


def random_decoder(data: ImageData, width: int, seed: int, device: torch.device) -> Decoder:
    """G as drawn, from PyTorch's default distributions."""
    made = undrawn(lambda: Decoder(data.channels, data.image_size, width))
    reset_parameters(made, stream(seed, "decoder"))
    return made.requires_grad_(False).to(device)


def trained_autoencoder(
    data: ImageData,
    width: int,
    epochs: int,
    arithmetic: Arithmetic,
    device: torch.device,
    *,
    progress: bool = True,
) -> Autoencoder:
    """E and G after ``epochs`` passes over the training images, or as the cache has them."""
    work = 3 * operations(data, width, autoencoder=True) * len(data.train_labels) * epochs
    execution = Execution(arithmetic, device, work)
    settings = {"width": width, "epochs": epochs, "how": str(execution)}
    facts = Facts("decoder", REVISION, settings, data.fingerprint, libraries())
    about = json.dumps(asdict(facts))
    path = place("decoders", data.name, facts)
    network = undrawn(lambda: Autoencoder(data.channels, data.image_size, width))
    with lock(path):
        if found := kept_tensors(path):
            network.load_state_dict(found[0])
            return network.requires_grad_(False).to(device)
        check_cache(path.parent)
        kept = Bookmark.of(Bookmark(path.with_suffix(".unfinished")), about)
        training = Training(network.to(device), data, execution)
        training.restore(kept.read())
        name = f"decoder of {data.name}"
        with Bar(
            total=epochs, initial=training.done, desc=name, unit="epoch", shown=progress
        ) as bar:
            while training.done < epochs:
                training.epoch()
                bar.update()
                if kept.due():
                    kept.write(training.state(), training.done, epochs)
        write_tensors(path, network.state_dict(), {"facts": asdict(facts)})
        kept.end()
    return network.requires_grad_(False)


class Training:
    """Of an autoencoder, from weights drawn anew."""

    def __init__(self, network: Autoencoder, data: ImageData, execution: Execution):
        self.network, self.execution, self.done = network, execution, 0
        self.images = data.train_images.to(execution.device)
        self.order = stream(0, "decoder", device=execution.device)
        reset_parameters(network, self.order)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=LR)
        self._loss = execution.compiled(self._error)

    def epoch(self) -> None:
        """One shuffled pass, the last partial batch kept."""
        device = self.images.device
        order = torch.randperm(len(self.images), generator=self.order, device=device)
        for rows in order.split(BATCH):
            with self.execution.step():
                self.optimizer.zero_grad(set_to_none=True)
                self._loss(self.images[rows].float() / 255).backward()
                self.optimizer.step()
        self.done += 1

    def state(self) -> dict[str, Tensor]:
        """All that the epochs to come depend on, between two of them."""
        state = {f"network {name}": value for name, value in self.network.state_dict().items()}
        for index, of in self.optimizer.state_dict()["state"].items():
            state |= {f"adam {index} {name}": value for name, value in of.items()}
        return {**state, "random": self.order.get_state(), "done": torch.tensor(self.done)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what ``state`` gave; from the start where it is empty."""
        if not state:
            return
        names = self.network.state_dict()
        self.network.load_state_dict({name: state[f"network {name}"] for name in names})
        adam = self.optimizer.state_dict()
        for name, value in state.items():
            if name.startswith("adam "):
                _, index, of = name.split()
                adam["state"].setdefault(int(index), {})[of] = value
        self.optimizer.load_state_dict(adam)
        self.order.set_state(state["random"])
        self.done = int(state["done"])

    def _error(self, pixels: Float[Tensor, "n c s s"]) -> Float[Tensor, ""]:
        with self.execution.autocast():
            return F.mse_loss(self.network(pixels).float(), pixels)


def fit(
    decoder: Decoder,
    pixels: Float[Tensor, "n c s s"],
    latents: Float[Tensor, "n w h h"],
    steps: int,
) -> Float[Tensor, "n w h h"]:
    """Latents, from those given, after ``steps`` of Adam on the squared error of their images."""
    latents = latents.clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=FIT_LR)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        # The sum over images: each has its own latents, so each has its own search.
        (decoder(latents) - pixels).square().sum().backward()
        optimizer.step()
    return latents.detach()
