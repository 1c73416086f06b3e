"""Training networks from scratch on a distilled set and testing them on real images.

The protocol of the DC family (facts, "Evaluation protocol"): SGD with momentum and weight
decay, cross entropy, E + 1 shuffled passes, the last partial batch kept, DSA with one
strategy a batch and parameters drawn image by image, no augmentation at test, and the
accuracy of the final weights on the whole test set.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from atomlib import preprocess
from atomlib.config import EvalConfig
from atomlib.datasets import ImageData
from atomlib.distilled import DistilledSet
from atomlib.dsa import Draw, augment, draw
from atomlib.errors import SettingError
from atomlib.execution import Execution, network_for, operations, pick_device
from atomlib.models import reset_parameters
from atomlib.randomness import stream

TEST_BATCH = 500


def evaluate(
    distilled: DistilledSet,
    data: ImageData,
    config: EvalConfig | None = None,
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Float[Tensor, "networks"]:
    """Test accuracy, in percent, of each network trained on the distilled set.

    Network i has its own initialisation, order and augmentation, drawn from the config's
    seed and i. Raises SettingError where the set was made from other data.
    """
    check_same_data(distilled, data)
    config = (config or EvalConfig()).resolve(data.image_size)
    device = pick_device(device)
    images = distilled.trained.to(device)
    labels = distilled.labels.to(device)
    test = preprocess.test_images(data, distilled.config.zca, device)
    test_labels = data.test_labels.to(device)

    work = 3 * len(images) * (config.epochs + 1) + len(test)
    # Decided by the work of one network, so that a network's accuracy does not depend on how
    # many others are trained.
    execution = Execution(config, device, operations(config, data) * work)
    trainer = Trainer(network_for(config, data).to(device), config, execution)
    accuracies = []
    name = f"evaluate {distilled.config.method} {data.name} ipc {distilled.ipc}"
    passes = config.epochs + 1
    quiet = {} if progress else {"disable": True}  # else TQDM_DISABLE decides
    with tqdm(total=config.networks * passes, desc=name, unit="epoch", **quiet) as bar:
        for index in range(config.networks):
            trainer.train(
                images, labels, stream(config.seed, "evaluate", index, device=device), bar
            )
            accuracies.append(trainer.accuracy(test, test_labels))
            bar.set_postfix(accuracy=f"{accuracies[-1]:.2f} %")
    return torch.tensor(accuracies)


def check_same_data(distilled: DistilledSet, data: ImageData) -> None:
    """Raise SettingError where ``distilled`` was made from other data."""
    if distilled.data_fingerprint != data.fingerprint:
        raise SettingError(
            f"distilled set was made from {distilled.data_name} (fingerprint "
            f"{distilled.data_fingerprint[:12]}), data is {data.name} ({data.fingerprint[:12]}); "
            "allowed: the data it was made from"
        )


class Trainer:
    """Trains one network after another, in place, so that each compiled step is made once."""

    def __init__(self, network: nn.Module, config: EvalConfig, execution: Execution):
        self.network, self.config, self.execution = network, config, execution
        self._loss = execution.compiled(self._training_loss)
        self._scores = execution.compiled(self._test_scores)

    def train(self, images: Tensor, labels: Tensor, generator: torch.Generator, bar: tqdm) -> None:
        """E + 1 passes over the set, from a network drawn afresh, as are order and DSA."""
        config = self.config
        reset_parameters(self.network, generator)
        self.network.train()
        optimizer = self._optimizer()
        for epoch in range(config.epochs + 1):
            if self._decay(epoch, optimizer):
                # The DC family rebuilds its optimiser here, and with it loses the momentum.
                optimizer.state.clear()
            order = torch.randperm(len(images), generator=generator, device=images.device)
            for rows in order.split(config.batch_size):
                drawn = None
                if config.dsa.strategies:
                    drawn = draw(
                        len(rows), images.shape[-1], config.dsa, generator, one_strategy=True
                    )
                optimizer.zero_grad(set_to_none=True)
                self._loss(images[rows], labels[rows], drawn).backward()
                optimizer.step()
            bar.update()

    def _optimizer(self) -> torch.optim.SGD:
        return torch.optim.SGD(
            self.network.parameters(),
            lr=self.config.lr,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
        )

    def _decay(self, epoch: int, optimizer: torch.optim.SGD) -> bool:
        """Set the learning rate of ``epoch`` (from 0); True where the optimiser starts anew."""
        config = self.config
        rate, anew = config.lr, False
        if config.schedule == "step":
            rate *= config.step_decay ** (epoch // config.step_size)
        elif config.schedule == "halfway":
            half = config.epochs // 2 + 1
            rate, anew = (0.1 * rate, epoch == half + 1) if epoch > half else (rate, False)
        optimizer.param_groups[0]["lr"] = rate
        return anew

    def _training_loss(self, images: Tensor, labels: Tensor, drawn: Draw | None) -> Tensor:
        if drawn is not None:
            images = augment(images[:, None], drawn, self.config.dsa)[:, 0]
        with self.execution.autocast():
            scores = self.network(images)
        return F.cross_entropy(scores.float(), labels)

    def _test_scores(self, images: Tensor) -> Tensor:
        with self.execution.autocast():
            return self.network(images)

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Percent of ``images`` given their label."""
        self.network.eval()
        right = torch.zeros((), dtype=torch.long, device=images.device)
        for x, y in zip(images.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True):
            right += (self._scores(x).argmax(dim=1) == y).sum()
        return 100 * int(right) / len(labels)
