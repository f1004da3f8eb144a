"""The names of classes: a network's outputs are found by them, whatever the order of a data set's folders."""
from __future__ import annotations

from collections.abc import Sequence

from bdsa.errors import UserError

SHOWN = 6  # names in an error


def outputs_by_name(data: Sequence[str], network: Sequence[str], source: object) -> list[int]:
    """The network's output for each label of a data set.

    Args:
        data: the names of the data set's classes, a label each.
        network: the names of the network's outputs.
        source: what to call the network in errors.

    Raises:
        UserError: if a class of the data is none of the network's, or a name stands for several.
    """
    if list(data) == list(network):
        return list(range(len(data)))
    other = [name for name in data if name not in {*network}]
    if other or len({*data}) < len(data) or len({*network}) < len(network):
        what = f"the network lacks {len(other)} of them: {shortened(other)}" if other else "names are repeated"
        raise UserError(f"{source} was trained for the classes {shortened(network)}, the data have {shortened(data)}; "
                        f"{what}. Name the data's classes as the network's")
    place = {name: output for output, name in enumerate(network)}
    return [place[name] for name in data]


def shortened(names: Sequence[str]) -> str:
    """The first of some names, and how many there are."""
    shown = ", ".join(name if len(name) <= 40 else f"{name[:40]}..." for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, ... ({len(names)} in all)"
