"""How the authors of published sets evaluate them, by name: settings of one EvalConfig each.

They have one recipe in common (docs/facts.md, "Evaluation protocol"), which is ours,
and differ in the number of epochs, in augmentation and in the learning rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atomlib.errors import check_choice
from atomlib.methods import DataDAM
from atomlib.published.published_set import PublishedSet
from atomlib.training import EvalConfig


@dataclass(frozen=True)
class Protocol:
    """What one group of authors does otherwise than our defaults."""

    label: str
    settings: dict[str, Any] = field(default_factory=dict)
    learned_rate: bool = False
    """Whether networks are trained at the rate that comes with the set, where one does."""


NO_AUGMENTATION = {"dsa": {"strategies": ()}}

PROTOCOLS = {
    "ours": Protocol("ours"),
    "dc": Protocol("DC", {"epochs": 300, **NO_AUGMENTATION}),
    "dsa": Protocol("DSA and DM"),
    "cafe": Protocol("CAFE", {"epochs": 600, **NO_AUGMENTATION}),
    "mtt": Protocol("MTT", learned_rate=True),
    "datm": Protocol("DATM", learned_rate=True),
    DataDAM.name: Protocol(DataDAM.label, {"recipe": "code"}),
}


def in_words(settings: Mapping[str, Any]) -> str:
    """What a protocol is, from the settings of its EvalConfig as a record holds them."""
    augmented = "DSA" if settings["dsa"]["strategies"] else "no augmentation"
    return (
        f"{settings['epochs']} epochs, {augmented}, rate {settings['lr']:.3g}, batch "
        f"{settings['batch_size']}"
    )


def protocol(name: str, made: PublishedSet, **changes: Any) -> EvalConfig:
    """The evaluation of a set under a named protocol, with ``changes``, such as ``networks=3``.

    Raises SettingError for an unknown name.
    """
    check_choice("protocol", name, PROTOCOLS)
    chosen = PROTOCOLS[name]
    settings = {**changes, **chosen.settings}
    if chosen.learned_rate and made.lr is not None:
        settings["lr"] = made.lr
    # What was given goes before what the authors chose, but their not augmenting stays.
    settings |= {key: value for key, value in changes.items() if key != "dsa"}
    return EvalConfig(**settings)
