"""Headless Chromium, by WebDriver, as far as tests of pages need it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request

INSTALLED = bool(shutil.which("chromedriver") and shutil.which("chromium"))
PATIENCE = 300.0
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage")
OFFLINE = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element in WebDriver's answers."""


class Browser:
    """One browser, with a profile of its own."""

    def __init__(self, profile):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
        self.address = f"http://127.0.0.1:{port}"
        until(lambda: self.ask("GET", "/status")["ready"])
        options = {"args": [*QUIET, *OFFLINE, f"--user-data-dir={profile}"]}
        made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self.address += f"/session/{made['sessionId']}"

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.load(response)["value"]

    def open(self, address):
        self.ask("POST", "/url", {"url": address})

    def type(self, *keys):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def run(self, script):
        return self.ask("POST", "/execute/sync", {"script": f"return {script}", "args": []})

    def text(self, name):
        return self.run(f'document.getElementById("{name}")?.textContent ?? ""')

    def choose(self, name, *files):
        """Choose files in an input of the page."""
        found = self.ask("POST", "/element", {"using": "css selector", "value": f"#{name}"})
        self.ask("POST", f"/element/{found[ELEMENT]}/value", {"text": "\n".join(map(str, files))})

    def quit(self):
        self.ask("DELETE", "")
        self.driver.terminate()
        self.driver.wait(PATIENCE)


def until(holds):
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if holds():
                return
        except (OSError, KeyError, ValueError):
            pass  # not there yet
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.05)
