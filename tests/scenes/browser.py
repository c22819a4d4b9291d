"""Chromium without a window, spoken to by its DevTools protocol: what it sees on a page."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "build" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
START = 60  # seconds
LIMIT = 200_000_000  # bytes of a message
PHONE = 600  # pixels, below which a screen is one
SEEN_AS = [(width, mode) for width in (1280, 390) for mode in ("light", "dark")]
FINDINGS = """axe.run(document, {resultTypes: ["violations"]}).then(found =>
  found.violations.flatMap(rule => rule.nodes.map(node =>
    `${rule.id}: ${node.html.slice(0, 160)} (${node.failureSummary})`)))"""
TOO_WIDE = """[...document.querySelectorAll("body *")].filter(one =>
  one.getBoundingClientRect().right > 361 && !one.closest(".scroll, pre")
).map(one => one.outerHTML.slice(0, 120))"""
FOCUS = "a[href], summary, [tabindex='0']"


def absent() -> str:
    """Why pages cannot be tested in a browser here; "" where they can."""
    if shutil.which("chromium") is None:
        return "no chromium here (Debian: apt-get install chromium)"
    if not AXE.is_file():
        return "no axe-core here: `make test-browser` installs it (npm)"
    return ""


@dataclass
class Seen:
    """What a browser saw on a page.

    errors:     lines of its console that are errors, and uncaught exceptions
    requests:   addresses asked for but the page's own and embedded data
    violations: of axe-core, on a screen and on a phone, in light and in dark mode
    wide:       elements that stick out of a screen 360 pixels wide, and whether the page scrolls
    unreached:  elements that the Tab key should reach and did not
    """

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    violations: dict[str, list[str]] = field(default_factory=dict)
    wide: list[str] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[str]:
    """A browser; gives the address of its DevTools."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                 "--disable-extensions", "--remote-debugging-port=0", "--remote-allow-origins=*",
                 f"--user-data-dir={folder}/profile", "about:blank"],
                stdout=subprocess.DEVNULL, stderr=stream, start_new_session=True,
            )  # fmt: skip
        try:
            yield _address(log)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


def _address(log: Path) -> str:
    end = time.monotonic() + START
    while time.monotonic() < end:
        found = re.search(r"DevTools listening on (ws://\S+)", log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(0.1)
    raise TimeoutError(f"chromium did not start: {log.read_text(errors='replace')[-500:]}")


class Tab:
    """A tab that is being tested."""

    def __init__(self, connection: WebSocketClientConnection, seen: Seen, url: str) -> None:
        self._connection, self._seen, self.url = connection, seen, url
        self._numbers = itertools.count(1)
        self._events: list[str] = []
        self.session: str | None = None

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        await self._connection.write_message(json.dumps(message))
        while True:
            answer = await self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    async def wait_for(self, event: str) -> None:
        while event not in self._events:
            await self._next()

    async def value(self, expression: str) -> Any:
        """What JavaScript gives, as JSON."""
        found = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    async def _next(self) -> dict[str, Any]:
        text = await self._connection.read_message()
        if text is None:
            raise ConnectionError("chromium closed the connection")
        answer: dict[str, Any] = json.loads(text)
        if "method" in answer:
            self._event(answer["method"], answer["params"])
        return answer

    def _event(self, name: str, given: dict[str, Any]) -> None:
        self._events.append(name)
        if name == "Runtime.exceptionThrown":
            self._seen.errors.append(str(given["exceptionDetails"]))
        elif name == "Runtime.consoleAPICalled" and given["type"] in ("error", "assert"):
            self._seen.errors.append(str(given["args"]))
        elif name == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self._seen.errors.append(str(given["entry"]["text"]))
        elif name == "Network.requestWillBeSent":
            url = given["request"]["url"]
            if url != self.url and not url.startswith("data:"):
                self._seen.requests.append(url)


async def visit(address: str, file: Path) -> Seen:
    """Open a page and look at it; see `Seen`."""
    seen = Seen()
    connection = await websocket_connect(address, max_message_size=LIMIT)
    try:
        await _look(Tab(connection, seen, file.resolve().as_uri()), seen)
    finally:
        connection.close()
        while await connection.read_message() is not None:  # until the socket is closed
            pass
    return seen


async def _look(tab: Tab, seen: Seen) -> None:
    target = await tab.call("Target.createTarget", url="about:blank")
    attached = await tab.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
    tab.session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        await tab.call(f"{domain}.enable")
    await tab.call("Page.navigate", url=tab.url)
    await tab.wait_for("Page.loadEventFired")
    await tab.value("document.querySelectorAll('details').forEach(one => { one.open = true })")
    await _keyboard(tab, seen)
    await tab.value(AXE.read_text("utf-8"))
    for width, mode in SEEN_AS:
        await _resize(tab, width)
        media = [{"name": "prefers-color-scheme", "value": mode}]
        await tab.call("Emulation.setEmulatedMedia", features=media)
        seen.violations[f"{mode}, {width} px"] = await tab.value(FINDINGS)
    await _resize(tab, 360)
    if await tab.value("document.documentElement.scrollWidth") > 360:
        seen.wide = ["the page scrolls sideways", *await tab.value(TOO_WIDE)]


async def _resize(tab: Tab, width: int) -> None:
    shape = {"width": width, "height": 780, "deviceScaleFactor": 1, "mobile": width < PHONE}
    await tab.call("Emulation.setDeviceMetricsOverride", **shape)


async def _keyboard(tab: Tab, seen: Seen) -> None:
    await tab.value(
        "reached = new Set(); addEventListener('focusin', event => { reached.add(event.target) })"
    )
    count = await tab.value(f'document.querySelectorAll("{FOCUS}").length')
    for _ in range(count + 2):
        for kind in ("rawKeyDown", "keyUp"):
            await tab.call(
                "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
            )
    seen.unreached = await tab.value(
        f'[...document.querySelectorAll("{FOCUS}")].filter(one => !reached.has(one))'
        ".map(one => one.outerHTML.slice(0, 120))"
    )
