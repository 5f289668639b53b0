"""KServe v2 (Open Inference Protocol) with Triton's extensions, over the contract of a model file.

Sources: KServe's Open Inference Protocol; Triton's protocol extensions binary_data,
model_configuration, model_repository and statistics.
"""

import json
import math
import re
import time
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Path, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from edge_mnist.model_file import OUTPUTS, name_model
from edge_mnist.serving.engine import Engine
from edge_mnist.serving.metrics import Metrics
from edge_mnist.serving.settings import Settings

VERSION = "1"  # as in the repository that `export --target triton` writes
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
HEADER_LENGTH = "inference-header-content-length"
SIDE_PX = 28
JSON_PIXEL_BYTES = 8  # "255, " and white space
HEAD_BYTES = 4096
STAGES = ("success", "fail", "compute_infer")

# JSON has one kind of number: 7.0 is 7. A body may hold many errors, and one of them is told.
Level = Annotated[float, Field(strict=True, ge=0, le=255, multiple_of=1)]
Side = Field(min_length=SIDE_PX, max_length=SIDE_PX, fail_fast=True)
Image = Annotated[list[Annotated[list[Level], Side]], Side]
Flat = Annotated[list[Level], Field(fail_fast=True)]
Nested = Annotated[list[Image], Field(fail_fast=True)]


class Parameters(BaseModel):
    """Which data are bytes behind the JSON: of an input, of an output, of all outputs."""

    model_config = ConfigDict(extra="forbid")  # else an extension that is missing would be ignored

    binary_data_size: Annotated[int, Field(ge=0)] | None = None
    binary_data: bool | None = None
    binary_data_output: bool = False


class InferInput(BaseModel):
    """Images: 0 is background, 255 full ink; rows in order, flat, as shape says, or bytes."""

    name: Literal["images"]
    shape: tuple[Annotated[int, Field(ge=1)], Literal[28], Literal[28]]
    datatype: Literal["UINT8"]
    parameters: Parameters = Parameters()
    data: Flat | Nested | None = None


class InferOutput(BaseModel):
    """An output that is asked for."""

    name: Literal["logits", "probabilities"]
    parameters: Parameters = Parameters()


class InferRequest(BaseModel):
    """Images to classify, and the outputs to return: both if none is named."""

    id: str | None = None
    parameters: Parameters = Parameters()
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[InferOutput], Field(max_length=2)] | None = None


def parse_infer(
    body: bytes, header_length: str | None, max_images: int
) -> tuple[InferRequest, NDArray[np.uint8]]:
    """Return the request in a body, and its images, shape (N, 28, 28).

    Args:
        body: JSON, and the binary data of the input behind it.
        header_length: How many bytes the JSON has; None if the whole body is JSON.
        max_images: How many images there may be.
    """
    length = header_length or str(len(body))
    if not re.fullmatch("[0-9]{1,9}", length) or int(length) > len(body):
        raise HTTPException(400, f"{HEADER_LENGTH}: expected a number up to {len(body)}")
    head, binary = body[: int(length)], body[int(length) :]
    try:
        request = InferRequest.model_validate_json(head)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        status = 400 if first["type"] == "json_invalid" else 422
        raise HTTPException(status, describe_error(first)) from None
    (given,) = request.inputs
    if given.shape[0] > max_images:
        raise HTTPException(413, f"expected at most {max_images} images, got {given.shape[0]}")
    if (given.parameters.binary_data_size or 0) != len(binary):
        raise HTTPException(409, f"binary_data_size: {len(binary)} bytes follow the JSON")
    if (given.data is None) != bool(binary):
        raise HTTPException(409, "expected either data or binary_data_size")
    levels = np.frombuffer(binary, np.uint8) if binary else np.array(given.data, np.uint8)
    if levels.size != math.prod(given.shape):
        raise HTTPException(409, f"shape {list(given.shape)} does not hold {levels.size} values")
    return request, levels.reshape(given.shape)


