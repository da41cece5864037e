"""The prune command line: what the console script calls. Nothing is imported before an interrupt would be answered."""

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (sys.argv's by default) and return the exit code. `--debug` may stand anywhere."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    rest = [argument for argument in given if argument != "--debug"]
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # one for every file that is read or written
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler tells when it starts and stops,
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # and of memory that it did not see allocated
    try:
        return _call(rest or ["--help"], debug=len(rest) < len(given))
    except KeyboardInterrupt as interrupt:
        from prune_core.distributed.processes import is_main

        if is_main():
            sys.stderr.write("; ".join(["prune: interrupted", *map(str, interrupt.args)]) + "\n")
        return 130


def _call(arguments: list[str], *, debug: bool) -> int:
    from prune_cli.exit_codes import INTERRUPTED, StoppedError
    from prune_cli.verbs import app

    _quieten()
    try:
        code = int(app(args=arguments, prog_name="prune", standalone_mode=False) or 0)
    except StoppedError as interrupt:
        raise KeyboardInterrupt(str(interrupt)) from interrupt
    except Exception as error:  # typer.Exit has become a return value by now
        from prune_cli.failure import report

        return report(error, debug=debug)
    if code == INTERRUPTED:  # what typer makes of Ctrl-C
        raise KeyboardInterrupt
    return code


def _quieten() -> None:
    """transformers imports torchao where it is installed, which tells at length which of its kernels do not fit; the
    translation to ONNX tells of operators that no model of ours has, and of constants that it leaves as they are."""
    import logging

    translation = ("torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")
    for talker in ("torchao", "torch.utils._pytree", *translation):
        logging.getLogger(talker).setLevel(logging.ERROR)
