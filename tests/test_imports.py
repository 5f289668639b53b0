"""What importing the package loads."""

import subprocess
import sys

HEAVY = (
    *("torch", "torchvision", "onnx", "onnxscript", "sklearn", "matplotlib", "rich", "typer"),
    *("ray", "pyarrow"),
    *("fastapi", "starlette", "uvicorn", "prometheus_client", "python_multipart", "pydantic"),
)


def test_import_is_light() -> None:
    code = (
        "import sys, edge_mnist; edge_mnist.Predictor; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
