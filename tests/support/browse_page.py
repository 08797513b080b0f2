"""The live page in a browser: `make page`, or `python -m tests.support.browse_page FOLDER [MODEL]`.

It is opened while the server answers, on a phone's and a desk's width, light and dark: no error, no request elsewhere,
figures as /memfirst/stats and /metrics have them, a chat by keyboard alone, no finding of axe-core. Screenshots are
in FOLDER.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-not-found]
from playwright.sync_api import Page, sync_playwright  # type: ignore[import-not-found]

from memfirst import hub
from tests.support.serving import Served

WIDTHS, SCHEMES = (380, 1280), ("light", "dark")
FIGURES = {"memory": ("weights", "kv_requests", "kv_kept", "kv_free", "buffers", "state")}


def load(url: str, until: threading.Event) -> None:
    """Two answers at a time, one after the other."""
    body = {"messages": [{"role": "user", "content": "Tell me of the sea."}], "max_tokens": 120}
    while not until.is_set():
        httpx.post(f"{url}/v1/chat/completions", json=body | {"n": 2}, timeout=300)


def check_figures(page: Page, url: str) -> None:
    """With nothing running, what the page shows is what the snapshot and the metrics say."""
    time.sleep(2.5)
    stats, metrics = httpx.get(f"{url}/memfirst/stats").json(), httpx.get(f"{url}/metrics").text
    shown = page.eval_on_selector_all(
        "#memory-legend [data-name]",
        "all => Object.fromEntries(all.map(e => [e.dataset.name, Number(e.dataset.value)]))",
    )
    for name, value in shown.items():
        assert value == stats["memory"][name], (name, value, stats["memory"][name])
    assert shown, "no memory is shown"
    free = next(line for line in metrics.splitlines() if line.startswith('memfirst_kv_bytes{state="free"}'))
    assert float(free.split()[-1]) == stats["memory"]["kv_free"]
    assert page.inner_text("#model") == stats["model"]
    assert int(page.get_attribute("#running", "data-value") or 0) == 0


def wait(page: Page, condition: str) -> None:
    """Until it holds; the page's own policy forbids what Playwright waits by."""
    until = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < until, condition
        time.sleep(0.1)


def chat_by_keyboard(page: Page) -> None:
    """Tab to the text, write, tab to Send, Enter; an answer comes."""
    page.keyboard.press("Tab")
    for _ in range(20):
        if page.evaluate("document.activeElement.id") == "text":
            break
        page.keyboard.press("Tab")
    page.keyboard.type("Hello")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "send"
    page.keyboard.press("Enter")
    wait(page, "document.querySelector('#log').innerText.length > 30")


def look(browser: Any, url: str, width: int, scheme: str, folder: Path) -> list[str]:
    """One width and one scheme; what is wrong."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((url, "data:")) else found.append(request.url))
    page.goto(url)
    for name in ("running", "rate"):
        wait(page, f"Number(document.querySelector('#{name}').dataset.value) > 0")
    page.screenshot(path=folder / f"page-{width}-{scheme}.png", full_page=True)
    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        found.append("it is wider than the window")
    for violation in Axe().run(page).response["violations"]:
        found.append(f"axe: {violation['impact']} {violation['id']}: {violation['nodes'][0]['html'][:120]}")
    page.close()
    return [f"{width} {scheme}: {one}" for one in found]


def main(folder: Path, model: str) -> int:
    """All of it; 1 where something is wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    wrong: list[str] = []
    with Served(Path(hub.resolve(model)), ["--ctx", "1024", "--threads", "1"]) as served, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        done = threading.Event()
        worker = threading.Thread(target=load, args=(served.url, done))
        worker.start()
        try:
            for width in WIDTHS:
                for scheme in SCHEMES:
                    wrong += look(browser, served.url, width, scheme, folder)
        finally:
            done.set()
            worker.join()
        page = browser.new_page(viewport={"width": 380, "height": 900})
        page.goto(served.url)
        check_figures(page, served.url)
        chat_by_keyboard(page)
        page.screenshot(path=folder / "page-chat.png", full_page=True)
        browser.close()
    print("\n".join(wrong) or f"nothing is wrong; look at {folder}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "smollm2:135m"))
