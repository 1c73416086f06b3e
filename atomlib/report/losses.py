"""Matching losses in panels: those of different terms or scale are never overlaid."""

from collections.abc import Iterable, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from atomlib import methods
from atomlib.distilled_set import DistilledSet
from atomlib.report.glyphs import plain_text
from atomlib.report.records import by_recipe


def by_loss(sets: Iterable[DistilledSet]) -> list[tuple[str, list[DistilledSet]]]:
    """Sets whose losses are of the same terms and scale, and what these are of, in words."""
    groups: dict[tuple[str, str, str], list[DistilledSet]] = {}
    for made in sets:
        if made.history:
            key = made.data_name, made.method.name, made.method.recipe
            groups.setdefault(key, []).append(made)
    several = len({data for data, *_ in groups}) > 1
    return [
        (by_recipe(method, recipe) + (f", {plain_text(data)}" if several else ""), mine)
        for (data, method, recipe), mine in groups.items()
    ]


def draw_losses(axes: Sequence[Axes], groups: list[tuple[str, list[DistilledSet]]]) -> None:
    """One panel per group of ``by_loss``, dashes by IPC: a line per set, faint where several of one
    IPC (distillation seeds) were recorded at the same iterations, with their mean upon them."""
    ipcs = sorted({made.ipc for _, mine in groups for made in mine})
    dashes = dict(zip(ipcs, cycle(["-", "--", ":", "-."]), strict=False))
    for axis, (name, mine) in zip(axes, groups, strict=False):
        for ipc in sorted({made.ipc for made in mine}):
            own = [made for made in mine if made.ipc == ipc]
            look = {"color": methods.colour(own[0].method.name), "ls": dashes[ipc]}
            histories = [tuple(zip(*made.history, strict=True)) for made in own]
            together = len(own) > 1 and len({steps for steps, _ in histories}) == 1
            each = {"lw": 0.6, "alpha": 0.25} if together else {"lw": 1.2}
            for steps, losses in histories:
                axis.plot(steps, losses, **each, **look)
            if together:
                mean = np.mean([losses for _, losses in histories], axis=0)
                axis.plot(histories[0][0], mean, lw=1.2, **look)
        axis.set(title=name, xlabel="iteration")
        _readable_axis(axis, [loss for made in mine for _, loss in made.history])
    axes[0].set_ylabel("matching loss\n(each panel its own scale)")
    if len(ipcs) > 1:
        lines = [Line2D([], [], color="0.3", ls=dashes[ipc], label=f"IPC {ipc}") for ipc in ipcs]
        axes[0].figure.legend(handles=lines, loc="outside right center", frameon=False)


def _readable_axis(axis: Axes, values: Sequence[float]) -> None:
    """Logarithmic over more than a decade; ticks as plain numbers, 20 and not 2 x 10^1."""
    above = [value for value in values if value > 0]
    if above and max(above) > 10 * min(above):
        axis.set_yscale("log")
        subs = (1, 2, 5) if max(above) < 1000 * min(above) else (1,)
        axis.yaxis.set_major_locator(LogLocator(subs=subs))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def legend_beside(axis: Axes) -> None:
    """At the right of the lines, each label once."""
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(
        once.values(), once.keys(), frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
