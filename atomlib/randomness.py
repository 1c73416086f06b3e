"""Random streams: one named generator for each purpose, all derived from one seed.

Streams are independent by name, so that drawing more from one (a larger real batch, say)
leaves the others as they were: methods compared at one seed start from the same images and
see the same networks.
"""

import hashlib

import torch


def stream(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on ``device`` that depends only on the seed, the names and the kind of device.

    From the same seed a GPU draws other numbers than a CPU.
    """
    text = "/".join(map(str, (seed, *names)))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
    return torch.Generator(device).manual_seed(number)
