"""A browser without a window, for tests that ask what a person sees."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """Speaks the DevTools protocol over a pipe: JSON messages that end with a zero byte."""

    def __init__(self, requests: int, answers: int) -> None:
        self.requests, self.answers = requests, answers
        self.numbers = itertools.count(1)
        self.unread = b""
        self.session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.complaints: list[str] = []
        for domain in ("Page", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def receive(self) -> dict[str, Any]:
        """Return the next message."""
        while b"\0" not in self.unread:
            if not (more := os.read(self.answers, 65536)):
                raise EOFError("the browser is gone")
            self.unread += more
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)

    def heed(self, message: dict[str, Any]) -> None:
        """Keep what the page complains of: errors of scripts, and what it may not load."""
        if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(message["params"]))

    def call(self, method: str, **params: Any) -> Any:
        """Give a command; return its result. Raises RuntimeError with the browser's reason."""
        number = next(self.numbers)
        os.write(self.requests, json.dumps({"id": number, "method": method, "params": params, **self.session}).encode() + b"\0")
        while (answer := self.receive()).get("id") != number:
            self.heed(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, url: str, width: int, height: int) -> None:
        """Open a page on a screen of so many CSS pixels, as on a phone when it is narrow, and wait until it is there."""
        self.complaints.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        if reason := self.call("Page.navigate", url=url).get("errorText"):
            raise RuntimeError(f"{url}: {reason}")
        while (message := self.receive()).get("method") != "Page.loadEventFired":
            self.heed(message)

    def log_in(self, login: str) -> None:
        """Send a login, NAME:PASSWORD, with every request from now on (HTTP Basic, RFC 7617)."""
        token = base64.b64encode(login.encode()).decode()
        self.call("Network.enable")
        self.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {token}"})

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")


def program() -> str | None:
    """Return the browser of this machine; None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextlib.contextmanager
def browsing(command: str, *settings: str) -> Iterator[Browser]:
    """Start a browser with an empty profile, and with further settings; end it afterwards."""
    request_end, requests = os.pipe()
    answers, answer_end = os.pipe()

    def connect() -> None:
        # The protocol's pipes are file descriptors 3 and 4.
        first, second = os.dup(request_end), os.dup(answer_end)
        os.dup2(first, 3)
        os.dup2(second, 4)

    with tempfile.TemporaryDirectory(prefix="beowulf-browser-", ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--no-first-run", f"--user-data-dir={profile}"]
        child = subprocess.Popen(
            [command, *options, *settings, "--remote-debugging-pipe"], preexec_fn=connect, close_fds=False, stderr=subprocess.DEVNULL
        )  # fmt: skip
        os.close(request_end)
        os.close(answer_end)
        try:
            yield Browser(requests, answers)
        finally:
            child.terminate()
            child.wait(timeout=20)
            os.close(requests)
            os.close(answers)
