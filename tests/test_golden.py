"""Golden values: what tiny runs gave when their revision was set, so that no change is an accident.

Each file of tests/golden/ holds the numbers of one method, of training or of the search, and the
revision they are of. Numbers that change without the revision fail; ``make golden`` writes the
files whose revision was raised, and no others. Whether the numbers are *right* is for the other
tests, which hold the code to slow and plain definitions.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from atomlib.datasets import ImageData
from atomlib.distill import distill
from atomlib.evaluate import evaluate
from atomlib.full_data import full_data_accuracies, trained_network
from atomlib.methods import METHODS, Method
from atomlib.nas import Candidate, Proxy, evaluate_candidates
from atomlib.preprocess import test_images as inputs_of
from atomlib.runs.lines import REVISION as search_revision
from atomlib.training import REVISION as training_revision
from atomlib.training import EvalConfig

FOLDER = Path(__file__).parent / "golden"

WITHIN = 1e-3
"""Of the largest number of its list. One and two threads differ by 1e-4 at most, processors
with and without AVX by 5e-5; ATOM and DataDAM by 0.3."""

WAY_WITHIN = 1e-2
"""Of a way, the change of the images: processors differ by 4e-3 in DSA's of whitened images,
between whose steps networks are trained."""

CPU = {"width": 16, "precision": "float32", "compile": "off"}
DSA_OFF = {"strategies": []}

# Each value of each of three settings twice, and each pair of values once.
RUNS = {
    "plain": {"zca": False, "norm": "instance", "dsa": DSA_OFF},
    "zca": {"zca": True, "norm": "instance"},
    "batch": {"zca": False, "norm": "batch"},
    "zca batch": {"zca": True, "norm": "batch", "dsa": DSA_OFF},
}
MORE_OF_ATOM = {
    "noise": {"init": "noise", "zca": False},
    "powers": {"spatial_power": 2.0, "channel_power": 3.0, "zca": False},
    "one term": {"output": False, "channel": False, "attention_norm": "none", "zca": False},
    "shallow": {"depth": 1, "layers": (1,), "task_balance": 0.5, "zca": False},
}
# Of an expert no running statistics are kept; its whitening has a third form.
MORE_OF_MTT = {
    "batch": {"zca": False, "norm": "group"},
    "zca batch": {"zca": "unit", "norm": "layer", "dsa": DSA_OFF},
}
MORE_OF_GLAD = {"random decoder": {"prior": "random", "zca": False}}
MORE = {
    "atom": MORE_OF_ATOM,
    "mtt": MORE_OF_MTT,
    "glad": MORE_OF_GLAD,
    "glad_mtt": MORE_OF_MTT,
}
EVALUATIONS = {
    "plain": {"dsa": DSA_OFF},
    "dsa": {},
    "step": {"schedule": "step", "step_size": 1, "norm": "batch"},
    "slow": {"lr": 0.01},
    "side by side": {"together": 2},
}
CANDIDATES = (
    Candidate(1, 32, "relu", "instance", "none"),
    Candidate(2, 32, "relu", "batch", "max"),
    Candidate(2, 32, "leakyrelu", "layer", "average"),
    Candidate(2, 32, "sigmoid", "group", "average"),
)


def made_up() -> ImageData:
    """Three patterns in noise: networks end between chance and 100 %."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(3, 3, 16, 16, generator=generator)

    def split(count):
        labels = torch.arange(count) % 3
        noise = torch.randn(count, 3, 16, 16, generator=generator)
        return (128 + 30 * patterns[labels] + 60 * noise).clamp(0, 255).to(torch.uint8), labels

    (train, train_labels), (test, test_labels) = split(36), split(300)
    return ImageData("made up", train, train_labels, test, test_labels, ("ant", "bee", "cat"))


def method(name: str, **settings) -> Method:
    """A method at its defaults, small enough for a test."""
    sizes = {"ipc": 2, "iterations": 3, "real_batch": 8, "feature_epochs": 2, "loss_scale": 100.0}
    # Fewer than a stopping rule of CAFE looks at: no accuracy near a threshold decides.
    sizes |= {"outer": 2, "inner": 2, "most_steps": 2, "most_epochs": 2}
    sizes |= {"student_steps": 3, "experts": 2, "expert_epochs": 1, "latest_start": 2}
    sizes |= {"rate_lr": 1e-7, "decoder_width": 8, "decoder_epochs": 2, "fit_steps": 2}
    known = METHODS[name].model_fields
    return METHODS[name](**{k: v for k, v in (sizes | CPU | settings).items() if k in known})


