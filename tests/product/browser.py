"""A headless Chromium, as people's browsers are, driven by WebDriver."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver

PHONE, DESK = (390, 844), (1280, 900)


@contextlib.contextmanager
def browser(folder: Path, *, size: tuple[int, int] = DESK, script: bool = True) -> Iterator[webdriver.Chrome]:
    """Run a browser with a profile of its own, and a window `size` wide and high in CSS pixels."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-background-networking",
    ):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not script:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    environment = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder)}
    service = webdriver.ChromeService("/usr/bin/chromedriver", env=environment)
    driver = webdriver.Chrome(options, service)
    try:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield driver
    finally:
        driver.quit()
