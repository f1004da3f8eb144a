"""The parent of the modules of plug-ins, `bdsa.config.plugged.NAME`; it holds nothing itself.

A process that starts afresh, such as a loader's worker where processes are not forked, imports it on its way to a data
set's class and finds the plug-ins of the process that started it.
"""
from __future__ import annotations

import os

from bdsa.config import plugins

__path__: list[str] = []  # it is a package: importing bdsa.config.plugged.NAME imports this first

plugins.load_plugins(p for p in os.environ.get(plugins.INHERITED, "").split(os.pathsep) if p)
