"""A run's text files are UTF-8, whatever the locale of the machine that reads them."""
from __future__ import annotations

import json
import os
import subprocess
import sys

from omegaconf import OmegaConf
from run_folders import write_run

READING = """
import json, sys
from pathlib import Path
from bdsa.runs.contents import read_config
from bdsa.runs.failures import read_reason
assert sys.flags.utf8_mode == 0
print(json.dumps([read_config(Path(sys.argv[1]))["data"]["root"], read_reason(Path(sys.argv[1]))]))
"""


def test_a_run_is_read_in_a_locale_without_its_letters(tmp_path):
    folder = write_run(tmp_path / "run", **{"data.root": "/data/caf\u00e9"})
    (folder / "config.yaml").write_bytes(OmegaConf.to_yaml(OmegaConf.load(folder / "config.yaml")).encode())
    (folder / "failure.txt").write_bytes("caf\u00e9 is closed\n".encode())
    done = subprocess.run([sys.executable, "-c", READING, folder], capture_output=True, text=True, env={
        **os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["/data/caf\u00e9", "caf\u00e9 is closed"]
