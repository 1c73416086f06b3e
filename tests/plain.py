"""The method the slow way, class by class, as published loops have it: what tests compare with.

Nothing here is batched over classes or compiled, and nothing comes from the modules it checks.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

STRATEGIES = ("color", "crop", "cutout", "flip", "scale", "rotate")


def group(drawn, index: int):
    """The values that one group of a Draw got."""
    return type(drawn)(*(value[index] for value in drawn))


def augment(images: Tensor, drawn, config) -> Tensor:
    """One group's draw applied to its images [m, c, s, s]. The draw may rest on the CPU."""
    by_name = {
        "color": _color,
        "crop": _crop,
        "cutout": _cutout,
        "flip": _flip,
        "scale": _scale,
        "rotate": _rotate,
    }
    return by_name[STRATEGIES[int(drawn.strategy)]](images, drawn, config)


def _color(x: Tensor, drawn, config) -> Tensor:
    x = x + drawn.brightness
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * drawn.saturation + grey
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * drawn.contrast + mean


def _crop(x: Tensor, drawn, config) -> Tensor:
    side = x.shape[-1]
    most = int(config.crop * side + 0.5)
    left, top = (most + int(shift) for shift in drawn.shift)
    return F.pad(x, [most] * 4)[:, :, top : top + side, left : left + side]


