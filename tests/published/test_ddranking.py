"""DD-Ranking's own package trains on what we hand on: ``make ddranking`` installs and asks it."""

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from atomlib.datasets.png_folder import as_bytes, png_folder
from atomlib.published.hand_on import write_mtt

ddranking = pytest.importorskip("ddranking", reason="not installed; make ddranking installs it")

CLASSES, IPC = 10, 2
LABELS = torch.arange(CLASSES).repeat_interleave(IPC)


@pytest.fixture
def images():
    """Ten plain patterns, that any network learns in a few steps."""
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand(CLASSES, 3, 1, 32, generator=generator)
    noise = torch.rand(CLASSES * IPC, 3, 32, 32, generator=generator)
    return (0.9 * pattern.repeat_interleave(IPC, 0) + 0.1 * noise).clamp(0, 1)


def learned(dataset):
    """Accuracy on the set itself of a network that DD-Ranking built and trained on it."""
    from ddranking.utils import (
        build_model,
        get_lr_scheduler,
        get_optimizer,
        train_one_epoch,
        validate,
    )

    torch.manual_seed(0)
    network = build_model("ConvNet-3", num_classes=CLASSES, im_size=(32, 32), device="cpu")
    loader = DataLoader(dataset, batch_size=20, shuffle=True)
    optimizer = get_optimizer("sgd", network, 0.01)
    schedule = get_lr_scheduler("step", optimizer, num_epochs=20, step_size=100)
    for epoch in range(20):
        train_one_epoch(
            epoch, network, loader, torch.nn.CrossEntropyLoss(), optimizer,
            lr_scheduler=schedule, device="cpu",
        )  # fmt: skip
    return validate(network, loader, device="cpu")


def test_tensors(tmp_path, images):
    from ddranking.utils import TensorDataset

    write_mtt(tmp_path, images * 4 - 2, LABELS)
    read = [torch.load(tmp_path / f"{name}_best.pt") for name in ("images", "labels")]
    assert learned(TensorDataset(*read)) > 90


def test_pictures(tmp_path, images):
    """Its ``image_path`` is torchvision's folder of images."""
    png_folder(as_bytes(images), LABELS, [str(k) for k in range(CLASSES)], tmp_path / "png")
    folder = ImageFolder(tmp_path / "png", transform=ToTensor())
    assert folder.targets == LABELS.tolist()
    assert learned(folder) > 90