def encode_infer(
    request: InferRequest, outputs: dict[str, NDArray[np.float32]], model_name: str
) -> Response:
    """Return the answer to an inference: JSON, and behind it the data asked for as bytes."""
    tensors, binary = [], b""
    for asked in request.outputs or [InferOutput(name="logits"), InferOutput(name="probabilities")]:
        values = outputs[asked.name]
        tensor: dict[str, Any] = {"name": asked.name, "datatype": "FP32", "shape": values.shape}
        is_binary = asked.parameters.binary_data
        if request.parameters.binary_data_output if is_binary is None else is_binary:
            binary += values.astype("<f4").tobytes()
            tensor["parameters"] = {"binary_data_size": values.nbytes}
        else:
            tensor["data"] = values.ravel().tolist()
        tensors.append(tensor)
    known = {"model_name": model_name, "model_version": VERSION, "outputs": tensors}
    head = json.dumps(known if request.id is None else {"id": request.id, **known}).encode()
    if not binary:
        return Response(head, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(head + binary, 200, headers, "application/octet-stream")


def describe_infer(example: NDArray[np.uint8]) -> dict[str, Any]:
    """Describe the body of an inference for OpenAPI, with an image, shape (28, 28), to send."""
    schema = InferRequest.model_json_schema()
    definitions = schema.pop("$defs")

    def inline(part: Any) -> Any:  # a reference would point into the whole OpenAPI document
        if isinstance(part, dict):
            found = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
            return {key: inline(value) for key, value in found.items()}
        return [inline(one) for one in part] if isinstance(part, list) else part

    images = {"name": "images", "shape": [1, SIDE_PX, SIDE_PX], "datatype": "UINT8"}
    body = {"inputs": [images | {"data": example.ravel().tolist()}]}
    content = {"application/json": {"schema": inline(schema), "example": body}}
    return {"requestBody": {"required": True, "content": content}}


def describe_error(error: Any) -> str:
    """Return one fault that pydantic found, and where."""
    place = ".".join(map(str, error["loc"]))
    return f"{place}: {error['msg']}" if place else str(error["msg"])


def check_model(engine: Engine) -> None:
    """Run one image through the model, here: it takes 0.2 ms, and waits behind no picture."""
    try:
        engine.predictor.predict_images(np.zeros((1, SIDE_PX, SIDE_PX), np.uint8))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise HTTPException(503, f"the model does not run: {error}") from error


class KServe:
    """The endpoints below ``/v2``."""

    def __init__(self, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        """Serve the model of an engine."""
        self._engine, self._settings, self._metrics = engine, settings, metrics
        self._name = name_model(engine.predictor.info)
        self._n_classes = len(engine.predictor.info.class_names)
        pixels = settings.max_pictures * SIDE_PX**2
        # Parsing JSON holds Python's lock, so the body is no larger than the images allowed need.
        self._max_bytes = min(settings.max_bytes, pixels * JSON_PIXEL_BYTES + HEAD_BYTES)

    def make_router(self, version: str, example: NDArray[np.uint8]) -> APIRouter:
        """Make the routes; with the server's version, and an image to try, shape (28, 28)."""
        router = APIRouter(prefix="/v2", tags=["KServe v2"])
        one_name, one_version = {"enum": [self._name]}, {"enum": [VERSION]}

        async def check_name(name: Annotated[str, Path(json_schema_extra=one_name)]) -> None:
            if name != self._name:
                raise HTTPException(404, f"no model named {name}; there is {self._name}")

        async def check_version(
            version: Annotated[str, Path(json_schema_extra=one_version)],
        ) -> None:
            if version != VERSION:
                raise HTTPException(404, f"no version {version} of the model; there is {VERSION}")

        @router.get("")
        def server_metadata() -> dict[str, Any]:
            return {"name": "edge-mnist", "version": version, "extensions": EXTENSIONS}

        router.get("/health/live")(self.live)
        router.get("/health/ready")(self.ready)
        router.post("/repository/index")(self.index)
        router.get("/models/stats")(self.statistics)
        name_path, version_path = "/models/{name}", "/models/{name}/versions/{version}"
        for path, checks in (
            (name_path, [check_name]),
            (version_path, [check_name, check_version]),
        ):
            model = APIRouter(prefix=path, dependencies=[Depends(check) for check in checks])
            model.get("")(self.metadata)
            model.get("/ready")(self.ready)
            model.get("/config")(self.config)
            model.get("/stats")(self.statistics)
            model.post("/infer", openapi_extra=describe_infer(example))(self.infer)
            router.include_router(model)
        return router

    async def live(self) -> dict[str, bool]:
        """Tell that the server runs."""
        return {"live": True}

    async def ready(self) -> dict[str, bool]:
        """Run the model, and tell that it answers."""
        check_model(self._engine)
        return {"ready": True}

    async def index(self) -> list[dict[str, str]]:
        """List the models of the repository: one."""
        return [{"name": self._name, "version": VERSION, "state": "READY", "reason": ""}]

    async def metadata(self) -> dict[str, Any]:
        """Return inputs and outputs of the model; -1 is the free size of a batch."""
        images = {"name": "images", "datatype": "UINT8", "shape": [-1, SIDE_PX, SIDE_PX]}
        output = {"datatype": "FP32", "shape": [-1, self._n_classes]}
        outputs = [{"name": name} | output for name in OUTPUTS]
        known = {"name": self._name, "versions": [VERSION], "platform": "onnx_onnxv1"}
        return {**known, "inputs": [images], "outputs": outputs}

    async def config(self) -> dict[str, Any]:
        """Return the model's configuration, in the terms of Triton's model_config.proto."""
        images = {"name": "images", "data_type": "TYPE_UINT8", "dims": [SIDE_PX, SIDE_PX]}
        output = {"data_type": "TYPE_FP32", "dims": [self._n_classes]}
        outputs = [{"name": name} | output for name in OUTPUTS]
        known = {"name": self._name, "platform": "onnxruntime_onnx", "backend": "onnxruntime"}
        most = self._settings.max_pictures
        return {**known, "max_batch_size": most, "input": [images], "output": outputs}

    async def statistics(self) -> dict[str, Any]:
        """Return how often the model ran and for how long, all workers together."""
        counts = self._metrics.read_infer()
        stages = {}
        for stage in STAGES:
            count, total_s = (counts.get((f"seconds_{end}", stage), 0) for end in ("count", "sum"))
            stages[stage] = {"count": int(count), "ns": int(total_s * 1e9)}
        entry = {
            "name": self._name,
            "version": VERSION,
            "last_inference": int(counts.get(("last_seconds", ""), 0) * 1000),
            "inference_count": int(counts.get(("images_total", ""), 0)),
            "execution_count": stages["compute_infer"]["count"],
            "inference_stats": stages,
        }
        return {"model_stats": [entry]}

    async def infer(self, request: Request) -> Response:
        """Classify images; logits and probabilities come from one run of the network."""
        stage = self._metrics.infer.labels
        started, outcome = time.perf_counter(), "fail"
        try:
            body: bytes = request.state.body
            if len(body) > self._max_bytes:
                raise HTTPException(413, f"the body is larger than {self._max_bytes:,} bytes")
            length, most = request.headers.get(HEADER_LENGTH), self._settings.max_pictures
            known, images = await self._engine.run(parse_infer, body, length, most)
            with stage("compute_infer").time():
                logits, probabilities = await self._engine.classify(images)
            outputs = {"logits": logits, "probabilities": probabilities}
            response = encode_infer(known, outputs, self._name)
            self._metrics.infer_images.inc(len(images))
            self._metrics.last_infer.set_to_current_time()
            outcome = "success"
            return response
        finally:
            stage(outcome).observe(time.perf_counter() - started)