def projected(tensor: torch.Tensor) -> list[float]:
    """A tensor in five numbers: its length, and along four directions drawn once for its size."""
    flat = tensor.detach().double().flatten()
    directions = torch.randn(4, len(flat), generator=torch.Generator().manual_seed(1)).double()
    return [flat.norm().item(), *(directions @ flat).tolist()]


def of_method(data: ImageData, name: str) -> dict[str, list[float]]:
    found = {}
    for run, settings in (RUNS | MORE.get(name, {})).items():
        asked = method(name, **settings)
        start = asked.resolve(data).start(data, torch.device("cpu"), progress=False).flatten(0, 1)
        found[f"{run}: start"] = projected(start)
        made = distill(data, asked, progress=False)
        if made.history:
            found[f"{run}: losses"] = [loss for _, loss in made.history]
            found[f"{run}: way"] = projected(made.trained - start)
            found[f"{run}: pixels"] = projected(made.images)
    if name in (
        "herding",
        "kcenter",
        "forgetting",
        "dq",
    ):  # they choose by a network trained as these are
        found |= of_full_data(data)
    return found


def training(**settings) -> EvalConfig:
    return EvalConfig(**{"networks": 2, "epochs": 3, "lr": 0.1, "batch_size": 6, **CPU, **settings})


def of_evaluation(data: ImageData) -> dict[str, list[float]]:
    chosen = distill(data, method("random", ipc=12, zca=False), progress=False)
    return {
        f"{run}: accuracies": evaluate(chosen, data, training(**settings), progress=False).tolist()
        for run, settings in EVALUATIONS.items()
    }


def of_full_data(data: ImageData) -> dict[str, list[float]]:
    found = {}
    for run in ("plain", "dsa", "step", "slow"):
        # Whitened noise at a rate of 0.1 makes rounding grow tenfold a step.
        config, zca = training(**EVALUATIONS[run]), run == "slow"
        accuracies = full_data_accuracies(data, config, zca=zca, progress=False)
        found[f"{run}: accuracies"] = accuracies.tolist()
        # Scores tell more than accuracies: they follow every weight.
        network = trained_network(data, config, zca=zca, device="cpu", progress=False)
        scores = network(inputs_of(data, zca, torch.device("cpu")))
        found[f"{run}: scores"] = projected(scores)
    return found


def of_search(data: ImageData) -> dict[str, list[float]]:
    chosen = distill(data, method("random", ipc=12, zca=False), progress=False)
    proxy = Proxy.of_set(chosen, epochs=9)
    found = of_full_data(data)  # trained as candidates are, and told in more than accuracies
    with tempfile.TemporaryDirectory() as folder:
        for together in (1, 4):
            results = evaluate_candidates(
                proxy,
                CANDIDATES,
                data,
                EvalConfig(lr=0.1, batch_size=6, together=together),
                zca=False,
                keep=Path(folder) / f"{together}.jsonl",
                workers=1,
                progress=False,
            )
            for half in ("validation", "test"):
                found[f"{together} together: {half} accuracies"] = results[half].tolist()
    return found


REVISIONS = {
    **{name: (f"{of.__name__}.revision", of.revision) for name, of in METHODS.items()},
    "evaluation": ("training.REVISION", training_revision),
    "full_data": ("training.REVISION", training_revision),
    "nas": ("runs.lines.REVISION", search_revision),
}
"""What each file is of: the name of its revision, and the revision of today."""

OTHERS = {"evaluation": of_evaluation, "full_data": of_full_data, "nas": of_search}


def numbers(data: ImageData, of: str) -> dict[str, list[float]]:
    """What today's code gives, to six digits."""
    found = OTHERS[of](data) if of in OTHERS else of_method(data, of)
    return {name: [float(f"{x:.6g}") for x in values] for name, values in found.items()}


