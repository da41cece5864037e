"""Exit codes of `prune`, by the class of the error; a subclass has its parent's code.

| code | meaning |
|---|---|
| 0 | done |
| 1 | an error of a class that is not listed here |
| 2 | wrong command line: unknown flag, missing argument, malformed value |
| 3 | the recipe, or the value of a flag, is wrong |
| 4 | a plugin is missing, broken or has a double; `prune plugins --strict` found one |
| 5 | the model has nothing that can be pruned in this way |
| 6 | masks that do not fit the model, or a damaged file of masks |
| 7 | a model cannot be read |
| 8 | data: a file, a column or a label |
| 9 | the folder of a run cannot be used as asked |
| 10 | masked, compact and reloaded model differ |
| 11 | training cannot go on |
| 12 | another process of this run failed: its own message says why |
| 13 | a model cannot be exported as asked, or a runtime is missing |
| 70 | a mistake in prune itself: run again with --debug and report it |
| 74 | the operating system refused: disk full, no permission |
| 130 | interrupted (Ctrl-C) |
"""

SUMMARY = (
    "Exit codes: 0 done, 2 command line, 3 recipe, 4 plugin, 5 nothing to prune, 6 masks, 7 model, 8 data, "
    "9 folder of a run, 10 not the same function, 11 training, 12 another process, 13 export, 70 a mistake of ours, "
    "74 disk full or no permission, 130 interrupted."
)

UNEXPECTED = 70
SYSTEM = 74
INTERRUPTED = 130

BY_ERROR = {
    "RecipeError": 3,
    "PluginError": 4,
    "StructureError": 5,
    "MaskError": 6,
    "ModelError": 7,
    "DataError": 8,
    "RunError": 9,
    "VerificationError": 10,
    "TrainingError": 11,
    "ElsewhereError": 12,
    "ExportError": 13,
    "PruneError": 1,
    "OSError": SYSTEM,
}


class StoppedError(Exception):
    """Ctrl-C in a verb that can be gone on with; the message says how."""


def exit_code(error: BaseException) -> int:
    """The code for an error, by the nearest of its classes that the table knows."""
    names = (kind.__name__ for kind in type(error).__mro__)
    return next((BY_ERROR[name] for name in names if name in BY_ERROR), UNEXPECTED)
