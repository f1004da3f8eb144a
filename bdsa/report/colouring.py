"""Which networks share a colour: a plot tells seven colours apart, and a sweep may have hundreds of networks."""
from __future__ import annotations

import json

from bdsa.report.networks import Network, setting, varying
from bdsa.report.pictures.line_styles import OKABE_ITO


def colour_groups(networks: list[Network]) -> dict[str, list[Network]]:
    """Name of a colour in the legend -> its networks, at most seven.

    Each network its own where they are few; else the first of model, number of networks and the settings that
    differ which makes 2 to 7 groups; else all are one.
    """
    if len(networks) <= len(OKABE_ITO):
        own: dict[str, list[Network]] = {}
        for network in networks:
            own.setdefault(network.title, []).append(network)
        return own
    names = sorted(varying([n.settings for n in networks]) - {"trainer.seed", "budgets.targets", "model.name"})
    ways = [lambda n: n.model, lambda n: n.kind, *(lambda n, name=name: _setting_of(n, name) for name in names)]
    for way in ways:
        groups: dict[str, list[Network]] = {}
        for network in networks:
            groups.setdefault(way(network), []).append(network)
        if 2 <= len(groups) <= len(OKABE_ITO):
            return dict(sorted(groups.items()))
    return {f"{len(networks)} networks": networks}


def _setting_of(network: Network, name: str) -> str:
    value = network.settings.get(name)
    text = setting(name, value)
    return text if len(text) < 60 else f"{name}={json.dumps(value, default=str)[:40]}..."
