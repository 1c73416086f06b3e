"""Matching losses in panels: those of different terms or scale are never overlaid."""

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
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
    """One panel per group of ``by_loss``, a line per set, dashes by IPC."""
    ipcs = sorted({made.ipc for _, mine in groups for made in mine})
    for axis, (name, mine) in zip(axes, groups, strict=False):
        for made in mine:
            style = ("-", "--", ":", "-.")[ipcs.index(made.ipc) % 4]
            colour = methods.colour(made.method.name)
            steps, losses = zip(*made.history, strict=True)
            axis.plot(steps, losses, color=colour, ls=style, lw=1.2, label=f"IPC {made.ipc}")
        axis.set(title=name, xlabel="iteration")
        _readable_axis(axis, [loss for made in mine for _, loss in made.history])
    axes[0].set_ylabel("matching loss\n(each panel its own scale)")
    if len(ipcs) > 1:
        legend_beside(axes[len(groups) - 1])


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
