"""The documents say what is true."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMITS, Command

import edge_mnist
from edge_mnist.model_file import shipped_folder
from edge_mnist.training.catalogue import MEASURED
from edge_mnist.training.recipes import Recipe, parse_changes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) <= 200
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_readme_table_is_the_manifests() -> None:
    for name in ("default", "nano", "max"):
        manifest = json.loads((shipped_folder() / name / "manifest.json").read_text())
        for file, model in manifest["models"].items():
            (row,) = (line for line in README.splitlines() if line.startswith(f"| `{name}/{file}`"))
            assert f"{manifest['files'][file]['size_bytes']:,}" in row
            assert f"{model['accuracy'] * 100:.2f} %" in row


def test_every_option_the_readme_names_exists(edge_mnist: Command) -> None:
    commands = set(re.findall(r"^  (\w+) ", edge_mnist("--help").stdout, flags=re.MULTILINE))
    helps = {name: edge_mnist(name, "--help").stdout for name in commands}
    for name, options in re.findall(r"edge-mnist (\w+)([^`\n|]*)", README):
        assert name in commands
        for option in re.findall(r"--[a-z-]+", options):
            assert option in helps[name], f"{name} {option}"
    for option in set(re.findall(r"--[a-z][a-z-]+", README)):
        assert any(option in text for text in helps.values()), option


def test_readmes_python_runs(
    drawings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seven.png").write_bytes(drawings[7].read_bytes())
    names: dict[str, object] = {"images": __import__("numpy").zeros((2, 28, 28), "uint8")}
    exec(compile(code, "README.md", "exec"), names)
    assert getattr(names["prediction"], "digit") == 7  # noqa: B009


def test_the_page_of_recipes_is_true() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    options = page.split("## Options")[1].split("```")[0]
    keys = set(re.findall(r"`([a-z_0-9]+)[=`]", options))
    named = {"sgd", "adam", "adamw", "rmsprop", "onecycle", "cosine", "constant", "step", "plateau"}
    known = {field.name for field in dataclasses.fields(Recipe)}
    assert keys - named <= known
    assert known - keys <= {"name", "dataset", "seed", "fold"}
    measured = json.loads(MEASURED.read_text())
    for name, record in measured.items():
        (row,) = (line for line in page.splitlines() if f"--recipe {name}` |" in line)
        for kind in ("float32", "int8"):
            mean = sum(run[kind] for run in record["runs"]) / len(record["runs"])
            assert f"{100 * mean:.2f}" in row
    for setting in re.findall(r"--set (\S+=\S+)", page.split("```sh")[1]):
        parse_changes([setting.strip("`.")])


def test_the_python_api_runs_as_documented(
    drawings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of the page, in order, in one session; on the small data set it needs limits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seven.png").write_bytes(drawings[7].read_bytes())
    page = (ROOT / "docs" / "python-api.md").read_text()
    names: dict[str, object] = {"limits": LIMITS}
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    for block in blocks:
        exec(compile(block, "python-api.md", "exec"), names)
    assert len(blocks) == 4
    assert getattr(names["report"], "passed")  # noqa: B009
    assert (tmp_path / "mine" / "model.onnx").is_file()


def test_the_python_api_names_everything_public() -> None:
    page = (ROOT / "docs" / "python-api.md").read_text()
    results = {"BenchReport", "Dataset", "ExportResult", "FoldsResult", "RunResult", "Prediction"}
    results |= {"CResult", "CodeReport", "TritonResult", "WebResult", "__version__"}
    for name in set(edge_mnist.__all__) - results:
        assert re.search(rf"\b{name}\b", page), name
    errors = {name for name in vars(edge_mnist.errors) if name.endswith("Error")}
    assert errors <= set(edge_mnist.__all__)


def test_a_script_that_uses_the_api_is_typed(tmp_path: Path) -> None:
    """What the issue prints, checked by mypy --strict."""
    script = tmp_path / "script.py"
    script.write_text(
        "from edge_mnist import Predictor, ValidationReport\n"
        "from edge_mnist import export, load_dataset, train, validate\n"
        'run = train("fast", load_dataset("mnist"))\n'
        'files = export(run.network, run.dataset, folder="exports", quantize=True)\n'
        'report: ValidationReport = validate("exports", run.dataset)\n'
        "passed: bool = report.passed\n"
        'digit: int | None = Predictor("exports").predict("seven.png").digit\n'
        "print(passed, digit, files.models[0].accuracy, run.test_accuracy)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
