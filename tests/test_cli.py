import dataclasses
import itertools
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from packaging.requirements import Requirement
from PIL import Image
from typer.main import get_command

from edge_mnist import doctor
from edge_mnist.cli import load_commands, rendering
from edge_mnist.cli.app import app, carry_options
from edge_mnist.errors import UsageError
from edge_mnist.exporting.onnx import ExportResult
from edge_mnist.exporting.targets import TARGETS
from edge_mnist.exporting.triton import TritonResult
from edge_mnist.exporting.web import WebResult
from edge_mnist.machine import is_offline
from edge_mnist.model_file import CHECKPOINT_NAME, find_model, locate, shell_path
from edge_mnist.plots.plot import Plots
from edge_mnist.predictor import Predictor
from edge_mnist.quickstart import QuickstartResult
from edge_mnist.ray.job import JobReport
from edge_mnist.training.cross_validation import FoldsResult
from edge_mnist.training.datasets import Dataset, load_dataset
from edge_mnist.training.recipes import RECIPES, Recipe, find_recipe
from edge_mnist.training.run import RunResult, find_checkpoint, train
from edge_mnist.validation.benchmark import BenchReport, bench
from edge_mnist.validation.validate import validate

COMMANDS = ("train", "export", "validate", "plot", "predict", "doctor", "quickstart")


def test_help_and_version(edge_mnist: Command) -> None:
    done = edge_mnist("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)
    for name in COMMANDS:
        assert edge_mnist(name, "--help").returncode == 0
    assert edge_mnist("--version").stdout.startswith("edge-mnist ")


def test_script_and_entry_point(tmp_path: Path, drawings: list[Path]) -> None:
    script = Path(__file__).parents[1] / "cli.py"
    command = Path(sys.executable).with_name("edge-mnist")
    for start in ([sys.executable, str(script)], [str(command)]):
        done = subprocess.run(
            [*start, "predict", str(drawings[7])],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
        )
        assert done.stdout.startswith("7 ")


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["predict"],
        ["predict", "x.png", "--provider", "tpu"],
        ["predict", "x.png", "--json", "--jsonl"],
        ["predict", "x.png", "--threads", "many"],
        ["train", "--recipe", "nonsense"],
        ["train", "--dataset", "nonsense"],
        ["train", "--epochs", "0"],
        ["train", "--seed", "-1"],
        ["train", "--resume", "--overwrite"],
        ["train", "--epochs", "1", "--set", "epochs=2"],
        ["train", "--output", "one", "--out", "two"],
        ["validate", "nano", "--self-test", "--offline"],
        ["serve", "--timeout", "nan"],
        ["serve", "--timeout", "inf"],
        ["serve", "--workers", "100000"],
    ],
)
def test_wrong_usage_is_2(edge_mnist: Command, tmp_path: Path, args: list[str]) -> None:
    done = edge_mnist(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_value_is_not_taken_for_none() -> None:
    """``--model "$MODEL"`` with a variable that is not set; for each option that takes a value."""
    load_commands()
    commands: Any = get_command(app)
    options = [
        (command, option)
        for command in commands.commands.values()
        for option in command.params
        if option.param_type_name == "option" and not (option.is_flag or option.count)
    ]
    assert len(options) > 60
    for command, option in options:
        for arguments in ([option.opts[0], ""], [f"{option.opts[0]}="]):
            with pytest.raises(UsageError, match=f"{option.opts[0]}: expected a value, got an"):
                command.make_context(command.name, arguments)
    for name in ("info", "validate", "bench", "export", "plot"):
        with pytest.raises(UsageError, match="expected a value"):
            commands.commands[name].make_context(name, [""])
    for function in (Predictor, validate, bench, find_model, find_checkpoint):
        with pytest.raises(UsageError, match="got an empty text"):
            function("")


def test_an_unwritable_output_is_known_before_the_work(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path
) -> None:
    """Measuring and drawing, which take seconds, would print or leave something."""
    (tmp_path / "file").write_text("mine")
    for arguments in (
        ("bench", "nano", "--plot", "missing/bench.png"),
        ("plot", "nano", "-o", "file"),
        ("validate", "nano", "--plots", "file/below"),
        ("export", "nano", "--target", "c", "-o", "file"),
        ("predict", drawings[0], "--save-seen", "file"),
    ):
        done = edge_mnist(*arguments, env={"EDGE_MNIST_DATA": "/no/folder"})
        assert done.returncode == 3
        assert done.stdout == ""
        assert re.match(r"edge-mnist: cannot write [^\n]*\n$", done.stderr), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_saved_model_inputs_are_whole(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path
) -> None:
    """On a disk that takes no more than 64 bytes of a file."""
    arguments = ("predict", drawings[5], "--save-seen", "seen")
    assert edge_mnist(*arguments).returncode == 0
    (seen,) = (tmp_path / "seen").iterdir()
    content = seen.read_bytes()
    done = edge_mnist(
        *arguments,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)),
    )
    assert done.returncode == 3
    assert (
        done.stderr.splitlines()[-1] == f"edge-mnist: cannot write seen/{seen.name}: File too large"
    )
    assert [path.name for path in (tmp_path / "seen").iterdir()] == [seen.name]
    assert seen.read_bytes() == content


