"""Time the demo page in a real browser, and draw pictures of it.

    python benchmarks/demo_page.py [--visitors 8] [--pictures FOLDER]

Needs Chromium on the path, and the packages `gradio` and `playwright`. A first visit warms the page up and is not
counted. Prints, for one visitor and for several at once, the seconds until the first image is seen (landing), until a
masking is reconstructed and shown (reconstruct), and until the spectrum of a clicked pixel is drawn (click).
"""

import argparse
import asyncio
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from spectralgpt_hf.assets import CHECKPOINT, find_task_checkpoints
from spectralgpt_hf.serving.app import serve
from spectralgpt_hf.serving.tasks import Models


TIMEOUT = 600_000
# Name of the picture, the example that it shows, and the tab.
PICTURES = {"reconstruct": ("hills", "Reconstruct"), "embeddings": ("hills", "Embeddings")}


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
    await page.locator("#save-reconstruction:not([disabled])").wait_for()

    drawn = await page.locator("#spectrum svg").get_attribute("aria-label")
    start = time.perf_counter()
    await page.locator("#image img").click(position={"x": 150, "y": 170})
    await page.wait_for_function(
        "(drawn) => document.querySelector('#spectrum svg')?.getAttribute('aria-label') !== drawn", arg=drawn
    )
    seconds["click"] = time.perf_counter() - start
    positions = await page.evaluate("window.positions")
    await page.close()
    return seconds, positions


WATCH_QUEUE = """
window.positions = [];
new MutationObserver(() => document.querySelectorAll('.progress-text, .meta-text').forEach((element) => {
  const found = element.textContent.match(/queue: *\\d+\\/\\d+/);
  if (found && !window.positions.includes(found[0])) window.positions.push(found[0]);
})).observe(document.body, {childList: true, subtree: true, characterData: true});
"""


async def draw(browser: Any, url: str, folder: Path) -> None:
    """Draw the page's pictures."""
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(TIMEOUT)
    await page.goto(url)
    await page.locator("#save-reconstruction:not([disabled])").wait_for()
    for name, (example, tab) in PICTURES.items():
        await page.locator(f"#example-{example}").click()
        await page.locator("#facts").get_by_text(f"{example}.tif").wait_for()
        await page.get_by_role("tab", name=tab).click()
        await page.locator("button[id^=save-]:not([disabled]):visible").wait_for()
        await page.wait_for_function(
            "[...document.querySelectorAll('.picture img')].every((image) => image.complete && image.naturalWidth)"
        )
        await page.wait_for_timeout(2000)
        path = folder / f"demo_page_{name}.png"
        await page.screenshot(path=path, full_page=True)
        shrink(path)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
    await page.close()


def shrink(path: Path) -> None:
    """Store a picture with a palette of 256 colours."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)


def report(name: str, visits: list[dict[str, float]]) -> None:
    steps = [f"{step} {statistics.median(v[step] for v in visits):.2f} s" for step in visits[0]]
    worst = [f"{step} {max(v[step] for v in visits):.2f} s" for step in visits[0]]
    print(f"{name}: {', '.join(steps)}" + (f"; slowest: {', '.join(worst)}" if len(visits) > 1 else ""))


async def measure(url: str, options: argparse.Namespace) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        if options.visitors:
            await time_visits(browser, url, options.visitors)
        if options.pictures:
            await draw(browser, url, options.pictures)
        await browser.close()


async def time_visits(browser: Any, url: str, visitors: int) -> None:
    """Print the seconds that one visitor waits, and several at once."""
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
        asyncio.run(measure(url, options))


if __name__ == "__main__":
    main()
