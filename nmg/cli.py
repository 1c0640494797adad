"""The command ``nmg``: picks the program, turns user errors into one sentence and exit code 2.

Only the module of the chosen program is imported, so that ``nmg --help`` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from nmg.options import nearest

PROGRAMS = {
    "train": ("nmg.training", "add_parser", "learn a masking policy (meta-training)"),
    "test": ("nmg.testing", "add_parser", "compare maskings on the test split (meta-testing)"),
    "mask": ("nmg.mask_command", "add_parser", "show what a policy or strategy masks in a text"),
    "data": ("nmg.data_command", "add_parsers", "list and check data sets"),
    "corpus": ("nmg.data_command", "add_parsers", "write the contexts of a task as a text corpus"),
    "new-lm": ("nmg.new_lm_command", "add_parser", "make a language model from scratch"),
    "adapt": ("nmg.adapt_command", "add_parser", "further pre-train a model and save it"),
    "generation": ("nmg.generation_command", "add_parser", "compare pre-training for generation"),
    "prepare-lm": ("nmg.prepare_command", "add_parser", "train a masked-LM head where one lacks"),
    "testbed": ("nmg.testbed_command", "add_parser", "show the world with a known best mask"),
    "noise": ("nmg.noise_command", "add_parser", "measure the noise of the reward"),
    "diff": ("nmg.diff_command", "add_parser", "show what differs between runs"),
}
"""Program -> module, the function that adds its parser, and one line of help."""

USER_ERROR = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Argparse with one-sentence errors that name the nearest flag."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            unknown = message.split(": ", 1)[1].split()[0].split("=")[0]
            known = [flag for action in self._all_actions() for flag in action.option_strings]
            message = f"there is no argument {unknown!r}{nearest(unknown, known)}"
        program = " ".join([self.prog, *self._program()])
        self.exit(USER_ERROR, f"{program}: {message}. See {program} --help.\n")

    def _program(self) -> list[str]:
        """The program that was chosen, where the error is told by the parser above its own."""
        above = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        chosen = [name for action in above for name in action.choices]
        return chosen if len(chosen) == 1 else []

    def _all_actions(self) -> list[argparse.Action]:
        actions = list(self._actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in set(action.choices.values()):
                    actions += parser._all_actions()
        return actions


def build_parser(program: str | None = None) -> Parser:
    """The parser of one program, or with ``None`` of all, by name and one line each."""
    parser = Parser(
        prog="nmg",
        description="Learn which words a language model should be made to predict, and measure "
        "whether it mattered.",
        epilog="example: nmg train                 (the testbed, minutes on a laptop)\n"
        "         nmg test --strategy idf --seeds 5\n"
        "`nmg PROGRAM --help` shows the flags of a program, with examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="program", metavar="PROGRAM", required=True)
    if program is None:
        for name, (_, _, line) in PROGRAMS.items():
            subparsers.add_parser(name, help=line)
    else:
        module, function, _ = PROGRAMS[program]
        getattr(importlib.import_module(module), function)(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a program; returns its exit code: 0, 2 for a user's error, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    program = arguments[0] if arguments and arguments[0] in PROGRAMS else None
    try:
        args = build_parser(program).parse_args(arguments)
        with terminated_as_interrupted():
            return args.run(args) or 0
    except BrokenPipeError:
        raise  # nobody reads on: `run` ends quietly
    except Exception as error:
        if debug or not _is_users(error):
            raise
        print(f"nmg: {_sentence(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        print(f"\nnmg: {str(interrupt) or 'stopped; nothing is kept.'}", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end a program as Ctrl-C does: with a word, and with what is half-written gone."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only that one may
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_users(error: Exception) -> bool:
    """Whether an error is about what was given, and not a defect of ours.

    Our own sentences are ValueErrors raised in our own packages; a ValueError from deep inside a
    library is a defect and keeps its traceback. Files and missing extras are the user's.
    """
    if not isinstance(error, ValueError):
        from safetensors import SafetensorError

        from nmg.executors import JobFailedError

        # The third is safetensors' own, for files that are damaged or cannot be written.
        users = OSError | ModuleNotFoundError | SafetensorError | JobFailedError
        return isinstance(error, users)
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = traceback.tb_frame.f_globals.get("__name__", "") if traceback else ""
    return module.split(".")[0] in ("nmg", "envs", "agents")


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, ModuleNotFoundError):
        return f"{error} (install the extra that brings it, e.g. pip install nmg[offline])."
    return " ".join(str(error).split()) or type(error).__name__


def run() -> NoReturn:
    """Console entry: a closed pipe (``nmg ... | head``) is no error."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
