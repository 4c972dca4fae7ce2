"""A real browser without a window, and the server's page in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="there is no browser: apt-get install chromium chromium-driver"
)

SECONDS = 60
"""How long an answer may take on a machine that does other things."""


@contextmanager
def browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """Chromium with a new profile in the folder `profile`."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--disable-background-networking", "--no-first-run", "--window-size=1100,1000"),
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(SECONDS)
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """What somebody does who has the page open, and sees."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        driver.get_log("browser")  # those of the page before
        driver.get(url)
        self.wait(lambda: self.text("about") not in ("asking the server what it serves", ""))

    def wait(self, condition: Any) -> None:
        WebDriverWait(self.driver, SECONDS, poll_frequency=0.05).until(lambda _: condition())

    def element(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.element(name).text

    def all(self, selector: str) -> list[str]:
        """The texts of what is shown and matches a CSS selector."""
        return [
            each.text for each in self.driver.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()
        ]

    def shows(self, name: str) -> bool:
        return self.element(name).is_displayed()

    def fill(self, name: str, text: str) -> None:
        """Put text into a field as a paste does: keys of a driver are none that every character has."""
        self.driver.execute_script("arguments[0].value = arguments[1]", self.element(name), text)

    def ask(self, first: str, second: str | None = None) -> None:
        """Fill in the fields, ask, and wait for an answer or an error."""
        self.fill("first", first)
        if second is not None:
            self.fill("second", second)
        for name in ("error", "result"):  # so that what is waited for is the new one
            self.driver.execute_script("arguments[0].hidden = true", self.element(name))
        self.element("ask").click()
        self.wait(lambda: self.element("ask").is_enabled() and (self.shows("error") or self.shows("result")))

    def complaints(self) -> list[str]:
        """What the browser's console has of this page, but for answers that aren't 200, which it also tells."""
        entries = self.driver.get_log("browser")
        return [
            each["message"] for each in entries if "the server responded with a status" not in each["message"]
        ]
