"""Bad input: one line on stderr, an exit code, no traceback, and nothing heavy imported to say so."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prune_cli import exit_codes
from prune_cli.exit_codes import exit_code
from prune_core import errors
from prune_core.recipe import Recipe
from prune_core.runs.places import absolute

RECIPE, PLUGIN, DATA, USAGE = 3, 4, 8, 2


def _one_line(result, code: int, *parts: str) -> None:
    assert result.code == code, result.err
    assert len(result.errors) == 1, result.err
    assert result.err.startswith("prune: error: ")
    for part in parts:
        assert part in result.err
    assert result.out == ""


def test_unknown_strategy_names_what_is_near_and_what_is_installed(prune: Callable, sample: Path) -> None:
    _one_line(prune("run", "--strategy", "smaple"), PLUGIN, "'smaple'", "did you mean 'sample'", "installed: ")


def test_unknown_strategy_through_the_console_script(script: Callable) -> None:
    result = script("run", "--strategy", "no-such-strategy")
    _one_line(result, PLUGIN, "unknown strategy 'no-such-strategy'")


def test_no_strategy_installed_says_how_to_get_one(prune: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNE_DISABLE", "prune-unstructured,prune-block,prune-hybrid,prune-structured")
    _one_line(prune("run", "--strategy", "hybrid"), PLUGIN, "pip install")


def test_all_wrong_fields_at_once(prune: Callable, sample: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "modle: x\ntraining: {epoch: 3, batch_size: 0}\nstrategy: {name: sample, density: 1.5, stpes: 1, steps: 2}\n"
    )
    result = prune("run", recipe)
    assert result.code == RECIPE
    assert len(result.errors) == 5
    assert all(line.startswith(f"prune: error: {recipe}: ") for line in result.errors)
    for part in (
        "modle: unknown field; did you mean 'model'",
        "training.epoch: unknown field; did you mean 'epochs'",
        "training.batch_size: ",
        "strategy.density: ",
        "strategy.stpes: unknown field; did you mean 'steps'",
    ):
        assert part in result.err


def test_wrong_strategy_field_alone(prune: Callable, sample: Path) -> None:
    result = prune("run", "--strategy", "sample", "--density", "1.5", "--set", "strategy.steps=1")
    _one_line(result, RECIPE, "flags: strategy.density: ", "found 1.5")


def test_wrong_recipe_and_unknown_strategy_are_both_said(prune: Callable, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("strategy: nothing-of-the-kind\ndevice: tpu\n")
    result = prune("run", recipe)
    assert result.code == RECIPE
    assert len(result.errors) == 2
    assert "device: " in result.err
    assert "unknown strategy 'nothing-of-the-kind'" in result.err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1", "is not YAML"),
        ("- 1\n- 2\n", "a recipe is a mapping"),
        ("just words", "a recipe is a mapping"),
        ("strategy: 3\n", "strategy: "),
        ("training:\n", "training: "),
        ("\x00", "is not YAML"),
        ("", "is empty"),
        ("# nothing yet\n---\n", "is empty"),
        ("[]", "a recipe is a mapping"),
    ],
)
def test_recipes_that_are_none(text: str, part: str, prune: Callable, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    _one_line(prune("run", recipe), RECIPE, str(recipe), part)


def test_missing_recipe(prune: Callable, tmp_path: Path) -> None:
    _one_line(prune("run", tmp_path / "no.yaml"), RECIPE, "no recipe at", "no.yaml")


def test_folder_without_recipe(prune: Callable, tmp_path: Path) -> None:
    _one_line(prune("run", tmp_path), RECIPE, "no recipe at", "recipe.yaml")


@pytest.mark.parametrize("flag", ["--train-file", "--validation-file"])
def test_missing_data_file(flag: str, prune: Callable, tmp_path: Path) -> None:
    result = prune("run", flag, tmp_path / "no.csv")
    _one_line(result, DATA, f"task.{flag[2:].replace('-', '_')}", "no.csv")


@pytest.mark.parametrize("verb", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("flags", "missing", "given"),
    [
        (["--train-file", "{file}"], "model (--model) and task.name (--task) missing", "task.train_file"),
        (["--dataset", "glue"], "model (--model) and task.name (--task) missing", "task.dataset"),
        (["--column", "text=a"], "model (--model) and task.name (--task) missing", "task.columns"),
        (["--model", "m", "--train-file", "{file}"], "task.name (--task) missing", "model"),
        (["--task", "text-classification"], "model (--model) missing", "task.name"),
    ],
)
def test_data_without_model_or_task_are_not_the_demonstration(
    flags: list[str], missing: str, given: str, verb: tuple[str, ...], prune: Callable, sample: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").touch()
    flags = [flag.format(file=tmp_path / "t.csv") for flag in flags]
    result = prune("run", "--strategy", "sample", "--set", "strategy.steps=1", *flags, *verb)
    _one_line(result, RECIPE, missing, f"beside {given};", "demonstration on digits")


def test_hub_dataset_and_files(prune: Callable, tmp_path: Path) -> None:
    result = prune("run", "--dataset", "nyu-mll/glue", "--train-file", tmp_path / "a.csv")
    _one_line(result, RECIPE, "task: name a hub dataset or local files, not both")


@pytest.mark.parametrize(
    ("flags", "kind", "near"),
    [
        (["--task", "text-clasification"], "task", "text-classification"),
        (["--compactor", "dens"], "compactor", "dense"),
    ],
)
def test_unknown_names(flags: list[str], kind: str, near: str, prune: Callable) -> None:
    _one_line(prune("run", *flags), PLUGIN, f"unknown {kind}", f"'{near}'")


def test_unknown_names_of_other_verbs(prune: Callable, tmp_path: Path) -> None:
    _one_line(prune("strategies", "hybird"), PLUGIN, "unknown strategy 'hybird'")
    _one_line(prune("evaluate", "m", "--task", "image-clasification"), PLUGIN, "unknown task")
    result = prune("compact", "m", "masks", "--output", tmp_path / "o", "--compactor", "dens")
    _one_line(result, PLUGIN, "unknown compactor")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run", "--desnity", "0.3"], "--density"),
        (["run", "--epochs", "many"], "--epochs"),
        (["run", "--device", "tpu"], "'cpu'"),
        (["run", "--set", "foo"], "path=value"),
        (["run", "--set", "=3"], "path=value"),
        (["run", "--set", "a..b=3"], "path=value"),
        (["run", "--set", "strategy.exclude=[*"], "not YAML"),
        (["run", "--column", "text"], "role=name"),
        (["run", "--column", "=sentence"], "role=name"),
        (["run", "--column", "text="], "role=name"),
        (["run", "--resume"], "prune run runs/first --resume"),
        (["run", "x.yaml", "--resume", "--overwrite"], "choose one"),
        (["run", "a.yaml", "b.yaml"], "b.yaml"),
        (["bench", "model"], "--baseline"),
        (["bench", "--baseline", "model"], "MODEL"),
        (["bench", "model", "--networks", "n.json"], "leave MODEL"),
        (["compact", "model"], "--output"),
        (["verify"], "RUN"),
        (["rnu"], "'run'"),
    ],
)
def test_wrong_command_lines(arguments: list[str], part: str, prune: Callable) -> None:
    result = prune(*arguments)
    _one_line(result, USAGE, part, "--help")


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("trianing.epochs=3", "trianing: unknown field; did you mean 'training'"),
        ("training.epoch=3", "training.epoch: unknown field; did you mean 'epochs'"),
        ("training=3", "training: "),
        ("training.epochs.first=3", "training.epochs: "),
        ("seed.deeper=1", "seed: unknown field"),
        ("measure.rounds=1", "measure.rounds: "),
        ("training.max_steps=soon", "found 'soon'"),
        ("device=tpu", "device: "),
        ("training.seed=4294967296", "training.seed: "),
        ("training.epochs=.inf", "training.epochs: "),
        ("training.learning_rate=.inf", "training.learning_rate: "),
        ("training.batch_size=true", "training.batch_size: a number was expected, found True"),
        ("strategy.threshold=.nan", "strategy.threshold: "),
        ("strategy.density=true", "strategy.density: a number was expected, found True"),
        ("training.report_to=wandb", "training.report_to: a list was expected, such as [wandb], found 'wandb'"),
        ("simplify.share=0.3", "simplify: share alone blends nothing in: give relu or no_norm as well"),
        ("quantize.max_steps=5", "quantize: nothing is trained for int8, so max_steps would do nothing: give bits: 8"),
        ("quantize={bits: 8, epochs: 0}", "quantize.epochs: Input should be greater than 0"),
        ("densities=[0.3,0.5]", "recipe: densities must fall, found [0.3, 0.5]\n"),
        ("teacher=Self", "teacher: did you mean 'self'?"),
        ("teacher=''", "teacher: self, none, auto or a model was expected"),
    ],
)
def test_wrong_settings(setting: str, part: str, prune: Callable) -> None:
    _one_line(prune("run", "--set", setting), RECIPE, "flags: ", part)


def test_a_setting_below_a_value(prune: Callable, tmp_path: Path) -> None:
    result = prune("run", "--model", "my-bert", "--set", "model.name=other")
    _one_line(result, RECIPE, "model.name: model is 'my-bert'")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--rounds", "1"], ["rounds: ", "found 1"]),
        (["--batch-sizes", "1,many"], ["batch_sizes.1: ", "found 'many'"]),
        (["--attention", "eagre"], ["attention.0: ", "eager", "found 'eagre'"]),
        (["--dtypes", "int8"], ["dtypes.0: ", "bfloat16", "found 'int8'"]),
        (["--lengths", "8", "--lengths-of", "sst2"], ["not both"]),
        (["--runtimes", "cuda-graphs", "--new-tokens", "4"], ["of one shape"]),
    ],
)
def test_bench_settings_are_checked_before_anything_is_read(
    flags: list[str], parts: list[str], prune: Callable
) -> None:
    _one_line(prune("bench", "m", "--baseline", "d", *flags), RECIPE, "flags: ", *parts)


def test_evaluate_does_not_need_a_strategy(
    prune: Callable, monkeypatch: pytest.MonkeyPatch, stand_in: Callable
) -> None:
    monkeypatch.setenv("PRUNE_DISABLE", "prune-unstructured,prune-block,prune-hybrid,prune-structured")
    stand_in("prune_core.runs.run", evaluate_folder=lambda *_: {"accuracy": 0.5})
    assert prune("evaluate", "m", "--task", "text-classification").code == 0


def test_mistakes_of_ours_are_one_line_and_ask_for_debug(prune: Callable, stand_in: Callable, sample: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    stand_in("prune_core.runs.run", run=fail)
    arguments = ["run", "--strategy", "sample", "--set", "strategy.steps=1"]
    _one_line(prune(*arguments), 70, "ZeroDivisionError: division by zero", "--debug")
    for debugged in (prune("--debug", *arguments), prune(*arguments, "--debug")):
        assert debugged.code == 70
        assert "Traceback" in debugged.err


def _failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (errors.RunError("runs/x holds a run"), 9, "runs/x holds a run"),
        (errors.TrainingError("the loss\nis not a number"), 11, "the loss is not a number"),
        (errors.StructureError("nothing to prune"), 5, "nothing to prune"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 74, "Permission denied: runs/x"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x/a"), 74, "the disk is full: runs/x/a"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), 74, "disk is full"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1262 vs 1164"), 74, "disk is full"),
    ],
)
def test_errors_of_a_run(
    error: BaseException, code: int, part: str, prune: Callable, stand_in: Callable, sample: Path
) -> None:
    stand_in("prune_core.runs.run", run=_failing(error))
    _one_line(prune("run", "--strategy", "sample", "--set", "strategy.steps=1"), code, part)


def test_a_full_disk_behind_another_error(prune: Callable, stand_in: Callable, sample: Path) -> None:
    error = RuntimeError("the archive could not be written")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    stand_in("prune_core.runs.run", run=_failing(error))
    _one_line(prune("run", "--strategy", "sample", "--set", "strategy.steps=1"), 74, "the disk is full", "--resume")


def test_an_interrupt_says_how_to_go_on(prune: Callable, stand_in: Callable, sample: Path, tmp_path: Path) -> None:
    stand_in("prune_core.runs.run", run=_failing(KeyboardInterrupt()))
    arguments = ["run", "--strategy", "sample", "--set", "strategy.steps=1", "--output", tmp_path]
    early = prune(*arguments)
    assert (early.code, early.errors) == (130, ["prune: interrupted; nothing was written yet"])
    (tmp_path / "recipe.yaml").touch()
    late = prune(*arguments)
    assert late.code == 130
    assert late.errors == [f"prune: interrupted; go on with it: prune run {tmp_path} --resume"]


def test_every_class_of_error_has_its_code() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PruneError)]
    codes = {kind.__name__: exit_code(kind("x")) for kind in classes}
    assert set(codes) <= set(exit_codes.BY_ERROR)
    assert len(set(codes.values())) == len(codes)
    assert not {0, 2, 70, 130} & set(codes.values())


def test_a_subclass_has_its_parents_code() -> None:
    class Special(errors.MaskError):
        pass

    assert exit_code(Special("x")) == exit_codes.BY_ERROR["MaskError"]
    assert exit_code(ValueError("x")) == exit_codes.UNEXPECTED


def test_the_table_of_exit_codes_is_documented() -> None:
    for code in {*exit_codes.BY_ERROR.values(), exit_codes.UNEXPECTED, exit_codes.INTERRUPTED}:
        assert f"| {code} |" in (exit_codes.__doc__ or "")


def test_home_is_found_in_every_path_of_a_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = {"model": "~/m", "teacher": "~/t", "output": "~/o"}
    files = {"train_file": "~/a.csv", "validation_file": "~/b.csv"}
    strategy = {"name": "structured", "rewind": "~/r", "within": "~/w"}
    recipe = Recipe.parse({**names, "task": files, "strategy": strategy, "measure": {"baseline": "~/b"}})
    found = [recipe.model, recipe.teacher, recipe.output, recipe.task.train_file, recipe.task.validation_file]
    assert [str(path) for path in found] == [str(tmp_path / name) for name in ("m", "t", "o", "a.csv", "b.csv")]
    earlier = absolute(recipe).strategy.fields()
    assert [earlier["rewind"], earlier["within"], recipe.measure.baseline] == [
        str(tmp_path / name) for name in ("r", "w", "b")
    ]
    assert Recipe.parse({"task": {"dataset": "~/d"}}).task.dataset == str(tmp_path / "d")
    assert Recipe.parse({"model": "./m", "task": {"dataset": "nyu-mll/glue"}}).model == "./m"


@pytest.mark.parametrize("stage", ["prune_cli.verbs", "prune_core.runs.verifying"])
def test_an_interrupt_at_any_time_is_one_line(stage: str, prune: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the command line itself is imported, and while a verb imports what it needs."""

    class Interrupted:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == stage:
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, stage, raising=False)
    result = prune("verify", "runs/first")
    assert (result.code, result.out, result.err) == (130, "", "prune: interrupted\n")
