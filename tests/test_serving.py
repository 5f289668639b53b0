"""The server, as the command runs it: a process of its own, asked over real connections."""

import contextlib
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
import tritonclient.http as triton
from conftest import Command
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from edge_mnist import Predictor
from edge_mnist.exporting.golden import draw_digit

PNG = {"content-type": "image/png"}


@dataclass
class Server:
    """A server that runs."""

    process: subprocess.Popen[str]
    url: str
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def post(self, content: bytes, **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/predict", content=content, headers=PNG | given)

    def post_form(self, files: list[tuple[str, bytes]]) -> httpx.Response:
        parts = [("picture", (name, content)) for name, content in files]
        return self.client.post("/predict", files=parts)


@contextlib.contextmanager
def run_server(folder: Path, *options: str, **environment: str) -> Iterator[Server]:
    """Start the command on a free port; at the end it has to stop in good order."""
    command = [sys.executable, "-m", "edge_mnist", "serve", "--port=0", "--workers=1", *options]
    with open(folder / "stderr.jsonl", "w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    with process, process.stdout:
        url = process.stdout.readline().rsplit(" ", 1)[-1].strip()
        assert url.startswith("http://127.0.0.1:"), (folder / "stderr.jsonl").read_text()
        try:
            with httpx.Client(base_url=url, timeout=20) as client:
                assert client.get("/healthz").status_code == 200
                yield Server(process, url, client)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("workers"), "--workers=2") as running:
        yield running


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose limits are low, that needs a key, and that one other site may use."""
    options = (
        *("--max-bytes=100000", "--max-pixels=1000000", "--max-pictures=3", "--max-queue=3"),
        *("--allow-origin=https://app.example", "--allow-host=digits.example"),
    )
    folder = tmp_path_factory.mktemp("strict")
    with run_server(folder, *options, EDGE_MNIST_API_KEY="sesame\n") as running:
        running.client.headers["x-api-key"] = "sesame"
        yield running


def to_file(image: Any, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def files() -> list[tuple[str, bytes]]:
    """Sixty files: digits in several sizes and formats, blank and damaged ones, no pictures."""
    generator = np.random.default_rng(3)
    kinds, found = ("PNG", "JPEG", "WEBP", "BMP", "GIF"), []
    for place in range(50):
        sheet = draw_digit(place % 10, generator)
        if place % 3:
            sheet = sheet.resize((28, 28))
        found.append((f"{place}.{kinds[place % 5].lower()}", to_file(sheet, kinds[place % 5])))
    found += [(f"blank{side}.png", to_file(Image.new("L", (side, 9)))) for side in range(5, 8)]
    pieces = [content[: place * 40 + 9] for place, (_, content) in enumerate(found[:4])]
    found += [(f"cut{place}.png", piece) for place, piece in enumerate(pieces)]
    lies = found[1][1][:16] + b"\x7f" + found[1][1][17:]  # its header says it is far too wide
    found += [("lies.png", lies)]
    return [*found, ("text.png", b"no picture"), ("two.png", to_file(two_digits(generator)))]


def two_digits(generator: np.random.Generator) -> Image.Image:
    sheet = Image.new("L", (400, 200), 255)
    sheet.paste(draw_digit(3, generator).resize((200, 200)), (0, 0))
    sheet.paste(draw_digit(7, generator).resize((200, 200)), (200, 0))
    return sheet


def as_library(files: list[tuple[str, bytes]]) -> list[dict[str, Any]]:
    with Predictor() as predictor:
        seen = predictor.predict_many(content for _, content in files)
        names = predictor.info.class_names
        items = [
            {"path": name, **prediction.to_dict(names)}
            for (name, _), prediction in zip(files, seen, strict=True)
        ]
    known: list[dict[str, Any]] = json.loads(json.dumps(items))
    return known


def test_answers_are_the_librarys_and_the_commands(
    server: Server, files: list[tuple[str, bytes]], edge_mnist: Command, tmp_path: Path
) -> None:
    expected = as_library(files)
    assert {item["status"] for item in expected} == {"ok", "rejected", "error"}
    together = server.post_form(files)
    assert together.status_code == 200
    assert together.json()["items"] == expected
    for (_, content), item in zip(files, expected, strict=True):
        answer = server.post(content)
        assert answer.json()["items"] == [item | {"path": "-"}]
        assert answer.status_code == 200
    for name, content in files[:12]:
        (tmp_path / name).write_bytes(content)
    done = edge_mnist("predict", "--json", *(name for name, _ in files[:12]))
    report = json.loads(done.stdout)
    assert report["items"] == expected[:12]
    assert report.keys() == together.json().keys()
    assert {key: report[key] for key in ("model_sha256", "provider")} == {
        key: together.json()[key] for key in ("model_sha256", "provider")
    }


def test_requests_that_arrive_together_get_their_own_answers(
    server: Server, files: list[tuple[str, bytes]]
) -> None:
    expected = [item | {"path": "-"} for item in as_library(files)]
    answers: dict[int, Any] = {}

    def ask(place: int) -> None:
        answers[place] = server.post(files[place % 60][1]).json()["items"][0]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(180)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[place] for place in range(180)] == expected * 3


def test_query(server: Server, files: list[tuple[str, bytes]]) -> None:
    answer = server.client.post("/predict?top_k=3&seen=true", content=files[1][1], headers=PNG)
    (item,) = answer.json()["items"]
    assert len(item["top"]) == 3
    assert len(item["seen"]) == 1048  # base64 of 784
    assert float(answer.headers["server-timing"].split("dur=")[1]) > 0
    for query in ("top_k=0", "top_k=x", "seen=2", f"top_k={'9' * 4301}"):
        answer = server.client.post(f"/predict?{query}", content=b"", headers=PNG)
        assert answer.status_code == 422
        assert query.partition("=")[0] in answer.json()["error"]


MODEL = "edge-mnist-default"
INPUT = {"name": "images", "shape": [5, 28, 28], "datatype": "UINT8"}


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)


def test_kserve(server: Server, images: NDArray[np.uint8]) -> None:
    get = server.client.get
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    for path in (f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/1"):
        assert get(f"{path}/ready").json() == {"ready": True}
        about = get(path).json()
        assert (about["name"], about["versions"]) == (MODEL, ["1"])
        assert about["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}]
        assert [output["shape"] for output in about["outputs"]] == [[-1, 10], [-1, 10]]
    for path in ("other", f"{MODEL}/versions/2", f"{MODEL}/nothing"):
        assert get(f"/v2/models/{path}").status_code == 404
    flat = images.ravel().tolist()
    for data in (images.tolist(), list(map(float, flat)), flat):
        answer = infer(server, {"id": "a", "inputs": [{**INPUT, "data": data}]})
        assert answer["id"] == "a"
        outputs = {one["name"]: np.reshape(one["data"], one["shape"]) for one in answer["outputs"]}
        check_outputs(outputs["logits"], outputs["probabilities"], images)
    asked = [{"name": "probabilities"}]
    answer = infer(server, {"inputs": [{**INPUT, "data": data}], "outputs": asked})
    assert [output["name"] for output in answer["outputs"]] == ["probabilities"]


def check_outputs(logits: Any, probabilities: Any, images: NDArray[np.uint8]) -> None:
    """Compare a server's answer with the library's, bit by bit."""
    with Predictor() as predictor:
        assert (logits == predictor.compute_logits(images)).all()
        assert (probabilities == predictor.predict_images(images)[1]).all()


def test_tritons_client_infers_with_its_defaults(server: Server, images: NDArray[np.uint8]) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.get_model_metadata(MODEL, "1")["name"] == MODEL
    assert client.get_model_config(MODEL)["max_batch_size"] == 64
    (entry,) = client.get_model_repository_index()
    assert entry == {"name": MODEL, "version": "1", "state": "READY", "reason": ""}
    assert set(client.get_server_metadata()["extensions"]) >= {"binary_tensor_data", "statistics"}
    before = client.get_inference_statistics(MODEL)["model_stats"][0]
    given = triton.InferInput("images", images.shape, "UINT8")
    given.set_data_from_numpy(images)
    result = client.infer(MODEL, [given])
    check_outputs(result.as_numpy("logits"), result.as_numpy("probabilities"), images)
    asked = [triton.InferRequestedOutput("logits", binary_data=False)]
    again = client.infer(MODEL, [given], model_version="1", request_id="b", outputs=asked)
    assert again.get_response()["id"] == "b"
    assert again.as_numpy("probabilities") is None
    assert (again.as_numpy("logits") == result.as_numpy("logits")).all()
    after = client.get_inference_statistics(MODEL, "1")["model_stats"][0]
    assert after["execution_count"] == before["execution_count"] + 2  # one run for two outputs
    assert after["inference_count"] == before["inference_count"] + 10
    asked = [triton.InferRequestedOutput("logits", class_count=3)]
    for wrong in ({"model_name": "other"}, {"model_version": "2"}, {"outputs": asked}):
        with pytest.raises(
            triton.InferenceServerException, match=r"other|versions/2|classification"
        ):
            client.infer(**{"model_name": MODEL, "inputs": [given], **wrong})
    client.close()


def infer(server: Server, request: dict[str, Any], status: int = 200) -> dict[str, Any]:
    answer = server.client.post(f"/v2/models/{MODEL}/infer", json=request)
    assert answer.status_code == status, answer.text
    known: dict[str, Any] = answer.json()
    return known


def test_kserve_refuses_what_breaks_the_contract(server: Server) -> None:
    zeros = [0] * 784
    one = {**INPUT, "shape": [1, 28, 28], "data": zeros}
    for change, status in (
        ({"datatype": "FP32"}, 422),
        ({"name": "picture"}, 422),
        ({"shape": [2, 28, 28]}, 409),
        ({"shape": [65, 28, 28], "data": zeros * 65}, 413),
        ({"data": [256, *zeros[1:]]}, 422),
        ({"data": [10**309, *zeros[1:]]}, 422),
        ({"data": [0.5, *zeros[1:]]}, 422),
        ({"data": [True, *zeros[1:]]}, 422),
        ({"data": ["1", *zeros[1:]]}, 422),
        ({"data": [-1, *zeros[1:]]}, 422),
        ({"data": [zeros]}, 422),
        ({"data": None}, 409),
        ({"parameters": {"binary_data_size": 784}}, 409),
        ({"parameters": {"shared_memory_region": "a"}}, 422),
    ):
        assert "error" in infer(server, {"inputs": [one | change]}, status)
    assert "error" in infer(server, {"inputs": []}, 422)
    assert "error" in infer(server, {"inputs": [one | {"data": zeros * 700}]}, 413)
    path, body = f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [one]}).encode()
    for length in ("x", "-1", "9" * 20, "99999", "5"):
        headers = {"inference-header-content-length": length}
        assert server.client.post(path, content=body, headers=headers).status_code == 400
    surrogate = server.client.post(path, content=rb'{"id": "\ud800", "inputs": []}')
    assert surrogate.status_code == 400
    assert server.client.post(path, content=b"[" * 100_000).status_code == 400


def test_health_metrics_and_document(server: Server, files: list[tuple[str, bytes]]) -> None:
    health = server.client.get("/healthz").json()
    assert health["status"] == "ok"
    assert health["provider"] == "cpu"
    assert health["class_names"] == list("0123456789")
    server.post(files[1][1])
    metrics = server.client.get("/metrics").text
    assert 'edge_mnist_requests_total{route="/predict",status="200"}' in metrics
    assert 'edge_mnist_pictures_total{status="ok"}' in metrics
    document = server.client.get("/openapi.json").json()
    assert set(document["paths"]["/predict"]["post"]["responses"]) >= {"200", "401", "413", "429"}
    operation = document["paths"][f"/v2/models/{MODEL}/infer"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    outputs = {output["name"]: output["data"] for output in infer(server, example)["outputs"]}
    assert np.argmax(outputs["logits"]) == 7
    picture = server.client.get("/example.png").content
    assert server.post(picture).json()["items"][0]["digit"] == 7


def test_refusals(server: Server, files: list[tuple[str, bytes]]) -> None:
    part = b'--b\r\ncontent-disposition: form-data; name="a"; filename="a"\r\n\r\n%s\r\n'
    form = {"content_type": "multipart/form-data; boundary=b"}
    cut = part % files[1][1] + (part % files[1][1])[:-40]
    for answer, status in (
        (server.client.get("/nowhere"), 404),
        (server.client.get("/predict"), 405),
        (server.client.post("/predict", content=b"{}", headers={"content-type": "text/css"}), 415),
        (server.post(b""), 400),
        (server.post(b"x", content_type="multipart/form-data"), 400),
        (server.post(b"rubbish", **form), 400),
        (server.post(b"--b\r\n\r\nx", **form), 400),
        (server.post(b"--b--\r\n", **form), 400),
        (server.post(cut, **form), 400),  # one whole picture, and a part of another
        (server.post(cut + part % b"x" + b"--b--", **form), 200),
        (server.post_form([("a.png", b"")] * 65), 413),
        (server.post(b"x", content_encoding="gzip"), 415),
        (server.client.post("/predict/", content=files[1][1], headers=PNG), 404),
        (server.client.get("/healthz", headers={"host": ""}), 400),
    ):
        assert answer.status_code == status, answer.text
        assert ("error" in answer.json()) == (status != 200)
        assert "location" not in answer.headers


def test_every_limit_has_its_answer(strict: Server, files: list[tuple[str, bytes]]) -> None:
    large = to_file(Image.new("L", (1001, 1000)))
    half = to_file(Image.effect_noise((800, 800), 9), "JPEG")[:60_000]
    too_many = [("a.png", files[1][1])] * 4
    assert strict.post(bytes(100_001)).status_code == 413
    assert strict.client.post("/predict", content=iter([bytes(60_000)] * 2)).status_code == 413
    assert strict.post(large).status_code == 413
    assert strict.post_form([("a.jpg", half)] * 2).status_code == 413
    assert strict.post_form(too_many).status_code == 413
    assert strict.post_form(too_many[:3]).status_code == 200


def test_a_full_queue_refuses_at_once(strict: Server, files: list[tuple[str, bytes]]) -> None:
    sheet = to_file(Image.effect_noise((700, 700), 90).convert("1"))
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(strict.post(sheet).status_code))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) == {200, 429}
    assert strict.post(files[1][1]).status_code == 200


def draw_rings(side_px: int) -> bytes:
    """Return a picture that takes 80 ms to read on a quick core if it is 3000 pixels wide."""
    rings = Image.new("RGB", (side_px, side_px), "white")
    places = np.random.default_rng(0).integers(0, side_px - 100, (side_px // 8, 2))
    for left, top in places.tolist():
        ImageDraw.Draw(rings).ellipse((left, top, left + 60, top + 60), outline=0, width=6)
    return to_file(rings)


def test_an_answer_that_takes_too_long(tmp_path: Path) -> None:
    with run_server(tmp_path, "--timeout=0.1") as server:
        # Six, so that the last of them is late however the threads and the clock take turns.
        answer = server.post_form([("rings.png", draw_rings(3000))] * 6)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert server.client.get("/healthz").status_code == 200


def test_the_key(strict: Server, files: list[tuple[str, bytes]]) -> None:
    content = files[1][1]
    for headers, status in (
        ({"x-api-key": "sesame"}, 200),
        ({"x-api-key": "", "authorization": "Bearer sesame"}, 200),
        ({"x-api-key": "Sesame"}, 401),
        ({"x-api-key": ""}, 401),
    ):
        answer = strict.client.post("/predict", content=content, headers=PNG | headers)
        assert answer.status_code == status
    nobody = {"x-api-key": ""}
    for path, status in (("/", 200), ("/healthz", 200), ("/v2/health/ready", 200)):
        assert strict.client.get(path, headers=nobody).status_code == status
    for path in ("/metrics", f"/v2/models/{MODEL}", "/nowhere"):
        assert strict.client.get(path, headers=nobody).status_code == 401


def test_other_sites_are_let_in_by_name_only(
    server: Server, strict: Server, files: list[tuple[str, bytes]]
) -> None:
    asked = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-api-key,content-type",
    }
    allowed = "access-control-allow-origin"
    assert allowed not in server.client.options("/predict", headers=asked).headers
    preflight = strict.client.options("/predict", headers=asked | {"x-api-key": ""})
    assert preflight.status_code == 200
    assert preflight.headers[allowed] == asked["origin"]
    content = files[1][1]
    answer = strict.post(content, origin=asked["origin"], sec_fetch_site="cross-site")
    assert answer.status_code == 200
    assert answer.headers[allowed] == asked["origin"]
    own = {"origin": server.url}
    for headers, status in (
        (own, 200),
        (own | {"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"origin": asked["origin"]}, 403),
        ({"origin": "null"}, 403),
        ({"origin": own["origin"] + ".example"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
    ):
        answer = server.post(content, **headers)
        assert (answer.status_code, allowed in answer.headers) == (status, False), headers


def test_names_of_other_hosts_are_refused(server: Server, strict: Server) -> None:
    for host, status in (
        ("localhost", 200),
        ("10.1.2.3:8000", 200),
        ("[::1]", 200),
        ("digits.example", 421),
        ("localhost.example", 421),
        ("127.0.0.1.example", 421),
    ):
        assert server.client.get("/healthz", headers={"host": host}).status_code == status, host
    named = {"host": "Digits.example:443"}
    assert strict.client.get("/healthz", headers=named).status_code == 200


def test_the_page_carries_its_policy(server: Server) -> None:
    for path in ("/", "/docs", "/page.js", "/page.css", "/docs.js", "/icon.svg"):
        answer = server.client.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert " style=" not in answer.text
        assert "server" not in answer.headers
    assert server.client.get("/healthz").headers["x-content-type-options"] == "nosniff"


def read_answer(connection: socket.socket) -> bytes:
    """Read one answer of a connection that stays open."""
    answer = b""
    while not (found := re.search(rb"content-length: (\d+).*?\r\n\r\n", answer, re.DOTALL)) or (
        len(answer) < found.end() + int(found[1])
    ):
        chunk = connection.recv(65_536)
        assert chunk, answer
        answer += chunk
    return answer


def read_all(connection: socket.socket) -> bytes:
    chunks = []
    while chunk := connection.recv(65_536):
        chunks.append(chunk)
    return b"".join(chunks)


def test_a_body_that_takes_too_long(tmp_path: Path) -> None:
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n"
    with run_server(tmp_path, "--timeout=0.5") as server, server.connect() as connection:
        connection.sendall(head + b"x")
        assert b" 408 " in connection.recv(65_536)


def test_rubbish_and_hanging_up_harm_nobody(server: Server, files: list[tuple[str, bytes]]) -> None:
    large = to_file(Image.effect_noise((1500, 1500), 90))
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    endless = b"GET / HTTP/1.1\r\na: " + b"b" * 100_000
    for sent in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/9\r\n\r\n", endless):
        with server.connect() as connection:
            connection.sendall(sent)
            assert b"HTTP/1.1 400" in connection.recv(65_536)
    for n_sent in (10, len(large) // 2, len(large)):  # then hangs up
        with server.connect() as connection:
            connection.sendall((head % len(large) + large)[:n_sent])
    assert server.post(files[1][1]).status_code == 200


def test_a_client_that_offers_http_2_keeps_its_body(
    server: Server, files: list[tuple[str, bytes]]
) -> None:
    content = files[1][1]
    head = (
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n"
        b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMA\r\n\r\n"
    )
    plain = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    for first in (b"", plain):  # the offer comes with the first request, or with a later one
        with server.connect() as connection:
            if first:
                connection.sendall(first)
                assert b"HTTP/1.1 200" in read_answer(connection)
            for _ in range(2):
                request = head % len(content) + content
                connection.sendall(request[:70])
                time.sleep(0.05)  # so that the offer arrives in a piece of its own
                connection.sendall(request[70:])
                assert b"HTTP/1.1 200" in read_answer(connection)


def test_health_is_told_while_pictures_are_read(server: Server) -> None:
    rings = [("rings.png", draw_rings(2000))] * 16
    asking = threading.Thread(target=server.post_form, args=(rings,))
    asking.start()
    wait_for(lambda: waiting_pictures(server) == 16)
    for _ in range(3):
        assert server.client.get("/healthz").status_code == 200
    assert asking.is_alive()
    asking.join()


IMAGES = b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [%s,28,28], "data": [%s]}]}'
HOSTILE_JSON = (
    *(rb'{"id": "\ud800"}', b"[" * 5000, b'{"a":' * 5000, b"1e999", b"9" * 5000, b'"\xff"', b"{}"),
    *(IMAGES % (b"1", b"1e400"), IMAGES % (b"9" * 400, b"0"), IMAGES % (b"1", b"9" * 400)),
    IMAGES % (b"1", b",".join([b"7"] * 784)),
)
HOSTILE_HEADERS = (
    ("content-type", "multipart/form-data; boundary=b"),
    ("content-type", 'multipart/form-data; boundary="' + "b" * 200 + '"'),
    ("content-type", "multipart/form-data; boundary=b; charset=rot13"),
    ("content-type", "image/\xff"),
    ("content-encoding", "gzip"),
    ("transfer-encoding", "chunked"),
    ("inference-header-content-length", "7"),
    ("inference-header-content-length", "\xb2"),
    ("upgrade", "h2c"),
    ("expect", "100-continue"),
    ("origin", "\xff://"),
    ("host", "[::"),
    ("host", "\xff"),
    ("authorization", "Bearer \xff"),
)


def test_hostile_requests_get_one_line_of_json(
    tmp_path: Path, files: list[tuple[str, bytes]]
) -> None:
    generator = random.Random(0)
    pieces = [content for _, content in files[:20]] + list(HOSTILE_JSON)
    part = b'--b\r\ncontent-disposition: form-data; name="a"; filename="\xff\xed\xa0\x80"\r\n\r\n'
    targets = (
        "/predict",
        "/predict?top_k=" + "9" * 5000,
        "/predict?seen=%ff",
        "/v2/repository/index",
    )
    targets += (f"/v2/models/{MODEL}/infer", f"/v2/models/{MODEL}/infer", "/v2/models/%ff%00/infer")

    def make_body() -> bytes:
        body = b"".join(generator.choices(pieces, k=generator.randint(1, 2)))
        if generator.random() < 0.4:
            body = part + body + generator.choice((b"", b"\r\n--b--\r\n", b"\r\n--b\r\n"))
        cut = generator.randint(0, len(body)) if generator.random() < 0.3 else len(body)
        flipped = bytearray(body[:cut])
        for _ in range(generator.randint(0, 3) if flipped else 0):
            flipped[generator.randrange(len(flipped))] = generator.randrange(256)
        return bytes(flipped)

    with run_server(tmp_path, "--max-pictures=8") as server:
        seen: Counter[int] = Counter()
        for _ in range(600):
            headers = {"host": "localhost", "connection": "close"}
            headers |= dict(generator.choices(HOSTILE_HEADERS, k=generator.randint(0, 3)))
            body = make_body()
            if headers.get("transfer-encoding"):
                body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
            else:
                headers["content-length"] = str(len(body))
            lines = [f"POST {generator.choice(targets)} HTTP/1.1"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            with server.connect() as connection:
                connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
                head, _, answer = read_all(connection).rpartition(b"\r\n\r\n")
            status = int(head.split(b"HTTP/1.1 ")[-1][:3])
            seen[status] += 1
            assert status < 500, (lines, body)
            if b"application/json" in head:
                assert b"\n" not in answer
                assert status == 200 or json.loads(answer).keys() == {"error"}
            else:  # uvicorn refused it as no HTTP
                assert (status, answer) == (400, b"Invalid HTTP request received.")
        assert set(seen) >= {200, 400, 415, 421, 422}
        assert server.client.get("/healthz").status_code == 200
    assert "raceback" not in (tmp_path / "stderr.jsonl").read_text()


def test_an_early_answer_reaches_a_client_that_still_sends(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            for _ in range(20):
                connection.sendall(bytes(65_536))
        assert b"HTTP/1.1 413" in connection.recv(65_536)


def test_sigterm_finishes_what_runs(tmp_path: Path) -> None:
    sheet = to_file(Image.effect_noise((3000, 3000), 90))  # takes a good while
    with run_server(tmp_path) as server:
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(server.post(sheet)))
        asking.start()
        wait_for(lambda: waiting_pictures(server) == 1)
        server.process.send_signal(signal.SIGTERM)
        asking.join()
        assert server.process.wait(20) == 0
    assert answers[0].status_code == 200
    lines = [json.loads(line) for line in (tmp_path / "stderr.jsonl").read_text().splitlines()]
    (line,) = (line for line in lines if line["path"] == "/predict")
    assert (line["status"], line["pictures"]) == (200, 1)


def test_workers_end_in_good_order(tmp_path: Path, files: list[tuple[str, bytes]]) -> None:
    content = files[1][1]
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(content)

    def is_refused() -> bool:
        try:
            server.connect().close()
        except ConnectionRefusedError:
            return True
        return False

    with run_server(tmp_path, "--workers=2") as server, server.connect() as connection:
        connection.sendall(head + content[:20])
        time.sleep(0.3)  # a worker has taken it up
        server.process.send_signal(signal.SIGTERM)
        wait_for(is_refused)
        connection.sendall(content[20:])
        assert b"HTTP/1.1 200" in read_all(connection)
        assert server.process.wait(20) == 0


def waiting_pictures(server: Server) -> float:
    metrics = server.client.get("/metrics").text.splitlines()
    (line,) = (line for line in metrics if line.startswith("edge_mnist_waiting_pictures"))
    return float(line.split()[1])


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_workers_share_port_and_counts(two_workers: Server, files: list[tuple[str, bytes]]) -> None:
    expected = as_library(files[:8])
    before = count_requests(two_workers)
    for _ in range(5):  # each on a connection of its own, so that both get some
        parts = [("picture", file) for file in files[:8]]
        answer = httpx.post(f"{two_workers.url}/predict", files=parts, timeout=20)
        assert answer.json()["items"] == expected
    assert count_requests(two_workers) == before + 5


def count_requests(server: Server) -> float:
    text = server.client.get("/metrics").text
    name = 'edge_mnist_requests_total{route="/predict",status="200"} '
    return sum(float(line.removeprefix(name)) for line in text.splitlines() if name in line)


def waiting_everywhere(server: Server) -> float:
    """Return what a worker tells, whichever gets the connection."""
    text = httpx.get(f"{server.url}/metrics", headers={"connection": "close"}, timeout=20).text
    (line,) = re.findall("^edge_mnist_waiting_pictures (.*)$", text, flags=re.MULTILINE)
    return float(line)


def test_every_worker_knows_what_waits_in_the_others(two_workers: Server) -> None:
    rings = [("rings.png", draw_rings(2000))] * 12
    asking = threading.Thread(target=lambda: two_workers.post_form(rings))
    asking.start()
    wait_for(lambda: waiting_everywhere(two_workers) > 0)
    assert [waiting_everywhere(two_workers) for _ in range(12)] == [12.0] * 12
    asking.join()
    assert [waiting_everywhere(two_workers) for _ in range(12)] == [0.0] * 12


def test_every_worker_gets_connections(two_workers: Server) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux spreads connections over sockets of one port")
    with contextlib.ExitStack() as stack:
        ports = []
        for connection in [stack.enter_context(two_workers.connect()) for _ in range(40)]:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"HTTP/1.1 200" in connection.recv(65_536)
            ports.append(connection.getsockname()[1])
        assert share_of_busiest(ports) < 0.9
    taken = subprocess.run(
        [sys.executable, "-m", "edge_mnist", "serve", "--port", str(two_workers.port)],
        capture_output=True,
        text=True,
    )
    assert taken.returncode == 3  # a port that workers share is theirs alone


def share_of_busiest(ports: list[int]) -> float:
    """Return the share of connections, known by their client's port, that one process holds."""
    inodes = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        inodes[f"socket:[{fields[9]}]"] = int(fields[2].rsplit(":", 1)[1], 16)
    held: Counter[str] = Counter()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        if folder.parent.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):
            held[folder.parent.name] += sum(
                inodes.get(os.readlink(file), 0) in ports for file in folder.iterdir()
            )
    return held.most_common(1)[0][1] / len(ports)


