"""The command line: parse, call one function, print.

Exit codes: 0 done; 1 failed, with one line on stderr; 2 bad usage; 130 interrupted; 141 nobody reads us.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from memfirst import __version__
from memfirst.cli import streams
from memfirst.errors import MemfirstError

DONE, FAILED, USAGE, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 130, 141

GARBAGE_AFTER = 500_000
"""Objects made before Python looks for garbage: with 700, its default, that is a tenth of the time to a first token."""


def main() -> None:
    """The `memfirst` command."""
    code = INTERRUPTED
    try:
        gc.set_threshold(GARBAGE_AFTER)
        code = run_command(sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on Ctrl-C ends the process, without a traceback
    except KeyboardInterrupt:  # between two of our own lines
        pass
    sys.exit(code)


def run_command(args: Sequence[str]) -> int:
    """Run one command; returns its exit code, whatever happens short of a bug."""
    streams.prepare()
    code = _guarded(_dispatch, args)
    return code or _guarded(streams.flush)


def _guarded(call: Callable[..., int | None], *args: Any) -> int:
    """Call it; its exit code, or the code of what it raised."""
    try:
        return call(*args) or DONE
    except MemfirstError as e:
        return fail(e)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        streams.drop(sys.stdout)
        return CLOSED_PIPE
    except OSError as e:  # a file, a folder or a stream that the system refuses: no bug of ours
        streams.settle()
        return fail(MemfirstError(f"{e.filename}: {e.strerror}" if e.filename else str(e.strerror or e)))


def fail(error: MemfirstError) -> int:
    """One line on stderr, however many the message has."""
    streams.note(f"memfirst: {' '.join(error.at_a_prompt().split())}")
    return FAILED


def _dispatch(args: Sequence[str]) -> int:
    """Parse and call; without arguments, the help page."""
    if list(args) == ["--version"]:
        streams.write(f"memfirst {__version__}")
        return DONE
    from memfirst.cli.app import call

    return call(list(args) or ["--help"])