def read(of: str, folder: Path = FOLDER) -> dict:
    """Its golden file; revision 0 where there is none yet."""
    path = folder / f"{of}.json"
    return json.loads(path.read_text()) if path.exists() else {"revision": 0, "numbers": {}}


def complaint(of: str, golden: dict, now: dict[str, list[float]], revision: int) -> str | None:
    """What is wrong, in a sentence; None where nothing is."""
    if revision > golden["revision"]:
        return "run `make golden`"
    if revision == golden["revision"] and same(golden["numbers"], now):
        return None
    name = REVISIONS[of][0]
    return f"{of}'s numbers have changed: undo it, or raise {name} and run `make golden`"


def within(name: str) -> float:
    return WAY_WITHIN if name.endswith(": way") else WITHIN


def same(then: dict[str, list[float]], now: dict[str, list[float]]) -> bool:
    """Whether all numbers are there and each is near enough."""
    return then.keys() == now.keys() and all(
        now[name] == pytest.approx(values, rel=0, abs=within(name) * max(map(abs, values)))
        for name, values in then.items()
    )


def write(
    revisions: dict[str, int], numbers_of: Callable[[str], dict], folder: Path = FOLDER
) -> list[str]:
    """Write the files whose revision was raised; their names."""
    raised = [of for of, revision in revisions.items() if revision > read(of, folder)["revision"]]
    for of in raised:
        golden = {"revision": revisions[of], "numbers": numbers_of(of)}
        (folder / f"{of}.json").write_text(json.dumps(golden, indent=1) + "\n")
    return raised


@pytest.fixture(scope="module")
def data():
    return made_up()


@pytest.mark.parametrize("of", REVISIONS)
def test_numbers_are_those_of_their_revision(data, of):
    wrong = complaint(of, read(of), numbers(data, of), REVISIONS[of][1])
    assert wrong is None, wrong


def test_each_number_counts():
    """Moved by twice the tolerance it is a change, by a tenth of it none."""
    then = read("atom")["numbers"]
    for name, values in then.items():
        for place, value in enumerate(values):
            for far, near_enough in ((2.0, False), (0.1, True)):
                moved = value + far * within(name) * max(map(abs, values))
                now = then | {name: [*values[:place], moved, *values[place + 1 :]]}
                assert same(then, now) is near_enough
    assert not same(then, {name: then[name] for name in list(then)[1:]})


def test_methods_are_told_apart():
    learnt = [read(name)["numbers"] for name in ("dm", "datadam", "atom")]
    for run in RUNS:
        ways = [numbers[f"{run}: way"] for numbers in learnt]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert not same({"way": ways[one]}, {"way": ways[other]})


def test_the_three_outcomes_are_told():
    golden, other = {"revision": 2, "numbers": {"x": [1.0]}}, {"x": [1.1]}
    assert complaint("atom", golden, {"x": [1.0]}, 2) is None
    changed = "atom's numbers have changed: undo it, or raise ATOM.revision and run `make golden`"
    assert complaint("atom", golden, other, 2) == changed
    assert complaint("atom", golden, {"x": [1.0]}, 1) == changed  # a revision is never lowered
    assert complaint("atom", golden, other, 3) == "run `make golden`"


def test_only_what_was_raised_is_written(tmp_path):
    assert write({"dm": 1, "atom": 1}, lambda of: {"x": [1.0]}, tmp_path) == ["dm", "atom"]
    assert write({"dm": 1, "atom": 2}, lambda of: {"x": [2.0]}, tmp_path) == ["atom"]
    assert read("dm", tmp_path) == {"revision": 1, "numbers": {"x": [1.0]}}
    assert read("atom", tmp_path) == {"revision": 2, "numbers": {"x": [2.0]}}


def main() -> None:
    """``make golden``: rewrite the files whose revision was raised."""
    torch.set_num_threads(1)
    data = made_up()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ATOM_CACHE"] = cache  # nothing trained before is read
        revisions = {of: revision for of, (_, revision) in REVISIONS.items()}
        written = write(revisions, lambda of: numbers(data, of))
    print(f"written: {', '.join(written) or 'nothing, no revision was raised'}")


if __name__ == "__main__":
    main()
