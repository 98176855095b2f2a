"""The tree is the architecture: imports go one way. The table mirrors ARCHITECTURE.md."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "headrace"

BASE = {"types", "errors"}
HOST = BASE | {"config", "observability", "checkpoint"}
DEVICE = BASE | {"config", "checkpoint", "kernels", "weights"}
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "config": {"errors"},
    "observability": BASE | {"config"},
    "checkpoint": {"errors", "config"},
    "engine": BASE | {"observability"},
    "text": HOST,
    "api": HOST | {"text"},
    "kernels": {"errors"},
    "weights": {"errors", "checkpoint"},
    "distributed": {"kernels", "weights"},
    "quantization": DEVICE,
    "attention": BASE | {"kernels"},
    "layers": DEVICE | {"quantization", "attention", "distributed"},
    "models": DEVICE | {"quantization", "attention", "distributed", "layers"},
    "runner": DEVICE | {"quantization", "attention", "distributed", "layers", "models"},
    "calibration": DEVICE | {"quantization", "attention", "distributed", "layers", "models"},
    "bench": set(),
    "serve": HOST
    | DEVICE
    | {"engine", "text", "api", "distributed", "models", "runner", "calibration"},
    "cli": {"serve", "bench", "config", "errors", "checkpoint", "observability"},
    "__main__": {"cli"},
    "__init__": set(),
}
WITHOUT_TORCH = {"types", "errors", "config", "observability", "checkpoint", "engine", "text",
                 "api", "bench", "cli"}  # fmt: skip
TORCH_IN_SERVE = {"engine_process", "ranks", "rank_process"}
HEAVY = {"torch", "transformers"}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Absolute names of all imported modules, wherever in the file they stand."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module == "headrace":
                for alias in node.names:
                    yield f"headrace.{alias.name}", node
            else:
                yield node.module, node


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    package = package_of(path)
    assert package in ALLOWED, f"{package}: give the new package a line in ALLOWED and the docs"
    for name, node in imports(path):
        parts = name.split(".")
        if parts[0] == "headrace" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] == package or parts[1] in ALLOWED[package], (
                f"{path}:{node.lineno} {package} must not import {name}"  # type: ignore[attr-defined]
            )


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_host_side_never_imports_torch(path: Path) -> None:
    package = package_of(path)
    free = package in WITHOUT_TORCH or (package == "serve" and path.stem not in TORCH_IN_SERVE)
    if free:
        assert not {name.split(".")[0] for name, _ in imports(path)} & HEAVY


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_environment_is_read_only_in_config(path: Path) -> None:
    if path.parent == SOURCE / "config":
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("os", "environ"), ("os", "getenv")}, (
                f"{path}:{node.lineno} reads the environment"
            )


def test_no_import_cycle() -> None:
    """Between modules, counting top-level imports only."""
    graph: dict[str, set[str]] = {}
    for path in modules():
        name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        name = name.removesuffix(".__init__")
        edges = graph.setdefault(name, set())
        for node in tree(path).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("headrace"):
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    edges.add(full if _is_module(full) else str(node.module))
    order: list[str] = []
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != 1, f"import cycle: {' -> '.join((*trail, name))}"
        if state.get(name) == 2 or name not in graph:
            return
        state[name] = 1
        for target in sorted(graph[name] - {name}):
            visit(target, (*trail, name))
        state[name] = 2
        order.append(name)

    for name in graph:
        visit(name, ())


def _is_module(name: str) -> bool:
    path = SOURCE.parent / Path(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()
