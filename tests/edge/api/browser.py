"""A headless Chromium, if there is one."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

MISSING = next(
    (
        f"{what} is not installed; run: make test-browser"
        for what, there in (
            ("selenium", importlib.util.find_spec("selenium")),
            ("chromium", shutil.which("chromium") or shutil.which("google-chrome")),
            ("chromedriver", shutil.which("chromedriver")),
        )
        if not there
    ),
    "",
)
needs_browser = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@contextmanager
def browser(width: int, height: int = 800, dark: bool = False) -> Iterator[Any]:
    """A driver whose window has a size; it reaches this machine alone."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        scheme = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.set_page_load_timeout(60)
        yield driver
    finally:
        driver.quit()
