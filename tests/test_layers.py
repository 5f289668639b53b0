"""The walls between the rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import edge_mnist

PACKAGE = Path(edge_mnist.__file__).parent
HEAVY = (
    *("torch", "torchvision", "onnx", "onnxscript", "sklearn", "matplotlib", "rich", "typer"),
    *("ray", "pyarrow"),
    *("fastapi", "starlette", "uvicorn", "prometheus_client", "python_multipart", "pydantic"),
)

# A room may import rooms of a lower level only.
LEVELS = {
    "errors": 0,
    "atomic": 1,
    "machine": 0,
    "session": 1,
    "modelfile": 2,
    "picture.components": 0,
    "picture.morphology": 0,
    "protobuf": 1,
    "picture.choice": 1,
    "picture.ink": 2,
    "picture.decoding": 1,
    "picture.reading": 3,
    "training.recipe": 3,
    "picture.finding": 0,
    "training.dataset": 1,
    "training.recipes": 4,
    "training.optimizer": 4,
    "training.split": 4,
    "training.device": 1,
    "training.temperature": 0,
    "training.plan": 5,
    "training.idx": 1,
    "training.download": 2,
    "training.mnist": 3,
    "training.siblings": 3,
    "training.folder": 4,
    "training.data": 5,
    "training.networks": 4,
    "training.augment": 5,
    "training.tone": 4,
    "training.teacher": 5,
    "training.outliers": 4,
    "predictor": 4,
    "training.catalogue": 5,
    "training.checkpoint": 5,
    "plots.style": 0,
    "plots.curves": 1,
    "plots.grids": 1,
    "plots.measures": 1,
    "plots.filters": 1,
    "plots.benchmark": 1,
    "plots.gallery": 2,
    "plots.subjects": 8,
    "bench.timing": 1,
    "bench.subjects": 7,
    "bench.benchmark": 8,
    "bench.regression": 9,
    "validation.corruptions": 1,
    "validation.robustness": 5,
    "items": 5,
    "doctor": 5,
    "cluster.inputs": 1,
    "cluster.plan": 2,
    "cluster.answers": 5,
    "cluster.worker": 6,
    "cluster.pool": 7,
    "cluster.job": 8,
    "validation.reference": 6,
    "training.loop": 6,
    "training.environment": 1,
    "validation.gate": 7,
    "validation.validate": 8,
    "training.run": 7,
    "training.folds": 8,
    "printing": 6,
    "export.golden": 5,
    "export.graph": 5,
    "export.quantize": 7,
    "export.triton": 3,
    "export.manifest": 8,
    "export.release": 9,
    "export.web": 3,
    "quickstart": 10,
    "terminal": 11,
    "serving.limits": 1,
    "serving.accesslog": 0,
    "serving.bodies": 2,
    "serving.replies": 2,
    "serving.uploads": 2,
    "serving.metrics": 2,
    "serving.openapi": 2,
    "serving.pages": 3,
    "serving.engine": 5,
    "serving.kserve": 6,
    "serving.predicting": 7,
    "serving.door": 8,
    "serving.protocol": 9,
    "serving.app": 9,
    "serving.run": 10,
    "commands.app": 1,
    "commands.draw": 12,
    "commands.export": 12,
    "commands.make": 12,
    "commands.measure": 12,
    "commands.serve": 12,
    "commands.tell": 12,
    "commands.use": 12,
    "cli": 13,
}


def room_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported_rooms(path: Path) -> set[str]:
    """Return the rooms a file imports when it runs, also inside functions."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            module = node.module or ""
            room = module.removeprefix("edge_mnist").removeprefix(".")
            if module.startswith("edge_mnist") and room in LEVELS:
                rooms.add(room)
            elif module.startswith("edge_mnist"):  # a folder: the names are its rooms
                names = {f"{room}.{alias.name}".removeprefix(".") for alias in node.names}
                rooms |= names & set(LEVELS)
    return rooms


def files() -> list[Path]:
    return [p for p in PACKAGE.rglob("*.py") if p.stem not in ("__init__", "__main__")]


def test_every_room_has_a_level() -> None:
    assert {room_of(path) for path in files()} == set(LEVELS)


def test_rooms_import_only_lower_rooms() -> None:
    wrong = [
        f"{room_of(path)} imports {other}"
        for path in files()
        for other in imported_rooms(path)
        if LEVELS[other] >= LEVELS[room_of(path)]
    ]
    assert wrong == []


def test_import_is_light() -> None:
    code = (
        "import sys, edge_mnist; edge_mnist.Predictor; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_and_functions_stay_short() -> None:
    long = []
    for path in files():
        text = path.read_text()
        if len(text.splitlines()) > 300:
            long.append(f"{path.name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                docstring = ast.get_docstring(node) or ""
                if length - len(docstring.splitlines()) > 50:
                    long.append(f"{path.name}: {node.name} has {length} lines")
    assert long == []
