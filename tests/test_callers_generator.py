"""Whatever is computed, PyTorch's global generator stands afterwards where it stood before."""

import pytest
import torch

from atomlib.distill import distill
from atomlib.evaluate import evaluate
from atomlib.full_data import full_data_accuracies
from atomlib.methods import METHODS, RandomImages
from atomlib.methods.check import QUICK
from atomlib.models.architectures import RESNET_NORMS, Dropout
from atomlib.models.build import MODELS, build_model, reset_parameters
from atomlib.models.convnet import NORMS
from atomlib.nas.search import Proxy, evaluate_candidates
from atomlib.nas.space import Candidate
from atomlib.training import EvalConfig

NETWORKS = [
    ("alexnet", {}),
    ("vit", {}),
    *(("convnet", {"norm": norm}) for norm in NORMS),
    *(("vgg11", {"norm": norm}) for norm in NORMS),
    *(("resnet18", {"norm": norm}) for norm in RESNET_NORMS),
]
TRAIN = EvalConfig(networks=1, epochs=1, width=8, compile="off")


@pytest.fixture
def untouched():
    """Fails a test that moves the global generator on."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture(autouse=True)
def trained_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "cache"))


def quick(name, **settings):
    kind = METHODS[name]
    return kind(**{k: v for k, v in (QUICK | settings).items() if k in kind.model_fields})


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", METHODS)
def test_a_distillation_draws_from_streams_of_its_own(make_data, name):
    distill(make_data(), quick(name), progress=False)


@pytest.mark.usefixtures("untouched")
def test_so_do_a_decoder_as_drawn_and_a_start_by_features(make_data):
    distill(make_data(), quick("glad", prior="random"), progress=False)
    distill(make_data(), quick("atom", init="kmeans"), progress=False)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("model", MODELS)
def test_so_does_an_evaluation(make_data, model):
    data = make_data(size=32)
    made = distill(data, RandomImages(), progress=False)
    evaluate(made, data, TRAIN.but(model=model), progress=False)


@pytest.mark.usefixtures("untouched")
def test_so_do_networks_side_by_side_on_all_data_and_of_the_search(make_data, tmp_path):
    data = make_data()
    made = distill(data, RandomImages(), progress=False)
    evaluate(made, data, TRAIN.but(networks=3, together=2), progress=False)
    full_data_accuracies(data, TRAIN, zca=False, progress=False)
    about = Proxy.of_set(made, epochs=1), [Candidate(1, 32, "relu", "batch", "none")], data
    evaluate_candidates(*about, zca=False, keep=tmp_path / "nas.jsonl", workers=1, progress=False)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("name", "settings"), NETWORKS)
def test_a_network_is_drawn_from_the_generator_that_is_given(name, settings):
    """Bit by bit what drawing anew gives a network that its layers have drawn before."""
    shape = {"in_channels": 3, "image_size": 32, "num_classes": 5}
    made = build_model(name, **shape, generator=torch.Generator().manual_seed(7), **settings)
    state = torch.random.get_rng_state()
    other = MODELS[name](*shape.values(), **settings)
    torch.random.set_rng_state(state)
    reset_parameters(other, torch.Generator().manual_seed(7))
    expected = other.state_dict()
    assert made.state_dict().keys() == expected.keys()
    for key, tensor in made.state_dict().items():
        assert torch.equal(tensor, expected[key]) and tensor.stride() == expected[key].stride()
        assert tensor.dtype == expected[key].dtype
    assert [p.requires_grad for p in made.parameters()] == [True] * len([*other.parameters()])
    seeds = [[m.seed for m in n.modules() if isinstance(m, Dropout)] for n in (made, other)]
    assert seeds[0] == seeds[1]


def test_without_a_generator_it_is_drawn_from_the_global_one():
    shape = {"in_channels": 3, "image_size": 8, "num_classes": 5, "width": 8}

    def drawn(seed):
        torch.manual_seed(seed)
        return build_model("convnet", **shape).classifier.weight

    state = torch.random.get_rng_state()
    same, other = torch.equal(drawn(1), drawn(1)), torch.equal(drawn(1), drawn(2))
    torch.random.set_rng_state(state)
    assert same and not other