def test_a_user_without_a_home(edge_mnist: Command, drawings: list[Path], tmp_path: Path) -> None:
    """As in a container that runs under a user id without an entry in /etc/passwd."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pwd\nos.environ.pop('HOME', None)\nos.environ.pop('XDG_CACHE_HOME', None)\n"
        "def getpwuid(uid): raise KeyError('getpwuid(): uid not found')\npwd.getpwuid = getpwuid\n"
    )
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    env = {"PYTHONPATH": path, "EDGE_MNIST_DATA": ""}
    for arguments in (("predict", drawings[3]), ("doctor",)):
        assert edge_mnist(*arguments, env=env).returncode == 0
    done = edge_mnist("validate", "nano", env=env)
    assert done.returncode == 3
    assert re.match(r"edge-mnist: this user has no home folder [^\n]*\n$", done.stderr), done.stderr


def test_wrong_environment_is_2(edge_mnist: Command, drawings: list[Path]) -> None:
    for name, value in (("THREADS", "many"), ("PROVIDER", "tpu")):
        done = edge_mnist("predict", drawings[0], env={f"EDGE_MNIST_{name}": value})
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_predict_for_people(edge_mnist: Command, drawings: list[Path]) -> None:
    done = edge_mnist("predict", *drawings)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list("0123456789")
    assert "model.onnx" in done.stderr
    assert "on cpu" in done.stderr or "on cuda" in done.stderr


def test_predict_goes_on_after_a_bad_picture(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path
) -> None:
    whole = drawings[1].read_bytes()
    (tmp_path / "text.png").write_text("only text")
    (tmp_path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    bad = ["missing.png", "text.png", "truncated.png", "empty.png", "folder"]
    paths = [drawings[0], *bad, drawings[9]]
    for style in ("--json", "--jsonl"):
        done = edge_mnist("predict", *paths, style)
        assert done.returncode == 1
        lines = done.stdout.splitlines()
        items = json.loads(done.stdout)["items"] if style == "--json" else [*map(json.loads, lines)]
        assert [item["path"] for item in items] == [str(path) for path in paths]
        assert [item["status"] for item in items] == ["ok", *["error"] * len(bad), "ok"]
        assert all(item["error"] for item in items[1:-1])
        assert "Traceback" not in done.stderr
    done = edge_mnist("predict", *paths)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["0", "9"]
    for path in bad:
        assert any(path in line for line in done.stderr.splitlines())


def test_predict_json(edge_mnist: Command, drawings: list[Path]) -> None:
    done = edge_mnist("predict", drawings[4], "--json")
    report = json.loads(done.stdout)
    assert done.stderr == ""
    assert report["schema_version"] == 1
    assert report["model"].endswith("model.onnx")
    assert len(report["model_sha256"]) == 64
    assert report["provider"] in ("cpu", "cuda")
    (item,) = report["items"]
    assert item["digit"] == 4
    assert item["confidence"] == max(item["probabilities"])


def test_every_json_says_its_schema(edge_mnist: Command, drawings: list[Path]) -> None:
    run = {
        "predict": (drawings[4], "--provider", "cpu"),
        "info": (),
        "models": (),
        "recipes": (),
        "doctor": (),
        "validate": ("nano", "--self-test"),
    }
    # Those that take longer print the dataclass that their function returns.
    printed: dict[str, tuple[type, ...]] = {
        "train": (RunResult, FoldsResult),
        "bench": (BenchReport,),
        "export": (ExportResult, WebResult, TritonResult),
        "plot": (Plots,),
        "quickstart": (QuickstartResult,),
    }
    load_commands()
    has_json = {
        name
        for name, command in get_command(app).commands.items()  # type: ignore[attr-defined]
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert {*run, *printed} == has_json
    for name, options in run.items():
        done = edge_mnist(name, *options, "--json")
        assert json.loads(done.stdout)["schema_version"] == 1, name
    done = edge_mnist("predict", drawings[4], "--jsonl")
    assert json.loads(done.stdout)["schema_version"] == 1
    for result in (*itertools.chain.from_iterable(printed.values()), JobReport):
        assert "schema_version" in {field.name for field in dataclasses.fields(result)}, result


@pytest.mark.parametrize("command", ["models", "recipes"])
def test_tables_fit_a_narrow_terminal(edge_mnist: Command, command: str) -> None:
    wide = edge_mnist(command, env={"COLUMNS": "200"})
    narrow = edge_mnist(command, env={"COLUMNS": "40"})
    assert max(map(len, narrow.stdout.splitlines())) <= 40
    for number in ("47,994", "1,773,712", "99.65%"):
        assert number in narrow.stdout
        assert number in wide.stdout
    assert "…" not in narrow.stdout + wide.stdout


def test_help_lists_choices_and_the_shell_completes_them(edge_mnist: Command) -> None:
    for line, choices in (
        ("predict --provider ", ("auto", "cpu", "cuda")),
        ("predict --engine ", ("local", "ray")),
        ("export --target ", tuple(target.name for target in TARGETS)),
        ("train --recipe ", tuple(RECIPES)),
        ("train --device ", ("auto", "cpu", "cuda")),
    ):
        name, option = line.split()
        words = {"COMP_WORDS": f"edge-mnist {line}", "COMP_CWORD": "3"}
        completed = subprocess.run(
            [Path(sys.executable).with_name("edge-mnist")],
            env=os.environ | {"_EDGE_MNIST_COMPLETE": "complete_bash", **words},
            capture_output=True,
            text=True,
            check=True,
        )
        assert completed.stdout.split() == list(choices)
        shown = edge_mnist(name, "--help", env={"COLUMNS": "200"}).stdout
        described = shown[shown.index(option) :].partition("\n  --")[0]
        assert all(choice in described for choice in choices)
    keys = edge_mnist("train", "--help").stdout
    assert all(field.name in keys for field in dataclasses.fields(Recipe) if field.name != "name")


def test_predict_folders_and_stdin(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path
) -> None:
    done = edge_mnist("predict", "-r", drawings[0].parent, "--jsonl")
    digits = [json.loads(line)["digit"] for line in done.stdout.splitlines()]
    assert digits == list(range(10))
    (tmp_path / "none").mkdir()
    done = edge_mnist("predict", "-r", "none")
    assert done.returncode == 1
    assert "no pictures" in done.stderr
    command = [sys.executable, "-m", "edge_mnist", "predict", "-", "--jsonl"]
    read = subprocess.run(command, input=drawings[6].read_bytes(), capture_output=True, check=True)
    assert json.loads(read.stdout)["digit"] == 6


def test_predict_rejects_and_can_be_overruled(edge_mnist: Command, tmp_path: Path) -> None:
    Image.new("L", (60, 60), 255).save(tmp_path / "blank.png")
    done = edge_mnist("predict", "blank.png", "--json")
    assert done.returncode == 1
    (item,) = json.loads(done.stdout)["items"]
    assert item["status"] == "rejected"
    assert item["reason"] == "blank"
    assert "digit" not in item
    done = edge_mnist("predict", "blank.png")
    assert done.returncode == 1
    assert "rejected: blank" in done.stdout
    assert edge_mnist("predict", "blank.png", "--accept-all").returncode == 0


def test_predict_shows_what_the_model_saw(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path
) -> None:
    options = ("--show", "--save-seen", "seen", "--top-k", "2")
    done = edge_mnist("predict", drawings[5], drawings[6], *options)
    assert done.returncode == 0
    assert "@@" in done.stdout
    seen = sorted((tmp_path / "seen").iterdir())
    assert [path.name for path in seen] == ["00001-5.png", "00002-6.png"]
    with Image.open(seen[0]) as image:
        assert image.size == (28, 28)
    done = edge_mnist("predict", drawings[5], "--top-k", "2", "--json")
    (item,) = json.loads(done.stdout)["items"]
    assert next(one["digit"] for one in item["top"]) == 5
    assert len(item["top"]) == 2


def test_links_out_of_a_folder_are_not_followed(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    shutil.copy(drawings[4], folder / "inside" / "four.png")
    (folder / "link.png").symlink_to(drawings[3])
    (folder / "linked").symlink_to(drawings[3].parent)
    done = edge_mnist("predict", "-r", "folder", "--jsonl")
    items = [json.loads(line) for line in done.stdout.splitlines()]
    assert [item["path"] for item in items] == [str(Path("folder") / "inside" / "four.png")]


def test_doctor(edge_mnist: Command) -> None:
    done = edge_mnist("doctor", "--json")
    diagnosis = json.loads(done.stdout)
    assert done.returncode == (0 if diagnosis["ok"] else 1)
    names = {finding["name"] for finding in diagnosis["findings"]}
    assert {"onnxruntime", "cpu provider", "cuda provider", "processor", "cores"} <= names
    wrong = [finding for finding in diagnosis["findings"] if not finding["ok"]]
    assert all(finding["fix"] for finding in wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATA", "/no/folder"),
        ("DATA", __file__),
        ("MODEL", "/no/model.onnx"),
        ("OFFLINE", "perhaps"),
        ("PROVIDER", "tpu"),
        ("THREADS", "0"),
    ],
)
def test_doctor_tells_a_wrong_variable_from_a_broken_installation(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.examine_environment().ok
    variable = f"EDGE_MNIST_{name}"
    monkeypatch.setenv(variable, value)
    finding = doctor.examine_environment()
    assert not finding.ok
    assert variable in finding.text
    assert finding.fix == f"unset {variable}"
    assert doctor.examine_cpu_provider().ok


def test_offline_says_yes_or_no(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (
        ("", False),
        ("0", False),
        ("False", False),
        ("1", True),
        ("yes", True),
    ):
        monkeypatch.setenv("EDGE_MNIST_OFFLINE", value)
        assert is_offline() is expected
    monkeypatch.setenv("EDGE_MNIST_OFFLINE", "perhaps")
    with pytest.raises(UsageError, match="expected 1 or 0, got perhaps"):
        load_dataset("mnist")


def test_doctor_knows_every_package_of_an_extra() -> None:
    with open(Path(__file__).parents[1] / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    extras = {name: project["optional-dependencies"][name] for name in doctor.EXTRAS}
    for name, lines in (*extras.items(), (None, project["dependencies"])):
        plain = {re.split(r"[<>\[]", line)[0] for line in lines if ";" not in line}
        assert set(doctor.list_requirements(name)) == plain
    assert "torch 2" in doctor.examine_extra("train").text


@pytest.mark.parametrize(
    ("system", "machine", "has_ray", "runtime"),
    [
        ("linux", "x86_64", True, "onnxruntime-gpu"),
        ("linux", "aarch64", True, "onnxruntime"),
        ("darwin", "arm64", True, "onnxruntime"),
        ("win32", "AMD64", True, "onnxruntime-gpu"),
        ("win32", "ARM64", False, "onnxruntime"),  # Ray and onnxruntime-gpu have no wheels
    ],
)
def test_all_holds_everything(system: str, machine: str, has_ray: bool, runtime: str) -> None:
    with open(Path(__file__).parents[1] / "pyproject.toml", "rb") as file:
        lines = tomllib.load(file)["project"]["optional-dependencies"]["all"]
    here = {"sys_platform": system, "platform_machine": machine, "python_version": "3.13"}
    needed = [Requirement(line) for line in lines]
    needed = [one for one in needed if not one.marker or one.marker.evaluate(here)]
    extras = set().union(*(one.extras for one in needed if one.name == "edge-mnist"))
    assert extras == {*doctor.EXTRAS} - ({"ray"} if not has_ray else set())
    assert [one.name for one in needed if "onnxruntime" in one.name] == [runtime]


def test_a_closed_pipe_is_no_error(drawings: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_mnist", "predict", "--jsonl", *map(str, drawings * 40)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 0
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


def test_one_flow_without_options(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train, export and predict work on each other's results; only the data set is named."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert edge_mnist("export").returncode == 3  # nothing trained yet
    done = edge_mnist("train", "--dataset", "digits", "--epochs", "12")
    assert done.returncode == 0, done.stderr
    assert "next: edge-mnist export runs/digits --quantize" in done.stderr
    done = edge_mnist("export", "--quantize", "--max-accuracy-lost", "0.02")
    assert done.returncode == 0, done.stderr
    assert "next: edge-mnist validate exports" in done.stderr
    assert "model.int8.onnx" in done.stdout
    done = edge_mnist("predict", drawings[0], "--json")
    report = json.loads(done.stdout)
    assert report["model"] == str(Path("exports") / "model.onnx")
    done = edge_mnist("validate", "--max-accuracy-lost", "0.02")
    assert done.returncode == 0, done.stdout + done.stderr
    assert edge_mnist("validate", "--self-test").returncode == 0
    assert [*(tmp_path / "home").rglob("*onnxruntime*")] == []  # where its telemetry goes


def next_command(stderr: str) -> str:
    (hint,) = (line for line in stderr.splitlines() if line.startswith("next: "))
    return hint.removeprefix("next: edge-mnist ")


def test_hints_can_be_pasted(
    digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a folder has the name of a released model, and characters that a shell reads."""

    def paste(hint: str, more: str = "") -> subprocess.CompletedProcess[str]:
        command = f"{shlex.quote(sys.executable)} -m edge_mnist {hint} {more}"
        return subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    recipe = find_recipe(dataset="digits", epochs=2)
    run = train(recipe, digits, out=tmp_path / "nano")
    shutil.copytree(tmp_path / "nano", tmp_path / "runs" / "newer")
    os.utime(tmp_path / "runs" / "newer" / CHECKPOINT_NAME, (2e9, 2e9))
    result = dataclasses.replace(run.result, folder="nano")
    rendering.print_training(result, carried=carry_options(offline=True))
    hint = next_command(capsys.readouterr().err)
    assert hint == "export ./nano --quantize --offline"
    done = paste(hint, """-o "max/it's" --dataset digits --max-accuracy-lost 0.3""")
    assert done.returncode == 0, done.stderr
    assert "nano/checkpoint.safetensors exported" in done.stdout
    assert "model.int8.onnx" in done.stdout
    done = paste(next_command(done.stderr), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {Path(one["path"]).parent for one in report["models"]} == {Path("max/it's")}
    limits = {
        check["limit"]
        for one in report["models"]
        for check in one["checks"]
        if check["name"] == "accuracy lost by int8"
    }
    assert limits == {0.3}


def test_what_a_hint_repeats() -> None:
    assert carry_options(data_dir=None, offline=False, quantize=None) == ""
    carried = carry_options(max_accuracy_lost=0.01, data_dir=Path("my data"), offline=True)
    assert carried == " --max-accuracy-lost 0.01 --data-dir 'my data' --offline"


def test_paths_on_a_command_line() -> None:
    for path, word in (
        ("runs/a", "runs/a"),
        ("-x", "./-x"),
        ("nano/model.onnx", "./nano/model.onnx"),
    ):
        assert shell_path(path) == word
        assert locate(shell_path(path)) == Path(path)
    assert shell_path("a b") == "'a b'"


def test_quickstart_without_mnist(edge_mnist: Command, tmp_path: Path) -> None:
    done = edge_mnist("quickstart", "--offline", env={"EDGE_MNIST_DATA": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT with MNIST" in done.stderr
    assert "quickstart/drawn-7.png reads 7" in done.stdout
    made = {path.name for path in (tmp_path / "quickstart").iterdir()}
    assert made == {"run", "exports", "predictions.png", "drawn-7.png"}
