"""The report in a real browser: no missing picture, no error, nothing beyond the edge of a phone or of a desktop screen, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from numerics.claims import LEGS, Evidence
from numerics.paper_report.page import page
from numerics.paper_report.records import gather
from numerics.plots import save
from paper_checks import papers

SCREENS = ((375, 812), (1280, 900))
"""Width and height in pixels: a phone, a desktop screen."""
LONG = "2*sqrt(2)*x_0**2*(K - 1)*(-8*sqrt(6)*(1 - exp(c)) + 9*exp(c))*exp(3*c)/(9*K*sigma**2*x_s**2)" * 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install depthbound[test]"
    )
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium or its chromedriver is not installed: the page is checked as text only")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # in a container, as root, without a large /dev/shm
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with every paper there is, a row on each leg of each claim, long names and long closed forms, and a figure for each paper."""
    folder: Path = tmp_path_factory.mktemp("page")
    rows = []
    for package, paper in papers().items():
        figure = Figure(figsize=(9, 3))
        figure.subplots().plot([1, 2, 3], [3, 1, 2])
        save(figure, folder / "figures" / paper.letter)
        for number, claim in enumerate(paper.claims):
            for leg in LEGS:
                finding = {0: "false", 1: "loose"}.get(number, "") if leg == "searched" else ""
                rows.append(
                    Evidence(
                        paper.letter,
                        claim.key,
                        leg,
                        "largest loss after 2,000 steps over its envelope, of all starts",
                        LONG if leg == "derived" else 1e-23,
                        None if leg == "derived" else 1e-24,
                        test=f"paper_checks/{package}/test_something.py::test_{'long_' * 20}name[affine(12), tanh]",
                        figure=paper.letter if number == 0 and leg == "derived" else "",
                        finding=finding,
                        note="What was found, with $x^2$ and 3.5 decades." if finding else "",
                    )
                )
    records = [{**asdict(row), "holds": row.holds, "tightness": row.tightness} for row in rows]
    text, missing = page(
        gather(list(papers().values()), records, {"finished": "today", "outcomes": {}}), folder / "figures"
    )
    assert missing == []
    (folder / "report.html").write_text(text, encoding="utf-8")
    return (folder / "report.html").as_uri()


def show(browser: Any, address: str, size: tuple[int, int], scheme: str = "light") -> None:
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(address)


@pytest.mark.parametrize("size", SCREENS, ids=("phone", "desktop"))
def test_nothing_is_missing_and_nothing_lies_beyond_the_edge(browser: Any, address: str, size: tuple[int, int]) -> None:
    show(browser, address, size)
    widths = browser.execute_script("return [...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert len(widths) == len(papers())
    assert min(widths) > 0
    wide = (
        "return [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('math') && e.checkVisibility()).map(e => e.tagName + ': ' + e.textContent.trim().slice(0, 60))"
    )
    for opened in (False, True):
        if opened:
            browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        edge, inner = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert inner == size[0]
        assert edge <= inner, browser.execute_script(wide)
    # formulas are drawn, text is large enough to read
    assert browser.execute_script("return document.querySelector('math').getBoundingClientRect().height") > 8
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('p, li, td, th')].map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 14
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_in_both_schemes(browser: Any, address: str, scheme: str) -> None:
    show(browser, address, SCREENS[1], scheme)
    colours = browser.execute_script(
        "const s = getComputedStyle(document.body), q = getComputedStyle(document.querySelector('.quiet'));"
        "return [s.backgroundColor, s.color, q.color].map(c => c.match(/[0-9.]+/g).slice(0, 3).map(Number))"
    )
    ground, text, quiet = map(luminance, colours)
    assert (ground > text) == (scheme == "light")
    # WCAG 2, level AA: 4.5 to 1
    for colour in (text, quiet):
        high, low = max(ground, colour), min(ground, colour)
        assert (high + 0.05) / (low + 0.05) >= 4.5


def luminance(colour: list[float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
