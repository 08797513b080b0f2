"""schemathesis over a server's own description of itself: `make fuzz-server`, or with more cases
`python -m tests.support.fuzz_server --max-examples 2000`. Exits with what it found, or 1 where the server holds more
memory than after a first round by more than `MORE` bytes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tests.support.serving import Served
from tests.support.tiny_served import tiny_model

CONFIG = """
# A prompt may have more tokens than the context, an id may be beyond the vocabulary, another model may be asked for:
# no schema of a body can say so, and 400 and 404 are the answers.
[checks]
positive_data_acceptance.expected-statuses = ["2XX", "400", "404"]
# A list that is longer than a schema allows may be longer than any body may be.
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "406", "413", "415", "422", "428"]
"""

COMMAND = ["--checks", "all", "--continue-on-failure", "--no-color", "--request-timeout", "60", "--seed", "1"]
CASES = ["--max-examples", "600", "--phases", "examples,coverage,fuzzing"]

FIRST = ["--max-examples", "20", "--phases", "examples,coverage,fuzzing"]
"""What fills caches whose size is bounded: of grammars, of prefixes, of what Python keeps."""

MORE = 150 << 20
SETTLES_S = 5.0


def held(served: Served) -> int:
    """Resident bytes of the server's processes, once they have had time to give back."""
    time.sleep(SETTLES_S)
    found = psutil.Process(served.process.pid)
    return sum(process.memory_info().rss for process in (found, *found.children(recursive=True)))


def main(more: list[str]) -> int:
    """Run it; its exit code, or 1 where the server did not survive."""
    with TemporaryDirectory() as folder:
        config = Path(folder, "schemathesis.toml")
        config.write_text(CONFIG)
        schemathesis = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run"]
        with Served(tiny_model(Path(folder)), ["--ctx", "256", "--pooling", "mean"]) as served:
            command = [*schemathesis, f"{served.url}/openapi.json", *COMMAND]
            subprocess.run([*command, *FIRST], check=False, cwd=folder, stdout=subprocess.DEVNULL)
            before = held(served)
            said = subprocess.run([*command, *CASES, *more], check=False, cwd=folder)
            alive = served.process.poll() is None and not any("ended" in line for line in served.lines)
            after = held(served) if alive else 0
        print("".join(served.lines), file=sys.stderr)
    print(f"the server holds {after / 1e6:.0f} MB, {(after - before) / 1e6:+.0f} MB since the first round")
    return said.returncode if alive and after - before <= MORE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
