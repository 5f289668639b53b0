import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def pictures(drawings: list[Path], tmp_path: Path) -> list[str]:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    return [*map(str, drawings), str(broken)]


def test_the_script(pictures: list[str]) -> None:
    command = [sys.executable, str(EXAMPLES / "read_pictures.py"), *pictures]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split(": ")[1] for line in done.stdout.splitlines()]
    assert [line[0] for line in lines[:10]] == list("0123456789")
    assert lines[10].startswith("error")


def test_the_queue_worker(pictures: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "queue_worker.py")],
        input="\n".join(pictures),
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == pictures
    assert [row[2] for row in rows[:10]] == list("0123456789")
    assert rows[10][1] == "error"


def test_the_fastapi_app(drawings: list[Path]) -> None:
    from fastapi.testclient import TestClient

    spec = importlib.util.spec_from_file_location("fastapi_app", EXAMPLES / "fastapi_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with TestClient(module.app) as client:
        for digit, path in enumerate(drawings):
            headers = {"content-type": "image/png"}
            answer = client.post("/predict", content=path.read_bytes(), headers=headers)
            assert answer.json()["digit"] == digit
        assert client.post("/predict", content=b"no picture", headers=headers).status_code == 422
