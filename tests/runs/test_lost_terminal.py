"""A terminal that is closed, or was never there, ends no run."""
from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bdsa.runs.output import LastingOutput

SPEAKING = """
import logging, sys
from bdsa.report.progress import progress_bar
from bdsa.runs.folder import PrintHandler

log = logging.getLogger("bdsa")
log.addHandler(PrintHandler())
log.setLevel(logging.INFO)
with progress_bar() as bar:
    task = bar.add_task("training", total=3)
    log.info("epoch 1")
    sys.stdin.read()  # until the test has closed the terminal
    for epoch in (2, 3):
        log.info("epoch %d", epoch)
        bar.advance(task)
log.info("done")
open(sys.argv[1], "w").write("done")
"""


@pytest.mark.parametrize("shown", ["bar", "lines"])
def test_a_training_outlives_its_terminal(tmp_path: Path, shown: str) -> None:
    """With a bar on a terminal, or in lines to a reader that ends."""
    reader, writer = os.openpty() if shown == "bar" else os.pipe()
    child = subprocess.Popen([sys.executable, "-c", SPEAKING, tmp_path / "end"], stdin=subprocess.PIPE, stdout=writer,
                             stderr=writer, start_new_session=True, env={**os.environ, "TERM": "xterm"})
    os.close(writer)
    seen = b""
    with contextlib.suppress(OSError):
        while b"epoch 1" not in seen and (part := os.read(reader, 1024)):
            seen += part
    os.close(reader)
    child.communicate(b"", timeout=60)
    assert b"epoch 1" in seen and child.returncode == 0
    assert (tmp_path / "end").read_text() == "done"


def test_a_training_needs_no_output_at_all(tmp_path: Path) -> None:
    quoted = [f"'{part}'" for part in (sys.executable, "-c", SPEAKING.replace("'", '"'), tmp_path / "end")]
    done = subprocess.run(["sh", "-c", f"{' '.join(quoted)} >&- 2>&-"], input=b"")
    assert done.returncode == 0 and (tmp_path / "end").read_text() == "done"


def test_what_an_output_cannot_spell_is_written_in_escapes() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print("caf\u00e9", file=LastingOutput(stream), flush=True)
    assert stream.buffer.getvalue() == b"caf\\xe9\n"
    stream.close()
    print("dropped", file=LastingOutput(stream), flush=True)
