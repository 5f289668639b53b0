"""The KServe v2 protocol (Open Inference Protocol), over the contract of a model file."""

import itertools
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Path
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from edge_mnist.serving.engine import Engine
from edge_mnist.serving.limits import Limits, RefusedError
from edge_mnist.serving.openapi import error_responses

MODEL_NAME = "edge-mnist"
SIDE_PX = 28
JSON_PIXEL_BYTES = 8  # "255, " and room for white space
HEAD_BYTES = 4096


class Error(BaseModel):
    """Why there is no answer."""

    error: str


class Live(BaseModel):
    """Whether the server runs."""

    live: bool


class Ready(BaseModel):
    """Whether the model answers."""

    ready: bool


class Tensor(BaseModel):
    """Name, type and shape of an input or output; -1 is a size that is free."""

    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    """What the model is."""

    name: str
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class InferInput(BaseModel):
    """Images: 0 is background, 255 full ink; row after row, flat or nested."""

    name: Literal["images"]
    shape: tuple[Annotated[int, Field(ge=1)], Literal[28], Literal[28]]
    datatype: Literal["UINT8"]
    data: list[Any]


class InferOutput(BaseModel):
    """An output that is asked for."""

    name: Literal["logits", "probabilities"]


class InferRequest(BaseModel):
    """Images to classify, and the outputs wanted; both if none is named."""

    id: str | None = None
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=1)]
    outputs: list[InferOutput] | None = None


class OutputTensor(Tensor):
    """An output, flat, row after row."""

    data: list[float]


class InferResponse(BaseModel):
    """The outputs, in the order in which they were asked for."""

    model_name: str
    id: str | None = None
    outputs: list[OutputTensor]


def infer_body_bytes(limits: Limits) -> int:
    """Return how large the body of an inference may be.

    Parsing JSON stops everybody else, 10 ms for each megabyte, so it is no larger than the
    pictures allowed take.
    """
    pixels = limits.max_pictures * SIDE_PX * SIDE_PX
    return min(limits.max_bytes, pixels * JSON_PIXEL_BYTES + HEAD_BYTES)


def make_router(engine: Engine, limits: Limits, version: str) -> APIRouter:
    """Make the routes below ``/v2``."""
    router = APIRouter(prefix="/v2", tags=["KServe v2"])
    known = [Depends(_check_name)]
    missing: dict[int | str, dict[str, Any]] = {404: {"model": Error}}
    n_classes = len(engine.predictor.info.class_names)

    @router.get("")
    async def server_metadata() -> ServerMetadata:
        return ServerMetadata(name="edge-mnist", version=version, extensions=[])

    @router.get("/health/live")
    async def live() -> Live:
        return Live(live=True)

    @router.get("/health/ready")
    async def ready() -> Ready:
        check_model(engine)
        return Ready(ready=True)

    @router.get("/models/{name}", dependencies=known, responses=missing)
    async def model_metadata() -> ModelMetadata:
        return _describe(n_classes)

    @router.get("/models/{name}/ready", dependencies=known, responses=missing)
    async def model_ready() -> Ready:
        return await ready()

    @router.post(
        "/models/{name}/infer",
        dependencies=known,
        responses=missing | error_responses(409),
        response_model_exclude_none=True,
    )
    async def infer(request: InferRequest) -> InferResponse:
        images = to_images(request.inputs[0], limits)
        logits, probabilities = await engine.classify(images)
        outputs = {"logits": logits, "probabilities": probabilities}
        names = [output.name for output in request.outputs] if request.outputs else list(outputs)
        tensors = [_to_tensor(name, outputs[name]) for name in names]
        return InferResponse(model_name=MODEL_NAME, id=request.id, outputs=tensors)

    return router


def check_model(engine: Engine) -> None:
    """Run one image through the model, here: behind large pictures a health check would be late.

    Raises:
        RefusedError: The model does not run (503).
    """
    try:
        engine.predictor.predict_images(np.zeros((1, SIDE_PX, SIDE_PX), np.uint8))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise RefusedError(503, f"the model does not run: {error}") from error


def to_images(given: InferInput, limits: Limits) -> NDArray[np.uint8]:
    """Return an input's images, shape (N, 28, 28).

    Raises:
        RefusedError: Too many images (413), values that are no levels (422), or another number
            of them than the shape says (409).
    """
    n_images = given.shape[0]
    values = _flatten(given.data)
    if not set(map(type, values)) <= {int, float}:
        raise RefusedError(422, "data: want numbers, flat or nested as the shape says")
    levels = np.array(values, np.float64)  # JSON knows one kind of number: 7.0 is 7
    if not (levels == np.clip(np.rint(levels), 0, 255)).all():
        raise RefusedError(422, "data: want whole numbers from 0 to 255")
    if levels.size != n_images * SIDE_PX * SIDE_PX:
        raise RefusedError(409, f"shape {list(given.shape)} does not hold {levels.size} values")
    if n_images > limits.max_pictures:
        raise RefusedError(413, f"more than {limits.max_pictures} images")
    return levels.astype(np.uint8).reshape(n_images, SIDE_PX, SIDE_PX)


def _flatten(data: list[Any]) -> list[Any]:
    """Return the values of images that are nested, [N][28][28], or flat already."""
    for _ in range(2):
        if data and all(type(part) is list and len(part) == SIDE_PX for part in data):
            data = list(itertools.chain.from_iterable(data))
    return data


async def _check_name(
    name: Annotated[str, Path(json_schema_extra={"enum": [MODEL_NAME]})],
) -> None:
    if name != MODEL_NAME:
        raise RefusedError(404, f"no model named {name!r}; there is {MODEL_NAME}")


def _describe(n_classes: int) -> ModelMetadata:
    return ModelMetadata(
        name=MODEL_NAME,
        platform="onnx_onnxv1",
        inputs=[Tensor(name="images", datatype="UINT8", shape=[-1, SIDE_PX, SIDE_PX])],
        outputs=[
            Tensor(name=name, datatype="FP32", shape=[-1, n_classes])
            for name in ("logits", "probabilities")
        ],
    )


def _to_tensor(name: str, values: NDArray[np.float32]) -> OutputTensor:
    return OutputTensor(
        name=name, datatype="FP32", shape=list(values.shape), data=values.ravel().tolist()
    )
