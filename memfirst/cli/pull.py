"""`memfirst pull`: fetch a model into the cache."""

from __future__ import annotations

from memfirst.cli.options import Json, Model, Offline
from memfirst.cli.streams import write


def pull(model: Model, offline: Offline = False, as_json: Json = False) -> None:
    """Fetch a model, and print its path.

    The model's license is shown first. An interrupted download resumes where it stopped; what arrives is
    checked against its digest.
    """
    from memfirst import hub
    from memfirst.cli.display import print_json, progress

    with progress(quiet=as_json, notes=True) as report:
        path = hub.resolve(model, offline=offline, progress=report)
    if as_json:
        print_json({"model": model, "path": str(path.absolute())})
    else:
        write(str(path.absolute()))
