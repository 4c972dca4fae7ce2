"""The page from the real server, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium drives the browser: pip install selenium")
pytest.importorskip("ray.serve", reason="serving needs Ray: pip install squeezebert-fast[ray]")

from squeezebert_fast import SqueezeBertForMaskedLM, SqueezeBertModel
from squeezebert_fast.shipped import SENTIMENT_MODEL
from tests.cli_helpers import save_model
from tests.serving.browser import Page, browser, needs_browser
from tests.serving.running import serving

pytestmark = [needs_browser, pytest.mark.slow]  # three servers


def test_the_page_shows_what_each_kind_of_model_answers(tmp_path: Path) -> None:
    encoder, masked = (
        save_model(kind, tmp_path / name)
        for kind, name in ((SqueezeBertModel, "encoder"), (SqueezeBertForMaskedLM, "masked"))
    )
    with browser(tmp_path / "profile") as driver:
        with serving(tmp_path, SENTIMENT_MODEL) as server:
            page = Page(driver, f"{server.url}/")
            page.ask("A warm and funny film.\nThe plot is thin, the acting thinner.")
            assert page.all("dt") == ["positive", "negative"]
            page.element("pairs").click()
            page.ask("one", "two")
            assert len(page.all("dt")) == 1
            assert page.complaints() == []
            driver.get(f"{server.url}/docs")
            assert "/predict" in driver.page_source
            assert driver.get_log("browser") == []
        with serving(tmp_path, encoder, "--max-texts", 2) as server:
            page = Page(driver, f"{server.url}/")
            page.ask("the same\nthe same")
            assert page.all("td")[1:] == ["1.000"] * 4
            page.ask("one\ntwo\nthree")
            assert page.text("error") == "400: the request holds 3 texts, expected at most 2"
            assert page.complaints() == []
        with serving(tmp_path, masked) as server:
            page = Page(driver, f"{server.url}/")
            page.element("mask").click()
            page.fill("top", "3")
            page.ask("a [MASK] b [MASK]")
            assert len(page.all("dt")) == 6
            page.ask("no mask at all")
            assert "[MASK]" in page.text("error")
            assert page.complaints() == []
