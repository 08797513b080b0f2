"""The command line: parse, call one function, print.

Exit codes: 0 done; 1 failed, with one line on stderr; 2 bad usage; 130 interrupted; 141 nobody reads us.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from memfirst import __version__
from memfirst.errors import MemfirstError

DONE, FAILED, USAGE, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 130, 141

GARBAGE_AFTER = 500_000
"""Objects made before Python looks for garbage: with 700, its default, that is a tenth of the time to a first token."""


def main() -> None:
    """The `memfirst` command."""
    gc.set_threshold(GARBAGE_AFTER)
    sys.exit(run_command(sys.argv[1:]))


def run_command(args: Sequence[str]) -> int:
    """Run one command; returns its exit code, whatever happens short of a bug."""
    try:
        code = _dispatch(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except MemfirstError as e:
        return fail(e)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return CLOSED_PIPE


def fail(error: MemfirstError) -> int:
    """One line on stderr, however many the message has."""
    print("memfirst:", " ".join(str(error).split()), file=sys.stderr)
    return FAILED


def _dispatch(args: Sequence[str]) -> int:
    """Parse and call; without arguments, the help page."""
    if list(args) == ["--version"]:
        print(f"memfirst {__version__}")
        return DONE
    from memfirst.cli.app import call

    return call(list(args) or ["--help"])


def _forget_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's own last flush stays quiet too."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
