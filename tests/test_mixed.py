"""ConvNets of one shape, norms and activations mixed, are the networks that each would be alone."""

import pytest
import torch

from atomlib.distill import distill
from atomlib.methods import RandomImages
from atomlib.models.build import network_for, reset_parameters
from atomlib.models.convnet import ACTIVATIONS, NORMS
from atomlib.nas.together import MixedEnsemble
from atomlib.runtime.device import Execution
from atomlib.training import EnsembleTrainer, EvalConfig, Trainer

CPU = torch.device("cpu")
KINDS = [(norm, activation) for norm in NORMS for activation in ACTIVATIONS]
"""The 15 of a shape, alike norms beside each other."""
SHUFFLED = [KINDS[(7 * place) % 15] for place in range(15)]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def data(make_data):
    return make_data(counts=(3, 3, 3))


def configs(kinds, **settings):
    # 9 images: batches of 4, 4 and 1. Rates and passes are few, so that no rounding can grow.
    shared = {"width": 16, "depth": 2, "epochs": 2, "batch_size": 4, "compile": "off", **settings}
    return [EvalConfig(**shared, norm=norm, activation=act) for norm, act in kinds]


def chances(count):
    return [torch.Generator().manual_seed(place) for place in range(count)]


def training(data):
    made = distill(data, RandomImages(ipc=3, width=16), device="cpu")
    return made.trained, made.labels


def one_of(ensemble, place):
    """Weights and buffers of one network, by the names that they have when it is alone."""
    state = {}
    for depth, block in enumerate(ensemble.blocks):
        for name, value in block.convolution.state_dict().items():
            state[f"blocks.{depth}.conv.{name}"] = value[place]
        (rows, norm), *more = [
            pair for pair in block.norms if pair[0].start <= place < pair[0].stop
        ]
        assert not more
        for name, value in norm.state_dict().items():
            state[f"blocks.{depth}.norm.{name}"] = value[place - rows.start]
    for name, value in ensemble.classifier.state_dict().items():
        state[f"classifier.{name}"] = value[place]
    return state


def assert_same_state(ensemble, place, network, **close):
    ours, theirs = one_of(ensemble, place), network.state_dict()
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, **close)


@pytest.mark.parametrize("pooling", ["none", "max", "average"])
@pytest.mark.parametrize("kinds", [KINDS, SHUFFLED], ids=["sorted", "shuffled"])
def test_each_network_trains_as_it_does_alone(data, kinds, pooling):
    images, labels = training(data)
    each = configs(kinds, pooling=pooling)
    mixed = MixedEnsemble([network_for(config, data) for config in each])
    trainer = EnsembleTrainer(mixed, each[0], Execution(each[0], CPU, 0))
    trainer.train(images, labels, chances(len(kinds)))
    mixed.eval()
    scores, alone = mixed(images).detach(), []
    for place, (config, chance) in enumerate(zip(each, chances(len(kinds)), strict=True)):
        network = network_for(config, data)
        solo = Trainer(network, config, Execution(config, CPU, 0))
        solo.train(images, labels, [chance])
        assert_same_state(mixed, place, network, **CLOSE)
        alone.append(network.eval()(images).detach())
        torch.testing.assert_close(scores[place], alone[-1], rtol=1e-3, atol=1e-4)
    # The comparison says something only where the networks are not each other.
    assert min(float((one - alone[0]).abs().max()) for one in alone[1:]) > 1e-2


def test_weights_are_drawn_as_for_each_alone(data):
    networks = [network_for(config, data) for config in configs(KINDS)]
    mixed = MixedEnsemble(networks)
    for again in range(2):
        with torch.no_grad():
            for value in mixed.state_dict().values():
                value.fill_(7)
        mixed.reset_parameters([torch.Generator().manual_seed(100 * again + p) for p in range(15)])
        for place, network in enumerate(networks):
            reset_parameters(network, torch.Generator().manual_seed(100 * again + place))
            assert_same_state(mixed, place, network, rtol=0, atol=0)


def test_all_that_is_trained_is_given_to_the_optimiser(data):
    networks = [network_for(config, data) for config in configs(KINDS)]
    mixed = MixedEnsemble(networks)
    ours = sum(weight.numel() for weight in mixed.parameters())
    assert ours == sum(w.numel() for network in networks for w in network.parameters())
    assert all(weight.requires_grad for weight in mixed.parameters())


def test_images_of_their_own_and_shared_ones(data):
    mixed = MixedEnsemble([network_for(config, data) for config in configs(KINDS)])
    mixed.reset_parameters(chances(15))
    shared = torch.randn(4, 3, 8, 8)
    both = shared.expand(15, 4, 3, 8, 8)
    torch.testing.assert_close(mixed(shared), mixed(both))


def test_one_that_diverges_leaves_the_others_alone(data):
    images = torch.randn(15, 4, 3, 8, 8)
    gradients = []
    for spoilt in (False, True):
        mixed = MixedEnsemble([network_for(config, data) for config in configs(KINDS)])
        mixed.reset_parameters(chances(15))
        if spoilt:
            with torch.no_grad():
                mixed.blocks[0].convolution.state_dict()["weight"][4] = torch.nan
        mixed(images).sum().backward()
        gradients.append(mixed.blocks[0].convolution.state_dict()["weight"].grad)
    whole, spoilt = gradients
    others = [place for place in range(15) if place != 4]
    assert spoilt[4].isnan().any()
    assert torch.equal(spoilt[others], whole[others])
    assert whole[others].abs().flatten(1).amax(1).min() > 0


def test_training_goes_on_from_where_it_was(data):
    images, labels = training(data)
    each = configs(KINDS)
    ends = []
    for cut in (False, True):
        state = None
        for _ in range(1 + cut):
            mixed = MixedEnsemble([network_for(config, data) for config in each])
            trainer = EnsembleTrainer(mixed, each[0], Execution(each[0], CPU, 0))
            for epoch in trainer.passes(images, labels, chances(15), state):
                if cut and not state and epoch == 1:
                    state = {name: value.clone() for name, value in trainer.state().items()}
                    break
        ends.append(mixed.state_dict())
    for name, value in ends[0].items():
        assert torch.equal(ends[1][name], value)
