"""The one-way arrows between the stations, and what may not be imported early."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "smallvit"
HEAVY = ("torch", "numpy", "rich", "pyarrow", "matplotlib", "PIL", "huggingface_hub", "safetensors", "jinja2")
QUICK = ["smallvit", "smallvit.cli", "smallvit.config", "smallvit.recipes"]
QUICK += sorted(f"smallvit.{path.parent.name}.config" for path in PACKAGE.glob("*/config.py"))


def test_a_broken_arrow_would_be_found(tmp_path: Path) -> None:
    """The contract itself, on a copy in which a station imports the run."""
    source = tmp_path / "src" / "smallvit"
    for path in PACKAGE.rglob("*.py"):
        copy = source / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    with (source / "train" / "loop.py").open("a") as file:
        file.write("\nimport smallvit.run\n")
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "smallvit.train.loop -> smallvit.run" in done.stdout


def test_what_the_command_line_needs_to_parse_imports_nothing_heavy() -> None:
    code = f"import sys, {', '.join(QUICK)}; print(*(heavy for heavy in {HEAVY} if heavy in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_there_is_no_drawer_for_leftovers() -> None:
    names = {path.stem for path in PACKAGE.rglob("*")}
    assert not names & {"utils", "common", "helpers", "misc"}
    assert QUICK[4:]
