"""Time the demo page in a real browser, and draw pictures of it.

    python benchmarks/demo_page.py [--visitors 8] [--pictures FOLDER]

Needs Chromium on the path, and the packages `gradio` and `playwright`. A first visit warms the page up and is not
counted. Prints, for one visitor and for several at once, the seconds until the first image is seen (landing), until a
masking is reconstructed and shown (reconstruct), and until the spectrum of a clicked pixel is drawn, while the
reconstruction is still being saved (early click) and on a page at rest (click). The pictures show every tab with the
result of an example, in `THEMES` and at `WIDTHS`; what the console said meanwhile, and every request that failed, is
printed.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Page, async_playwright
from playwright.sync_api import Response, sync_playwright

from spectralgpt_hf.assets import CHECKPOINT, find_task_checkpoints
from spectralgpt_hf.serving.app import serve
from spectralgpt_hf.serving.tasks import Models


TIMEOUT = 600_000
THEMES, WIDTHS = ("light", "dark"), (1280, 390)
# Name of each tab, the example that its picture shows, and what the page holds when the example's result is there.
TABS = {
    "Reconstruct": ("hills", "#save-reconstruction:not([disabled])"),
    "Classify": ("hills", "#labels h2"),
    "Segment": ("town", "#save-classes:not([disabled])"),
    "Change": ("forest", "#save-change:not([disabled])"),
    "Embeddings": ("hills", "#save-features:not([disabled])"),
}
# Of the open tab. What is below the screen would be loaded only when a visitor scrolls there.
ALL_SHOWN = """
() => {
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((element) => element.offsetParent);
  const images = shown('.picture img');
  images.forEach((image) => { image.loading = 'eager'; });
  return images.every((image) => image.complete && image.naturalWidth) && !shown('.progress-text').length;
}
"""


async def visit(browser: Any, url: str, seed: int) -> tuple[dict[str, float], list[str]]:
    """Do what a visitor does; return the seconds of each step, and the queue positions that were shown meanwhile."""
    page: Page = await browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(TIMEOUT)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    await page.goto(url)
    await page.locator("#image img").wait_for()
    seconds["landing"] = time.perf_counter() - start
    await page.locator("#save-reconstruction:not([disabled])").wait_for()
    await page.evaluate(WATCH_QUEUE)

    shown = await page.locator("#reconstructed img").last.get_attribute("src")
    start = time.perf_counter()
    await page.locator("#seed input").fill(str(seed))
    await page.locator("#seed input").press("Enter")
    await page.wait_for_function(
        "(shown) => { const image = [...document.querySelectorAll('#reconstructed img')].at(-1);"
        " return image && image.complete && image.getAttribute('src') !== shown }",
        arg=shown,
    )
    seconds["reconstruct"] = time.perf_counter() - start
    seconds["early click"] = await click(page, 150, 170)
    await page.locator("#save-reconstruction:not([disabled])").wait_for()
    seconds["click"] = await click(page, 170, 150)
    positions = await page.evaluate("window.positions")
    await page.close()
    return seconds, positions


async def click(page: Page, x: int, y: int) -> float:
    """Click on the image, and return the seconds until the spectrum of that pixel is drawn."""
    drawn = await page.locator("#spectrum svg").get_attribute("aria-label")
    shown = await page.locator("#image img").get_attribute("src")
    start = time.perf_counter()
    await page.locator("#image img").click(position={"x": x, "y": y})
    await page.wait_for_function(
        "(drawn) => document.querySelector('#spectrum svg')?.getAttribute('aria-label') !== drawn", arg=drawn
    )
    seconds = time.perf_counter() - start
    # The image with the ring replaces the one that was clicked. A click in that moment would be lost.
    await page.wait_for_function(
        "(shown) => { const image = document.querySelector('#image img');"
        " return image && image.complete && image.getAttribute('src') !== shown }",
        arg=shown,
    )
    return seconds


WATCH_QUEUE = """
window.positions = [];
new MutationObserver(() => document.querySelectorAll('.progress-text, .meta-text').forEach((element) => {
  const found = element.textContent.match(/queue: *\\d+\\/\\d+/);
  if (found && !window.positions.includes(found[0])) window.positions.push(found[0]);
})).observe(document.body, {childList: true, subtree: true, characterData: true});
"""


def open_tab(page: Any, name: str) -> None:
    """Open a tab of the page, also one that a narrow screen shows in a menu only."""
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button").get_by_text(name)
    tab.click()


def draw(url: str, folder: Path) -> None:
    """Draw the page's pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for theme in THEMES:
            page = browser.new_page(viewport={"width": max(WIDTHS), "height": 900})
            page.set_default_timeout(TIMEOUT // 10)
            page.on("console", lambda message: print(f"console: {message.type}: {message.text}"))
            page.on("response", print_failure)
            page.goto(f"{url}?__theme={theme}")
            page.locator("#save-reconstruction:not([disabled])").wait_for()
            for tab, (example, shown) in TABS.items():
                page.set_viewport_size({"width": max(WIDTHS), "height": 900})
                open_tab(page, "Reconstruct")
                page.locator(f"#example-{example}").click()
                page.locator("#save-reconstruction[disabled]").wait_for()  # until there is a result of this image
                page.locator("#save-reconstruction:not([disabled])").wait_for()
                open_tab(page, tab)
                page.locator(f"{shown}:visible").first.wait_for()
                for width in WIDTHS:
                    page.set_viewport_size({"width": width, "height": 900})
                    page.wait_for_function(ALL_SHOWN)
                    page.wait_for_timeout(2000)
                    path = folder / f"demo_page_{tab.lower()}_{width}_{theme}.png"
                    page.screenshot(path=path, full_page=True)
                    shrink(path)
                    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", flush=True)
            page.close()
        browser.close()


def print_failure(response: Response) -> None:
    if not response.ok:
        print(f"{response.status}: {response.url}")


def shrink(path: Path) -> None:
    """Store a picture with a palette of 256 colours."""
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)


def report(name: str, visits: list[dict[str, float]]) -> None:
    steps = [f"{step} {statistics.median(v[step] for v in visits):.2f} s" for step in visits[0]]
    worst = [f"{step} {max(v[step] for v in visits):.2f} s" for step in visits[0]]
    print(f"{name}: {', '.join(steps)}" + (f"; slowest: {', '.join(worst)}" if len(visits) > 1 else ""))


async def measure(url: str, visitors: int) -> None:
    """Print the seconds that one visitor waits, and several at once."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        await time_visits(browser, url, visitors)
        await browser.close()


async def time_visits(browser: Any, url: str, visitors: int) -> None:
    await visit(browser, url, 1)
    print(f"{os.cpu_count()} cores; load average {os.getloadavg()[0]:.1f}, which is 0 on an idle machine", flush=True)
    seconds, _ = await visit(browser, url, 2)
    report("one visitor", [seconds])
    if visitors > 1:
        visits = await asyncio.gather(*(visit(browser, url, 3 + number) for number in range(visitors)))
        report(f"{visitors} visitors at once", [seconds for seconds, _ in visits])
        print(f"positions shown: {', '.join(sorted({place for _, shown in visits for place in shown})) or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=8, help="at once; 0 times nothing (default: %(default)s)")
    parser.add_argument("--pictures", type=Path, help="folder to draw the pictures of the page into")
    options = parser.parse_args()
    with serve(Models(CHECKPOINT, **find_task_checkpoints())) as url:
        if options.visitors:
            asyncio.run(measure(url, options.visitors))
        if options.pictures:
            draw(url, options.pictures)


if __name__ == "__main__":
    main()
