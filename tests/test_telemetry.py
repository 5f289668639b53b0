"""Nothing is sent and nothing is written into the user's folders: onnxruntime's telemetry is off.

onnxruntime starts it when it is imported, so processes that import it are watched here; those of
training, exporting and Ray in their own tests.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
PREDICT = "from edge_mnist import Predictor; print(Predictor().predict({!r}).digit)"
SET_BY_APP = (
    "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '0'\n"
    "from edge_mnist.session import import_onnxruntime\n"
    "import_onnxruntime(); print(os.environ['ORT_DISABLE_TELEMETRY'])"
)
NOT_SET_BY_APP = (
    "import os; from edge_mnist import Predictor; Predictor();"
    "print('ORT_DISABLE_TELEMETRY' in os.environ)"
)


class Watched:
    """A process with a home of its own, and the addresses that it, or a child, connects to."""

    def __init__(self, folder: Path) -> None:
        self.home, self.log = folder / "home", folder / "strace.log"
        self.home.mkdir()
        known = {name: value for name, value in os.environ.items() if "XDG" not in name}
        self.env = known | {"HOME": str(self.home), "PYTHONPATH": str(Path(__file__).parents[1])}
        self.folder = folder

    def start(self, *args: object) -> subprocess.Popen[str]:
        calls = "trace=connect,sendto,sendmsg,sendmmsg"
        strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", calls, "-o", str(self.log)]
        command = [*strace, sys.executable, *map(str, args)]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, text=True
        )

    def run(self, *args: object) -> str:
        with self.start(*args) as process:
            printed, _ = process.communicate()
        assert process.returncode == 0
        return printed

    def check(self) -> None:
        """Check that nothing outside this machine was addressed, and that the home is empty."""
        found = [one or other for one, other in ADDRESS.findall(self.log.read_text())]
        assert {address for address in found if address not in ("127.0.0.1", "::1")} == set()
        assert list(self.home.rglob("*")) == []


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    return Watched(tmp_path)


def test_predict_and_the_library(watched: Watched, drawings: list[Path]) -> None:
    command = ("-m", "edge_mnist", "predict", drawings[7], "--provider", "cpu")
    assert watched.run(*command).startswith("7 ")
    watched.check()
    assert watched.run("-c", PREDICT.format(str(drawings[7]))) == "7\n"
    watched.check()


def test_the_processes_of_bench(watched: Watched) -> None:
    command = ("bench", "nano/model.int8.onnx", "--no-torch", "--batch-size", "1", "--json")
    report = json.loads(watched.run("-m", "edge_mnist", *command))
    assert report["schema_version"] == 1
    watched.check()


def test_a_server(watched: Watched, drawings: list[Path]) -> None:
    with watched.start("-m", "edge_mnist", "serve", "--port", "0", "--workers", "1") as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "http://" in line)
        found = re.search(r"http://[\d.:]+", line)
        assert found is not None
        request = urllib.request.Request(
            f"{found[0]}/predict", drawings[7].read_bytes(), {"Content-Type": "image/png"}
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["items"][0]["digit"] == 7
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children.split()[0]), 2)
        process.wait()
    watched.check()


def test_the_setting_of_an_application_stays(watched: Watched) -> None:
    assert watched.run("-c", SET_BY_APP) == "0\n"
    assert watched.run("-c", NOT_SET_BY_APP) == "False\n"
