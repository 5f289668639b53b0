"""KServe v2 (Open Inference Protocol) with Triton's extensions, over the contract of a model file.

Sources: KServe's Open Inference Protocol; Triton's protocol extensions binary_data,
model_configuration, model_repository and statistics.
"""

import json
import math
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from edge_mnist.model_file import OUTPUTS, name_model
from edge_mnist.serving import metrics
from edge_mnist.serving.engine import Engine

VERSION = "1"  # as in the repository that `export --target triton` writes
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
HEADER_LENGTH = "inference-header-content-length"
SIDE_PX = 28
REFERENCE = "#/components/schemas/{model}"

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


BOTH_OUTPUTS = [InferOutput(name="logits"), InferOutput(name="probabilities")]


class InferRequest(BaseModel):
    """Images to classify, and the outputs to return: both if none is named."""

    id: str | None = None
    parameters: Parameters = Parameters()
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[InferOutput], Field(max_length=2)] | None = None


# Of OpenAPI: FastAPI adds the models of bodies that it parses, and does not parse these.
SCHEMAS = InferRequest.model_json_schema(ref_template=REFERENCE)
SCHEMAS = {InferRequest.__name__: SCHEMAS, **SCHEMAS.pop("$defs")}


def parse_infer(
    body: bytes, header_length: str | None, max_images: int
) -> tuple[InferRequest, NDArray[np.uint8]]:
    """Return the request in a body, and its images, shape (N, 28, 28).

    The body is JSON of ``header_length`` bytes, None for all of it, and the binary data behind it.
    """
    length = header_length or str(len(body))
    if not re.fullmatch("[0-9]{1,9}", length) or int(length) > len(body):
        raise HTTPException(400, f"{HEADER_LENGTH}: expected a number up to {len(body)}")
    head, binary = body[: int(length)], body[int(length) :]
    try:
        request = InferRequest.model_validate_json(head)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False)) from None
    (given,) = request.inputs
    if given.shape[0] > max_images:
        raise HTTPException(413, f"expected at most {max_images} images, got {given.shape[0]}")
    size = given.parameters.binary_data_size or 0
    if size != len(binary) or (given.data is None) != bool(binary):
        raise HTTPException(409, f"expected data or binary_data_size, {len(binary)} bytes follow")
    levels = np.frombuffer(binary, np.uint8) if binary else np.array(given.data, np.uint8)
    if levels.size != math.prod(given.shape):
        raise HTTPException(409, f"shape {list(given.shape)} does not hold {levels.size} values")
    return request, levels.reshape(given.shape)


def encode_infer(
    request: InferRequest, outputs: dict[str, NDArray[np.float32]], model_name: str
) -> Response:
    """Return the answer to an inference: JSON, and behind it the data asked for as bytes."""
    tensors, binary = [], b""
    for asked in request.outputs or BOTH_OUTPUTS:
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


def make_router(engine: Engine, version: str, example: NDArray[np.uint8]) -> APIRouter:
    """Make the routes below ``/v2``, for a version of the server, with an image to try."""
    name = name_model(engine.predictor.info)
    router, model = APIRouter(prefix="/v2", tags=["KServe v2"]), APIRouter()
    _add_descriptions(model, engine, name)
    images = {"name": "images", "shape": [1, SIDE_PX, SIDE_PX], "datatype": "UINT8"}
    content = {
        "schema": {"$ref": REFERENCE.format(model=InferRequest.__name__)},
        "example": {"inputs": [images | {"data": example.ravel().tolist()}]},
    }
    model.post(
        "/infer",
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": content}}},
        responses={200: {"content": {"application/octet-stream": {}}}},
    )(_make_infer(engine, name))

    @router.get("")
    async def server_metadata() -> dict[str, Any]:
        return {"name": "edge-mnist", "version": version, "extensions": EXTENSIONS}

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Tell that the server runs."""
        return {"live": True}

    @router.get("/health/ready")
    @model.get("/ready")
    async def ready() -> dict[str, bool]:
        """Run the model, and tell that it answers."""
        engine.check()
        return {"ready": True}

    @router.post("/repository/index")
    async def index() -> list[dict[str, str]]:
        """List the models of the repository: one."""
        return [{"name": name, "version": VERSION, "state": "READY", "reason": ""}]

    @router.get("/models/stats")
    @model.get("/stats")
    async def statistics() -> dict[str, Any]:
        """Return how often the model ran and for how long, all workers together."""
        counted = metrics.read_infer()
        return {"model_stats": [{"name": name, "version": VERSION, **counted}]}

    for prefix in (f"/models/{name}", f"/models/{name}/versions/{VERSION}"):
        router.include_router(model, prefix=prefix)
    return router


def _add_descriptions(model: APIRouter, engine: Engine, name: str) -> None:
    n_classes = len(engine.predictor.info.class_names)

    @model.get("")
    async def metadata() -> dict[str, Any]:
        """Return inputs and outputs of the model; -1 is the free size of a batch."""
        images = {"name": "images", "datatype": "UINT8", "shape": [-1, SIDE_PX, SIDE_PX]}
        output = {"datatype": "FP32", "shape": [-1, n_classes]}
        outputs = [{"name": one} | output for one in OUTPUTS]
        known = {"name": name, "versions": [VERSION], "platform": "onnx_onnxv1"}
        return {**known, "inputs": [images], "outputs": outputs}

    @model.get("/config")
    async def config() -> dict[str, Any]:
        """Return the model's configuration, in the terms of Triton's model_config.proto."""
        images = {"name": "images", "data_type": "TYPE_UINT8", "dims": [SIDE_PX, SIDE_PX]}
        output = {"data_type": "TYPE_FP32", "dims": [n_classes]}
        outputs = [{"name": one} | output for one in OUTPUTS]
        known = {"name": name, "platform": "onnxruntime_onnx", "backend": "onnxruntime"}
        most = engine.settings.max_pictures
        return {**known, "max_batch_size": most, "input": [images], "output": outputs}


def _make_infer(engine: Engine, name: str) -> Callable[..., Awaitable[Response]]:
    settings = engine.settings
    # Parsing JSON holds Python's lock, so the body is no larger than the images allowed need:
    # eight bytes for a pixel ("255, " and white space), and four kilobytes for the rest.
    max_bytes = min(settings.max_bytes, settings.max_pictures * SIDE_PX**2 * 8 + 4096)

    async def infer(request: Request) -> Response:
        """Classify images; logits and probabilities come from one run of the network."""
        started, outcome = time.perf_counter(), "fail"
        try:
            body: bytes = request.scope["state"]["body"]
            if len(body) > max_bytes:
                raise HTTPException(413, f"the body is larger than {max_bytes:,} bytes")
            length = request.headers.get(HEADER_LENGTH)
            known, images = await engine.run(parse_infer, body, length, settings.max_pictures)
            with metrics.infer.labels("compute_infer").time():
                async with engine.admit(len(images)):
                    values = await engine.run(engine.predictor.compute_outputs, images)
            metrics.infer_images.inc(len(images))
            metrics.last_infer.set_to_current_time()
            outcome = "success"
            return encode_infer(known, dict(zip(OUTPUTS, values, strict=True)), name)
        finally:
            metrics.infer.labels(outcome).observe(time.perf_counter() - started)

    return infer