def find_workers(server: Server) -> list[int]:
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def kill_worker_under_load(server: Server, picture: bytes, n_clients: int) -> list[str]:
    """Kill a worker while clients ask, wait for the next one; return what requests came to."""
    (victim, *others), stopping, outcomes = find_workers(server), threading.Event(), list[str]()

    def ask() -> None:
        while not stopping.is_set():
            try:
                answer = httpx.post(f"{server.url}/predict", content=picture, timeout=60)
                outcomes.append(str(answer.status_code))
            except httpx.TransportError as error:
                outcomes.append(type(error).__name__)

    clients = [threading.Thread(target=ask) for _ in range(n_clients)]
    for client in clients:
        client.start()
    wait_for(lambda: len(outcomes) > n_clients)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: len(set(find_workers(server)) - {victim, *others}) == 1)
    n_then = len(outcomes)
    wait_for(lambda: len(outcomes) > n_then + 2 * n_clients)
    stopping.set()
    for client in clients:
        client.join()
    return outcomes


def test_a_killed_worker_loses_its_own_requests_and_is_replaced(tmp_path: Path) -> None:
    with run_server(tmp_path, "--workers=2") as server:
        for _ in range(2):
            outcomes = kill_worker_under_load(server, draw_rings(1500), 8)
            lost = [one for one in outcomes if one != "200"]
            assert len(lost) <= 8, outcomes
            assert "ReadTimeout" not in lost  # no connection hangs
            for _ in range(8):  # both workers tell the same
                assert waiting_everywhere(server) == 0
    assert (tmp_path / "stderr.jsonl").read_text().count("died") == 2


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_mnist", "serve", "--port=0", "--workers=2"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        process.kill()

    def is_free() -> bool:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    wait_for(is_free)


def test_what_cannot_be_served(edge_mnist: Command, server: Server) -> None:
    taken = edge_mnist("serve", "--port", server.port)
    assert taken.returncode == 3
    assert "cannot listen on 127.0.0.1" in taken.stderr
    assert edge_mnist("serve", "--model", "missing.onnx", "--port", 0).returncode == 3
    for key in (" ", "s\u00e9same", "two words"):
        refused = edge_mnist("serve", "--port", 0, env={"EDGE_MNIST_API_KEY": key})
        assert refused.returncode == 2
        assert "EDGE_MNIST_API_KEY" in refused.stderr
    assert edge_mnist("serve", "--allow-origin", "app.example", "--port", 0).returncode == 2
    wrong = edge_mnist("serve", "--max-queue", 2, "--port", 0)
    assert wrong.returncode == 2
    assert "--max-pictures" in wrong.stderr
