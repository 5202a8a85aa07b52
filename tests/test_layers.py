"""data < rewards < stages < pipeline: who may import whom, and that nobody imports torch at the top."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("data", "rewards", "stages", "pipeline")
HEAVY = ("torch", "transformers", "trl", "datasets", "peft", "accelerate", "vllm", "deepspeed")


def modules() -> list[Path]:
    return [file for layer in LAYERS for file in sorted((ROOT / layer).rglob("*.py"))]


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of everything imported anywhere below `tree`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            found.add((node.module or "").partition(".")[0])
    return found


def test_there_is_something_to_look_at() -> None:
    assert len(modules()) > 40
    assert imported(ast.parse("def f():\n    from torch.nn import x\nimport stages.stage")) == {"torch", "stages"}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_module_imports_only_its_own_layer_and_those_below(layer: str) -> None:
    above = set(LAYERS[LAYERS.index(layer) + 1 :]) | {"tests", "benchmarks", "configs", "launch"}
    breaches = {
        str(file.relative_to(ROOT)): wrong
        for file in modules()
        if file.relative_to(ROOT).parts[0] == layer
        and (wrong := imported(ast.parse(file.read_text(encoding="utf-8"))) & above)
    }
    assert not breaches


def test_data_artifact_needs_the_standard_library_only() -> None:
    tree = ast.parse((ROOT / "data" / "artifact.py").read_text())
    assert imported(tree) <= set(sys.stdlib_module_names)


def test_importing_data_rewards_pipeline_and_the_stages_imports_nothing_heavy() -> None:
    """Every module but the stages' engine rooms, all in one process."""
    names = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in modules()
        if file.name != "__main__.py" and not file.is_relative_to(ROOT / "stages" / "training")
    ]
    names = [name for name in names if not name.startswith("stages.rollout.") or name.endswith(".options")]
    assert len(names) > 30
    code = (
        "import importlib, json, sys\nheavy = {}\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    if found: heavy[name] = found; break\n"
        "print(json.dumps(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "{}"
