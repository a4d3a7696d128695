"""A headless Chromium that opens a local page and tells what happened: spoken to over its DevTools protocol, without a
driver."""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@dataclass
class Visit:
    """What a page did: errors on its console, addresses it asked for besides its own, and what each script returned."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    screenshot: bytes = b""


def visit(
    page: Path,
    *scripts: str,
    ready: str,
    width: int = 1280,
    height: int = 900,
    is_dark: bool = False,
    shot: bool = False,
) -> Visit:
    """Opens the page, waits until the expression `ready` is true, then evaluates the scripts in order.

    A script that is one word in capitals is a key to press: TAB, ENTER.
    """
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            return asyncio.run(_visit(port_file, page, scripts, ready, width, height, is_dark, shot))
        finally:
            process.terminate()
            process.wait(20)


_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--no-first-run",
)


async def _visit(
    port_file: Path,
    page: Path,
    scripts: tuple[str, ...],
    ready: str,
    width: int,
    height: int,
    is_dark: bool,
    shot: bool,
) -> Visit:
    port = await _port(port_file)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(t for t in await answer.json() if t["type"] == "page")
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            return await _Page(socket, page).see(scripts, ready, width, height, is_dark, shot)


async def _port(file: Path) -> str:
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text().strip()):
        assert time.monotonic() < deadline, "chromium did not open its debugging port within 60 s"
        await asyncio.sleep(0.05)
    return file.read_text().splitlines()[0]


class _Page:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse, page: Path) -> None:
        self.socket, self.url, self.seen, self.last_id = socket, page.resolve().as_uri(), Visit(), 0

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self.last_id += 1
        await self.socket.send_str(json.dumps({"id": self.last_id, "method": method, "params": params}))
        while True:
            message = json.loads(await self.socket.receive_str(timeout=60))
            if message.get("id") == self.last_id:
                assert "error" not in message, message
                return message["result"]
            self.hear(message.get("method", ""), message.get("params", {}))

    def hear(self, event: str, params: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.seen.errors.append(json.dumps(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.seen.errors.append(json.dumps(params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.seen.errors.append(params["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if url != self.url and not url.startswith("data:"):
                self.seen.requests.append(url)

    async def value(self, script: str) -> Any:
        result = await self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def see(
        self, scripts: tuple[str, ...], ready: str, width: int, height: int, is_dark: bool, shot: bool
    ) -> Visit:
        for domain in ("Runtime", "Log", "Network", "Page"):
            await self.ask(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.ask("Emulation.setEmulatedMedia", features=[scheme])
        await self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        await self.ask("Page.navigate", url=self.url)
        deadline = time.monotonic() + 60
        while not await self.value(ready):
            assert time.monotonic() < deadline, f"{ready} was not true within 60 s; {self.seen}"
            await asyncio.sleep(0.1)
        for script in scripts:
            if script in ("TAB", "ENTER"):
                await self.press(script.capitalize())
            else:
                self.seen.values.append(await self.value(script))
        if shot:
            picture = await self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
            self.seen.screenshot = base64.b64decode(picture["data"])
        return self.seen

    async def press(self, key: str) -> None:
        about = {"key": key, "code": key, "windowsVirtualKeyCode": {"Tab": 9, "Enter": 13}[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        await self.ask("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        await self.ask("Input.dispatchKeyEvent", type="keyUp", **about)
