"""docs/tour.ipynb: its cells are those of docs/notebook.py, they were run, and they give what it shows."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

from tests.docs.test_pages import executed

DOCS = Path(__file__).parent.parent.parent / "docs"


def _cells() -> list[str]:
    spec = importlib.util.spec_from_file_location("notebook", DOCS / "notebook.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.CELLS)


def shown(outputs: list[dict[str, Any]]) -> tuple[str, str]:
    """Of a cell: what it printed, and its value, as HTML where it has that."""
    printed, value = "", ""
    for one in outputs:
        if one["output_type"] == "stream" and one["name"] == "stdout":
            printed += "".join(one["text"])
        elif one["output_type"] == "execute_result":
            value = "".join(one["data"].get("text/html") or one["data"]["text/plain"])
    return printed, value


def evaluated(source: str, names: dict[str, Any]) -> tuple[str, str]:
    """The same of a cell that is run here."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None
    html = getattr(value, "_repr_html_", lambda: repr(value))
    return printed.getvalue(), "" if value is None else html()


def test_the_notebook_was_run_and_shows_what_comes(smollm2: Path) -> None:
    book = json.loads((DOCS / "tour.ipynb").read_text(encoding="utf-8"))
    assert ["".join(cell["source"]) for cell in book["cells"]] == _cells(), "run: make docs"
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            now, then = evaluated("".join(cell["source"]), names), shown(cell["outputs"])
            assert any(then), "every cell shows something"
            for a, b in zip(then, now, strict=True):
                assert executed.same(a, b), f"{b}\nrun: make docs"
    names["model"].close()
