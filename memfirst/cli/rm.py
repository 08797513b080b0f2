"""`memfirst rm`: take a pulled model out of the cache."""

from __future__ import annotations

from memfirst.cli.options import Json, Model
from memfirst.cli.streams import write


def rm(model: Model, as_json: Json = False) -> None:
    """Delete a pulled model from the cache.

    Files that another pulled model shares stay, and files of your own are never touched.
    """
    from memfirst import hub
    from memfirst.cli.display import print_json, size

    gone = hub.remove(model)
    if as_json:
        print_json({"removed": gone.name, "size": gone.size})
    else:
        write(f"removed {gone.name} ({size(gone.size)})")
