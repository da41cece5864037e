"""Six distributions: versions move together, dependencies are declared and pinned, licences are in place."""

import sys
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import prune_core
from tests.meta.tree import PACKAGES, ROOT, modules, projects

INSTALLED = packages_distributions()


def lines(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]


def owners(top: str) -> set[str]:
    """Distributions that install the module `top`; an editable one does not list its modules."""
    if top in PACKAGES:
        return {projects()[top]["name"]}
    return {canonicalize_name(name) for name in INSTALLED.get(top, ())}


PINS = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines("constraints.txt"))}
OURS = {"prune-core", "prune-cli", "prune-block", "prune-hybrid", "prune-structured", "prune-unstructured"}
EXTRAS = {
    "prune_core.testing": "testing",
    "prune_core.rewriting.quantization": "quantization",
    "prune_core.tasks.text_metrics": "generation",
    "prune_core.exporting.onnx": "onnx",
    "prune_core.exporting.openvino": "openvino",
}

every_package = pytest.mark.parametrize("package", PACKAGES)


def requirements(package: str, *extras: str) -> list[Requirement]:
    project = projects()[package]
    optional = project.get("optional-dependencies", {})
    return [Requirement(text) for text in (*project["dependencies"], *(one for e in extras for one in optional[e]))]


def test_there_are_six() -> None:
    assert {project["name"] for project in projects().values()} == OURS


def test_versions_move_together() -> None:
    versions = {project["version"] for project in projects().values()}
    assert versions == {prune_core.__version__}
    assert f"## {prune_core.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@every_package
def test_siblings_accept_each_other(package: str) -> None:
    for requirement in requirements(package):
        if requirement.name in OURS:
            assert requirement.name == "prune-core", f"{package} depends on {requirement.name}"
            assert Version(prune_core.__version__) in requirement.specifier


@every_package
def test_every_import_is_declared(package: str) -> None:
    own = canonicalize_name(projects()[package]["name"])
    for module in modules():
        if module.package != package:
            continue
        extras = [extra for prefix, extra in EXTRAS.items() if module.name.startswith(prefix)]
        declared = {own, *(canonicalize_name(requirement.name) for requirement in requirements(package, *extras))}
        for found in module.imports():
            top = found.name.partition(".")[0]
            known = top in sys.stdlib_module_names or owners(top) & declared
            assert known or found.typing, (
                f"{module.path}:{found.line} imports {found.name}, which {own} does not declare"
            )


@every_package
def test_every_declared_dependency_is_used(package: str) -> None:
    unimported = {"accelerate", "pillow"}  # the Trainer and the image processors need them
    tops = {
        found.name.partition(".")[0] for module in modules() if module.package == package for found in module.imports()
    }
    used = unimported.union(*map(owners, tops))
    unused = {canonicalize_name(requirement.name) for requirement in requirements(package)} - used
    assert not unused, f"{package} declares {unused} and imports none of it"


@every_package
def test_every_dependency_is_pinned_within_its_range(package: str) -> None:
    for requirement in requirements(package, *projects()[package].get("optional-dependencies", {})):
        if not requirement.name.startswith("prune-"):
            assert canonicalize_name(requirement.name) in PINS, f"constraints.txt does not pin {requirement.name}"
            assert PINS[canonicalize_name(requirement.name)] in requirement.specifier, (
                f"{requirement} excludes the version we test"
            )


def test_development_tools_are_pinned() -> None:
    assert {canonicalize_name(line) for line in lines("requirements-dev.txt")} <= PINS.keys()


@every_package
def test_every_package_is_licensed_typed_and_described(package: str) -> None:
    folder = PACKAGES[package].parents[1]
    project = projects()[package]
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert project["license"] == "Apache-2.0"
    assert f"pip install {project['name']}" in (folder / "README.md").read_text()
    assert (folder / project["readme"]).is_file()
