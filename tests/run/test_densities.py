"""One run through several densities: a compact model at each, and a kill that costs none of them."""

import json
import shutil
from pathlib import Path

import pytest

from prune_core.errors import RecipeError, RunError, StructureError
from prune_core.folders.pretrained import load_saved
from prune_core.masks import MaskSet
from prune_core.measure import Ratio
from prune_core.runs.densities import report
from prune_core.runs.run import check, run
from prune_core.runs.verifying import verify_run
from prune_core.runs.workspace import Workspace

DENSITIES = [0.8, 0.5]
SHORT = {"max_steps": 12, "save_steps": 2}
NO_DENSITY = {"density": None}


@pytest.fixture(scope="module")
def through(recipe, tmp_path_factory):
    """Folder and manifest of such a run, not to be changed."""
    folder = tmp_path_factory.mktemp("through") / "run"
    mine = recipe(folder, strategy="hybrid", options=NO_DENSITY, densities=DENSITIES, training=SHORT)
    return folder, run(mine)


def test_a_run_at_each_density(through):
    folder, manifest = through
    assert [one["density"]["asked"] for one in manifest["members"]] == DENSITIES
    for density, one in zip(DENSITIES, manifest["members"], strict=True):
        own = folder / f"density-{density:g}"
        assert one["model"] == str(own / "model")
        assert one["density"]["reached"] == pytest.approx(density, abs=0.07)
        assert one["density"]["reached"] <= density
        assert one["verification"]["passed"]
        assert verify_run(own).passed
        assert load_saved(one["model"])
        steps = [json.loads(line) for line in (own / "metrics.jsonl").read_text().splitlines()]
        assert max(line["step"] for line in steps if line["stage"] == "prune") == 6, "twelve steps in all"
    assert json.loads((folder / "manifest.json").read_text()) == json.loads(json.dumps(manifest, default=str))


def test_each_lies_within_the_one_before(through):
    folder, _ = through
    larger, smaller = (MaskSet.load(folder / f"density-{density:g}" / "masks.safetensors") for density in DENSITIES)
    assert larger.keys() == smaller.keys()
    assert not any((smaller[name].expand() & ~larger[name].expand()).any() for name in larger)


def test_all_have_the_dense_model_as_their_teacher_and_to_compare_with(through, inputs):
    folder, manifest = through
    dense = inputs["bert"]["model"]
    members = [json.loads((folder / f"density-{density:g}" / "manifest.json").read_text()) for density in DENSITIES]
    assert {one["teacher"] for one in members} == {dense}
    assert len({json.dumps(one["metrics"]["dense"]) for one in members}) == 1
    assert len({one["speedup"]["baseline"]["parameters"] for one in members}) == 1
    rows = manifest["summary"]
    assert [row["density"].split()[0] for row in rows] == ["1", *(f"{m['density']['reached']:.3f}" for m in members)]
    assert [row["accuracy"] for row in rows[1:]] == [f"{one['metric']['pruned']:.4f}" for one in members]
    speedups = [str(Ratio.from_dict(one["speedup"])) for one in members]
    assert [row["speed-up"] for row in rows[1:]] == speedups
    own = [{row["figure"]: row["pruned"] for row in one["summary"]} for one in members]
    assert [one["speed-up"] for one in own] == speedups


def test_a_strategy_that_says_no_density_is_reported_too(through):
    folder, _ = through
    members = [json.loads((folder / f"density-{density:g}" / "manifest.json").read_text()) for density in DENSITIES]
    untold = [one | {"density": one["density"] | {"asked": None}} for one in members]
    rows = report(folder, untold)["summary"]
    assert [row["density"] for row in rows[1:]] == [f"{one['density']['reached']:.3f}" for one in members]


def test_killed_in_the_second_density(through, recipe, children, same_result, tmp_path):
    expected, _ = through
    folder = tmp_path / "run"
    mine = recipe(folder, strategy="hybrid", options=NO_DENSITY, densities=DENSITIES, training=SHORT)
    kill = (
        "import prune_core.training.checkpoints as checkpoints\n"
        "original = checkpoints.rotate\n"
        "def rotate(folder, *others):\n"
        "    original(folder, *others)\n"
        "    if 'density-0.5' in str(folder) and (folder / 'checkpoint-4').is_dir():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoints.rotate = rotate"
    )
    code, error = children.finish(mine, before=kill)
    assert code == -9, error
    first = (folder / "density-0.8" / "manifest.json").stat().st_mtime_ns
    assert not (folder / "manifest.json").exists()
    code, error = children.finish(mine, resume=True)
    assert (code, error) == (0, "")
    assert (folder / "density-0.8" / "manifest.json").stat().st_mtime_ns == first
    for density in DENSITIES:
        assert same_result(folder / f"density-{density:g}", expected / f"density-{density:g}")


def test_it_goes_on_where_it_was_moved_to(through, same_result, tmp_path):
    """The second density's masks lie within the first's, which have moved along."""
    moved = Path(shutil.copytree(through[0], tmp_path / "moved"))
    for folder in (moved, moved / "density-0.5"):
        (folder / "manifest.json").unlink()
    hidden = through[0].rename(through[0].with_name("hidden"))
    try:
        run(Workspace(moved).read_recipe(), resume=True)
    finally:
        hidden.rename(through[0])
    assert same_result(moved / "density-0.5", through[0] / "density-0.5")


def test_lessons_are_made_once_for_all(recipe, monkeypatch, tmp_path):
    import prune_core.distillation.lessons as lessons

    original, made = lessons.save_file, []
    monkeypatch.setattr(lessons, "save_file", lambda parts, path: (made.append(path), original(parts, path)))
    mine = recipe(tmp_path / "run", options=NO_DENSITY, densities=DENSITIES, distillation={"cache": True})
    run(mine)
    assert len(made) == 1
    assert not list(tmp_path.rglob("teacher"))


class TestRefusals:
    def test_densities_that_rise(self, recipe, tmp_path):
        with pytest.raises(RecipeError, match=r"densities must fall, found \[0.3, 0.5\]"):
            recipe(tmp_path, options=NO_DENSITY, densities=[0.3, 0.5])

    def test_a_density_beside_them(self, recipe, tmp_path):
        with pytest.raises(RecipeError, match=r"give strategy\.density or several densities, not both"):
            recipe(tmp_path, densities=[0.5, 0.3])

    def test_one_that_cannot_be_reached_before_anything_is_trained(self, recipe, tmp_path):
        options = {**NO_DENSITY, "exclude": ["*.ffn"]}
        for attempt in (run, check):
            with pytest.raises(StructureError, match=r"density 0\.1 cannot be reached"):
                attempt(recipe(tmp_path / "run", options=options, densities=[0.8, 0.1]))
        assert not (tmp_path / "run" / "recipe.yaml").exists()

    def test_verifying_the_whole(self, through):
        with pytest.raises(RunError, match=r"a run at each of several densities: verify density-0\.5, density-0\.8"):
            verify_run(through[0])


def test_its_members_go_when_it_is_overwritten(recipe, tmp_path):
    quick = {"max_steps": 2, "save_steps": 10}
    mine = recipe(tmp_path / "run", options=NO_DENSITY, densities=DENSITIES, training=quick)
    run(mine)
    other = recipe(tmp_path / "run", training=quick)
    run(other, overwrite=True)
    assert not list((tmp_path / "run").glob("density-*"))
