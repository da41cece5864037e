"""A run that trains its compact model for int8 in the end."""

import json

import pytest

from prune_core.errors import RecipeError
from prune_core.runs.run import check, run
from prune_core.runs.verifying import verify_run

pytest.importorskip("torchao")
FOR_INT8 = {"bits": 8, "max_steps": 4}


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantize") / "run"
    return folder, run(recipe(folder, strategy="hybrid", quantize=FOR_INT8))


def test_figures_in_int8_stand_beside_the_others(trained):
    folder, manifest = trained
    assert manifest["metrics"]["int8"].keys() == manifest["metrics"]["pruned"].keys()
    row = manifest["summary"][1]
    assert (row["figure"], row["pruned"]) == ("accuracy in int8", f"{manifest['metrics']['int8']['accuracy']:.4f}")
    assert verify_run(folder).passed
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"prune", "fill", "quantize"}
    assert max(line["step"] for line in lines if line["stage"] == "quantize") == 4


def test_it_trains_the_weights_and_leaves_the_masks(trained, finished, weights):
    folder, _ = trained
    before, _ = finished("bert", "hybrid")
    one, other = weights(before / "masks.safetensors"), weights(folder / "masks.safetensors")
    assert all((one[name] == other[name]).all() for name in one)
    one, other = weights(before / "model"), weights(folder / "model")
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}
    assert any((one[name] != other[name]).any() for name in one)


def test_killed_in_the_middle_of_it(trained, recipe, children, same_result, tmp_path):
    expected, _ = trained
    kill = (
        "import prune_core.rewriting.quantization as quantization\n"
        "original, calls = quantization.RoundedLinear.forward, []\n"
        "def forward(self, input):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 40:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, input)\n"
        "quantization.RoundedLinear.forward = forward"
    )
    mine = recipe(tmp_path / "run", strategy="hybrid", quantize=FOR_INT8)
    code, error = children.finish(mine, before=kill)
    assert code == -9, error
    assert list((tmp_path / "run" / "checkpoints").glob("quantize/checkpoint-3"))
    code, error = children.finish(mine, resume=True)
    assert (code, error) == (0, "")
    assert same_result(tmp_path / "run", expected)


def test_without_a_fill_the_proof_is_of_before_this_training(trained, recipe, tmp_path):
    manifest = run(recipe(tmp_path / "run", training={"max_steps": 2}, quantize=FOR_INT8 | {"max_steps": 1}))
    assert manifest["filled"], "its weights are not the masked model's"
    assert manifest["summary"][-2]["figure"] == "masked = compact (before the training for int8)"
    assert trained[1]["summary"][-2]["figure"] == "masked = compact (before the fill)"


def test_sparse_strategies_refuse_it(recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"quantize: block leaves zeros out on disk, .*leave quantize out"):
        check(recipe(tmp_path / "run", strategy="block", quantize=FOR_INT8))


def test_other_bits_are_refused(recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"quantize\.bits: Input should be 8"):
        recipe(tmp_path / "run", quantize={"bits": 4})