def _cutout(x: Tensor, drawn, config) -> Tensor:
    side = x.shape[-1]
    size = int(config.cutout * side + 0.5)
    left, top = (int(centre) - size // 2 for centre in drawn.centre)
    kept = torch.ones_like(x)
    kept[:, :, max(0, top) : top + size, max(0, left) : left + size] = 0
    return x * kept


def _flip(x: Tensor, drawn, config) -> Tensor:
    return x.flip(3) if drawn.flip else x


def _scale(x: Tensor, drawn, config) -> Tensor:
    across, down = drawn.scale.tolist()
    return _warp(x, [[[across, 0, 0], [0, down, 0]] for _ in x])


def _rotate(x: Tensor, drawn, config) -> Tensor:
    angle = float(drawn.angle)
    cos, sin = math.cos(angle), math.sin(angle)
    return _warp(x, [[[cos, -sin, 0], [sin, cos, 0]] for _ in x])


def _warp(x: Tensor, matrices: list) -> Tensor:
    theta = torch.tensor(matrices, dtype=x.dtype, device=x.device)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def spatial_attention(features: Tensor, power: float, normalize: bool = True) -> Tensor:
    maps = features.abs().pow(power).sum(dim=1).flatten(1)
    return F.normalize(maps, dim=1) if normalize else maps


def channel_attention(features: Tensor, power: float, normalize: bool = True) -> Tensor:
    maps = features.abs().pow(power).flatten(2).sum(dim=2)
    return F.normalize(maps, dim=1) if normalize else maps


class Matching(NamedTuple):
    """What a method matches, and with what weight."""

    spatial: bool
    channel: bool
    output: float
    """Weight of the output term; 0 is none."""
    spatial_power: float
    channel_power: float
    normalize: bool
    layers: tuple[int, ...] | None
    scale: float


def matching_of(method) -> Matching:
    """By name, as the papers have it: DM matches outputs, DataDAM adds spatial attention with the
    output at lambda, ATOM channel attention."""
    if method.name == "dm":
        return Matching(False, False, 1.0, 0.0, 0.0, True, None, method.loss_scale)
    atom = method.name == "atom"
    assert atom or method.name == "datadam"
    return Matching(
        spatial=method.spatial if atom else True,
        channel=method.channel if atom else False,
        output=method.task_balance if not atom or method.output else 0.0,
        spatial_power=method.spatial_power,
        channel_power=method.channel_power if atom else 0.0,
        normalize=method.attention_norm == "l2",
        layers=method.layers,
        scale=method.loss_scale,
    )


def class_loss(network, real: Tensor, synthetic: Tensor, method) -> Tensor:
    """The matching loss of one class: real [b, c, s, s] against synthetic [ipc, c, s, s]."""
    matching = matching_of(method)
    with torch.no_grad():
        real_maps, real_output = network.features(real)
    maps, output = network.features(synthetic)

    def distance(one: Tensor, other: Tensor) -> Tensor:
        return (one.mean(dim=0) - other.mean(dim=0)).square().sum()

    loss = torch.zeros((), dtype=output.dtype, device=output.device)
    layers = range(1, len(maps)) if matching.layers is None else matching.layers
    for layer in layers:
        r, s = real_maps[layer - 1], maps[layer - 1]
        if matching.spatial:
            how = matching.spatial_power, matching.normalize
            loss = loss + distance(spatial_attention(r, *how), spatial_attention(s, *how))
        if matching.channel:
            how = matching.channel_power, matching.normalize
            loss = loss + distance(channel_attention(r, *how), channel_attention(s, *how))
    loss = loss + matching.output * distance(real_output, output)
    return matching.scale * loss


def plain_step(network, real: Tensor, synthetic: Tensor, drawn, method) -> Tensor:
    """One iteration's loss, a class at a time. ``drawn`` None is no augmentation.

    real is [k, b, c, s, s], synthetic [k, ipc, c, s, s]; the loss is differentiable in synthetic.
    """
    loss = torch.zeros((), dtype=synthetic.dtype, device=synthetic.device)
    for k in range(len(synthetic)):
        one, other = real[k], synthetic[k]
        if drawn is not None:
            one = augment(one, group(drawn, k), method.dsa)
            other = augment(other, group(drawn, k), method.dsa)
        loss = loss + class_loss(network, one, other, method)
    return loss


def plain_epoch(network, loader, optimizer, augmented) -> None:
    """One pass over a DataLoader, a batch at a time."""
    for images, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(network(augmented(images)), labels).backward()
        optimizer.step()


def plain_distance(real: list, synthetic: list) -> Tensor:
    """The distance of two networks' gradients, a layer at a time, as published loops have it."""
    total = torch.zeros((), dtype=synthetic[0].dtype, device=synthetic[0].device)
    for one, other in zip(real, synthetic, strict=True):
        if one.dim() == 1:
            continue
        a, b = one.reshape(len(one), -1), other.reshape(len(other), -1)
        lengths = torch.norm(a, dim=-1) * torch.norm(b, dim=-1)
        total = total + (1 - torch.sum(a * b, dim=-1) / (lengths + 1e-6)).sum()
    return total


def plain_gradient_step(network, real: Tensor, synthetic: Tensor, drawn, dsa_config) -> Tensor:
    """One image step's loss of DC, or of DSA where ``drawn`` is not None, a class at a time."""
    loss = torch.zeros((), dtype=synthetic.dtype, device=synthetic.device)
    weights = [weight.detach().requires_grad_() for weight in network.parameters()]
    names = [name for name, _ in network.named_parameters()]

    def gradients(images: Tensor, k: int, keep: bool) -> tuple:
        labels = torch.full((len(images),), k, device=images.device)
        scores = torch.func.functional_call(
            network, dict(zip(names, weights, strict=True)), (images,)
        )
        return torch.autograd.grad(F.cross_entropy(scores, labels), weights, create_graph=keep)

    for k in range(len(synthetic)):
        one, other = real[k], synthetic[k]
        if drawn is not None:
            one = augment(one, group(drawn, k), dsa_config)
            other = augment(other, group(drawn, k), dsa_config)
        wanted = [gradient.detach().clone() for gradient in gradients(one, k, keep=False)]
        loss = loss + plain_distance(wanted, list(gradients(other, k, keep=True)))
    return loss


def plain_alignment_step(
    network, real: Tensor, synthetic: Tensor, drawn, dsa_config, layers, last: float, tell: float
) -> Tensor:
    """One image step's loss of CAFE: ``layers`` weigh the maps, ``last`` the output, ``tell`` the
    discrimination, which is summed image by image."""
    loss = torch.zeros((), dtype=synthetic.dtype, device=synthetic.device)
    outputs, means = [], []
    for k in range(len(synthetic)):
        one, other = real[k], synthetic[k]
        if drawn is not None:
            one = augment(one, group(drawn, k), dsa_config)
            other = augment(other, group(drawn, k), dsa_config)
        with torch.no_grad():
            real_maps, real_output = network.features(one)
        maps, output = network.features(other)
        for weight, r, s in zip(layers, real_maps, maps, strict=True):
            loss = loss + weight * (r.mean(dim=0) - s.mean(dim=0)).square().sum()
        loss = loss + last * (real_output.mean(dim=0) - output.mean(dim=0)).square().sum()
        outputs.append(real_output)
        means.append(output.mean(dim=0))
    for k, rows in enumerate(outputs):
        for row in rows:
            scores = torch.stack([torch.dot(row, mean) for mean in means])
            loss = loss + tell * (scores.logsumexp(dim=0) - scores[k])
    return loss
