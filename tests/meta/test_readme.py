"""What the README says can be typed, can be typed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from torch import nn
from transformers import PreTrainedModel

from prune_cli.verbs import app
from prune_core import compact, save_compact
from prune_core.testing.sample_masks import unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model
from tests.meta.tree import ROOT

PACKAGE_READMES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "packages").glob("**/README.md"))
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *PAGES, *PACKAGE_READMES]


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


README = text_of("README.md")

with_python = pytest.mark.parametrize("document", ["README.md", "packages/core/README.md"])


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def block_with(part: str, document: str) -> str:
    (found,) = [block for block in blocks("python", text_of(document)) if part in block]
    return found


def commands(text: str) -> list[list[str]]:
    """Every line of a bash block that calls prune, as its words."""
    lines = [line for block in blocks("bash", text) for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [found[1:] for found in words if found[:1] == ["prune"]]


def narrowed(model: PreTrainedModel) -> PreTrainedModel:
    return compact(model, unit_masks(model, lambda unit: (0, 2))).model


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str) -> None:
    text = text_of(document)
    targets = set(re.findall(r"^([a-z0-9-]+):", text_of("Makefile"), flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z0-9-]+)", text)) | set(
        re.findall(r"^make ([a-z0-9-]+)", text, flags=re.MULTILINE)
    )
    assert named <= targets


def test_the_first_screen_names_the_two_commands() -> None:
    first = "\n".join(README.splitlines()[:20])
    assert "make demo" in first
    assert "make test" in first


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text_of(document)):
        there = (ROOT / document).parent / target
        assert target.startswith("https://") or there.exists(), f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_verbs_and_flags_exist(document: str) -> None:
    verbs: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for verb, *arguments in commands(text_of(document)):
        known = {name for option in verbs[verb].params for name in option.opts}
        used = {argument for argument in arguments if argument.startswith("--")}
        assert used <= known, f"prune {verb} has no {used - known}"


@with_python
def test_the_training_loop_runs_as_written(document: str) -> None:
    model = tiny_model("bert", hidden_size=64, heads=2)
    before = tuple(parameter.numel() for parameter in model.parameters())
    names: dict[str, Any] = {"model": model, "batches": [tiny_inputs(model, seed=seed) for seed in range(12)]}
    exec(block_with("pruning.step()", document), names)
    assert names["masks"].density() < 1
    smaller = names["smaller"]
    assert sum(parameter.numel() for parameter in smaller.parameters()) < sum(before)
    assert not any(type(module) is not nn.Linear and isinstance(module, nn.Linear) for module in model.modules())


@with_python
def test_a_model_loads_as_written(document: str, tmp_path: Path) -> None:
    """In a process of its own, from the folder that the README names."""
    smaller = narrowed(tiny_model("vit"))
    smaller.save_pretrained(tmp_path / "runs" / "demo" / "model")
    check = "\nprint(sum(parameter.numel() for parameter in model.parameters()))"
    code = block_with("from_pretrained", document) + check
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(parameter.numel() for parameter in smaller.parameters())


@with_python
def test_a_folder_is_written_as_said(document: str, tmp_path: Path) -> None:
    assert 'save_compact(compact(model, masks), "my-model", tokenizer)' in text_of(document)
    model = tiny_model("bert")
    save_compact(compact(model, unit_masks(model, lambda unit: (0, 2))), tmp_path / "my-model")
    again = type(model).from_pretrained(tmp_path / "my-model")
    assert sum(parameter.numel() for parameter in again.parameters()) < sum(p.numel() for p in model.parameters())


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, "a generated page, or the README's table, is not what it is made of says: make docs"


def test_every_recipe_is_valid() -> None:
    from prune_core.recipe import Recipe

    for path in (ROOT / "recipes").rglob("*.yaml"):
        Recipe.load(path)
    for block in blocks("yaml", text_of("docs/recipes.md") + text_of("docs/guide.md")):
        import yaml

        Recipe.parse(yaml.safe_load(block))


def test_the_examples_of_tasks_are_valid() -> None:
    """Fields, roles and names, and a section for every task that is no benchmark's."""
    import yaml

    from prune_core.plugins import import_target, load_plugins
    from prune_core.recipe import Recipe
    from prune_core.runs.configuring import task_config_class
    from prune_core.tasks.data import check_roles

    plugins = load_plugins()
    examples = [yaml.safe_load(block) for block in blocks("yaml", text_of("docs/tasks.md"))]
    for example in examples:
        section = Recipe.parse(example).task
        assert section.name is not None
        task_config_class(section.name, plugins).model_validate(section.model_dump())
        check_roles(section.columns, import_target(plugins.task(section.name).target).roles)
    specs = [plugins.task(name) for name in plugins.names("tasks")]
    own = {spec.name for spec in specs if "dataset" not in spec.defaults.get("task", {})}
    assert {example["task"]["name"] for example in examples} == own
