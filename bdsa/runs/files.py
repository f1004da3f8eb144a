"""Files of a run, written whole or not at all."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, readable, whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")
