"""One run through several densities, each from the last one's masked model, that leaves a compact model at each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prune_core.measure import Ratio
from prune_core.recipe import DepthSection, Recipe
from prune_core.runs.places import absolute_path
from prune_core.runs.preparation import Job
from prune_core.runs.workspace import Workspace


def lowest(recipe: Recipe) -> Recipe:
    """The recipe at its last density: what its run can be refused for shows there, before anything is trained."""
    if not recipe.densities:
        return recipe
    strategy = recipe.strategy.model_copy(update={"density": recipe.densities[-1]})
    return recipe.model_copy(update={"strategy": strategy})


def members(job: Job, folder: Path) -> list[Recipe]:
    """The recipe of each density's own run, in `folder`: together they train as long as the whole recipe says.

    Each goes on from the masked model of the one before, whose pruned parts stay pruned. All have the same teacher, and
    are compared with the model that the first one starts from.
    """
    recipe, found = job.recipe, list[Recipe]()
    for density in recipe.densities:
        before = Workspace(Path(str(found[-1].output))) if found else None
        strategy = {"density": density, **({"within": str(before.folder)} if before else {})}
        changes = {
            "densities": (),
            "model": str(before.masked) if before else job.model_path,
            "depth": DepthSection() if before else recipe.depth,  # the masked model has lost its layers already
            "teacher": job.model_path if job.teacher == "self" else job.teacher,
            "strategy": recipe.strategy.model_copy(update=strategy),
            "training": _share(recipe),
            "measure": recipe.measure.model_copy(update={"baseline": recipe.measure.baseline or job.model_path}),
            "output": absolute_path(folder / f"density-{density:g}"),
        }
        found.append(recipe.model_copy(update=changes))
    return found


def report(folder: Path, manifests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The manifest of the whole: what its members report, and a table with a row for each."""
    first = manifests[0]
    shared = (
        "strategy",
        "seed",
        "teacher",
        "filled",
        "versions",
        "datasets",
        "machine",
        "git",
        "needs_prune_core",
        "portable",
    )
    return {
        "output": str(folder),
        **{name: first[name] for name in shared},
        "members": [
            {"model": str(Path(one["output"]) / "model")}
            | {name: one[name] for name in ("density", "metric", "metrics", "verification", "speedup", "sha256")}
            for one in manifests
        ],
        "summary": [_dense(first), *(_row(one) for one in manifests)],
        "seconds": round(sum(one["seconds"] for one in manifests), 1),
    }


def _share(recipe: Recipe) -> Any:
    """The training of one member."""
    section, count = recipe.training, len(recipe.densities)
    steps = math.ceil(section.max_steps / count) if section.max_steps else None
    return section.model_copy(update={"epochs": section.epochs / count, "max_steps": steps})


def _dense(manifest: dict[str, Any]) -> dict[str, str]:
    metric, baseline = manifest["metric"], manifest["speedup"]["baseline"]
    value = "-" if metric["dense"] is None else f"{metric['dense']:.4f}"
    return {
        "density": "1 (dense)",
        metric["name"]: value,
        "parameters": f"{baseline['parameters']:,}",
        "speed-up": "1",
        "model": "",
    }


def _row(manifest: dict[str, Any]) -> dict[str, str]:
    metric, density, speedup = manifest["metric"], manifest["density"], manifest["speedup"]
    asked = "" if density["asked"] is None else f" (asked {density['asked']:g})"
    return {
        "density": f"{density['reached']:.3f}{asked}",
        metric["name"]: f"{metric['pruned']:.4f}",
        "parameters": f"{speedup['model']['parameters']:,}",
        "speed-up": str(Ratio.from_dict(speedup)),
        "model": f"{Path(manifest['output']).name}/model",
    }
