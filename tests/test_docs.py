"""The documents say what is true."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from conftest import Command

from edge_mnist.model_file import shipped_folder
from edge_mnist.training.catalogue import MEASURED
from edge_mnist.training.recipes import Recipe, parse_changes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) <= 180
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
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
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
