"""A headless Chromium driven through its DevTools pipe: real clicks and keys, no package beside the browser itself."""
from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
HOW = ("no Chromium or Chrome here: `apt-get install chromium`, or unpack bin/chromium.br of npm's @sparticuz/chromium "
       "(Linux, needs libnss3), and name the file in BDSA_BROWSER if it is not on the PATH")


def find_browser() -> str | None:
    """The browser's file, or None."""
    asked = os.environ.get("BDSA_BROWSER")
    return asked or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab. Collects what went wrong: `errors` of scripts and console, `requests` to anything but files and data.

    Args:
        path: the browser's file.
        profile: a folder for its profile.
    """

    def __init__(self, path: str, profile: Path) -> None:
        to_browser, ours_out = os.pipe()
        ours_in, from_browser = os.pipe()
        # The browser reads commands from its file descriptor 3 and answers on 4.
        command = [path, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}",
                   "--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-pipe"]

        def place() -> None:
            one, two = os.dup(to_browser), os.dup(from_browser)  # free of 3 and 4 themselves
            os.dup2(one, 3)
            os.dup2(two, 4)

        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                         preexec_fn=place, close_fds=False)
        os.close(to_browser)
        os.close(from_browser)
        self._out, self._in, self._rest, self._number = ours_out, ours_in, b"", 0
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A DevTools command and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, page: Path) -> None:
        """Load a file and wait until its scripts have run."""
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def js(self, expression: str) -> Any:
        """The value of a script's expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Until a script's expression is true."""
        end = time.monotonic() + seconds
        while not self.js(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {condition}")
            time.sleep(0.05)

    def _middle(self, selector: str) -> tuple[float, float]:
        x, y = self.js(f"(e => {{e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect(); return "
                       f"[b.x + b.width / 2, b.y + b.height / 2]}})(document.querySelector({json.dumps(selector)}))")
        return x, y

    def hover(self, selector: str) -> None:
        x, y = self._middle(selector)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Press and release the mouse in the middle of an element."""
        x, y = self._middle(selector)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str) -> None:
        """Press a named key where the focus is."""
        code = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Tab": 9}[name]
        text = {"text": "\r"} if name == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, windowsVirtualKeyCode=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=name, code=name, windowsVirtualKeyCode=code)

    def write(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def size(self, width: int, height: int, mobile: bool = False) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def picture(self, selector: str) -> np.ndarray:
        """An element's pixels as they are painted: uint8 [H, W, 3]."""
        self._middle(selector)
        self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        x, y, width, height = self.js(f"(b => [b.x + scrollX, b.y + scrollY, b.width, b.height].map(Math.round))"
                                      f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        data = base64.b64decode(self.send("Page.captureScreenshot", clip=clip)["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def _next(self, seconds: float = 60) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], seconds)[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._in, 1 << 16)
            if not part:
                raise RuntimeError("the browser ended")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, told = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
            self.requests.append(told["request"]["url"])
