"""Drive a real Firefox through Marionette, the protocol of geckodriver: no package needed."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from browser import WAIT_S, Browser

PROGRAM = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
PREFERENCES: dict[str, int | str] = {
    "marionette.port": 0,  # any free one, which Firefox writes into the profile
    "dom.w3c_touch_events.enabled": 1,  # without a touch screen, too
    # A proxy that does not exist: nothing but this machine can be reached.
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
}
SWITCHES = ("--headless", "--no-remote", "--marionette", "--remote-allow-system-access")


class Firefox(Browser):
    """One headless Firefox."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM
        values = {name: json.dumps(value) for name, value in PREFERENCES.items()}
        lines = [f'user_pref("{name}", {value});\n' for name, value in values.items()]
        (profile / "user.js").write_text("".join(lines))
        self._process = subprocess.Popen(
            [PROGRAM, *SWITCHES, "--profile", profile],
            env=os.environ | {"HOME": str(profile)},  # it refuses to run in another user's
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._socket = socket.create_connection(("127.0.0.1", self._wait_for_port(profile)), WAIT_S)
        self._stream = self._socket.makefile("rb")
        self._number = 0
        self._receive()  # the greeting
        self.call("WebDriver:NewSession")

    def close(self) -> None:
        self._stream.close()
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)

    def call(self, command: str, **parameters: Any) -> Any:
        """Send one command and return its result."""
        self._number += 1
        message = json.dumps([0, self._number, command, parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _, number, error, result = self._receive()
        assert number == self._number
        assert error is None, (command, error)
        return result["value"] if result and "value" in result else result

    def run(self, script: str) -> Any:
        return self.call("WebDriver:ExecuteScript", script=f"return ({script})", args=[])

    def open(self, address: str) -> None:
        self.call("WebDriver:Navigate", url=address)

    def choose_file(self, selector: str, path: Path) -> None:
        found = self.call("WebDriver:FindElement", using="css selector", value=selector)
        (element,) = found.values()
        self.call("WebDriver:ElementSendKeys", id=element, text=str(path))

    def set_preference(self, name: str, *, enabled: bool) -> None:
        """Change a setting of the browser."""
        self.call("Marionette:SetContext", value="chrome")
        script = f'Services.prefs.setBoolPref("{name}", {json.dumps(enabled)})'
        self.call("WebDriver:ExecuteScript", script=script, args=[])
        self.call("Marionette:SetContext", value="content")

    def _wait_for_port(self, profile: Path) -> int:
        file, end = profile / "MarionetteActivePort", time.monotonic() + WAIT_S
        while not file.exists() or not file.read_text():
            assert self._process.poll() is None, "the browser does not start"
            assert time.monotonic() < end, "the browser does not answer"
            time.sleep(0.05)
        return int(file.read_text())

    def _receive(self) -> Any:
        size = b""
        while (one := self._stream.read(1)) != b":":
            assert one, "the browser is gone"
            size += one
        return json.loads(self._stream.read(int(size)))
