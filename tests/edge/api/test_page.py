"""The page in a real browser, at the width of a phone and of a desk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from uhlm_edge.configs.layers import load_config
from uhlm_edge.edge.api.hybrid import Hybrid
from uhlm_edge.edge.api.options import keys_of
from uhlm_edge.edge.link.http import HttpLink
from uhlm_edge.edge.link.protocol import Deadline
from uhlm_edge.wire.messages import Conflict, Reply, Request

from ...commands import RunningVerifier, verifier
from .browser import browser, needs_browser
from .models import ASKED, demo
from .running import KEY, Running, in_thread

SCREENSHOT = Path(__file__).parents[3] / "docs" / "serve.png"
QUESTION = str(ASKED[0]["content"])


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    cap = {"session": {"bytes": 20_000}}
    with demo(strategy="uhlm", seed=6, budget=cap) as hybrid, in_thread(hybrid, key="") as running:
        hybrid.generate(ASKED).read()  # both models have been read from the disk
        yield running


def wait(driver: Any, condition: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 60, 0.05).until(condition)


def find(driver: Any, css: str) -> list[Any]:
    return list(driver.find_elements("css selector", css))


def ready(driver: Any, url: str) -> None:
    driver.get(url)
    wait(driver, lambda d: find(d, "#strategy option"))


def say(driver: Any, text: str) -> Any:
    """The reply, when it has been written."""
    before = len(find(driver, ".reply"))
    (box,) = find(driver, "#said")
    box.send_keys(text + "\n")
    wait(driver, lambda d: len(find(d, ".reply")) > before and not find(d, ".writing"))
    return find(driver, ".reply")[-1]


def quiet(driver: Any) -> bool:
    """Nothing was refused by the policy, no script failed, and nobody else was asked."""
    addresses = "return performance.getEntriesByType('resource').map(e => new URL(e.name).host)"
    hosts = set(driver.execute_script(addresses)) | {driver.execute_script("return location.host")}
    return len(hosts) == 1 and driver.get_log("browser") == []


def overlapping(driver: Any, css: str) -> list[tuple[str, str]]:
    """Pairs of elements that are shown one over the other."""
    boxes = [(each.text or each.tag_name, each.rect) for each in find(driver, css)]
    shown = [(name, r) for name, r in boxes if r["width"] > 1 and r["height"] > 1]
    return [
        (a, b)
        for i, (a, one) in enumerate(shown)
        for b, two in shown[i + 1 :]
        if one["x"] + one["width"] > two["x"] + 1
        and two["x"] + two["width"] > one["x"] + 1
        and one["y"] + one["height"] > two["y"] + 1
        and two["y"] + two["height"] > one["y"] + 1
    ]


def test_the_page_may_talk_to_its_own_server_alone(server: Running) -> None:
    page = requests.get(server.url, timeout=60)
    policy, text = page.headers["content-security-policy"], page.text
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "//" not in text.replace("<!--", "")
    for path in ("/app.js", "/style.css"):
        assert "http" not in requests.get(server.url + path, timeout=60).text


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("width", "height", "dark"), [(1280, 600, False), (360, 740, True)])
def test_a_word_that_was_replaced_shows_it_and_says_why(
    server: Running, tmp_path: Path, width: int, height: int, dark: bool
) -> None:
    with browser(width, height, dark) as driver:
        ready(driver, server.url)
        reply = say(driver, QUESTION)
        word = reply.find_elements("css selector", ".replaced")[0]
        word.click()
        why = reply.find_element("css selector", ".why").text
        assert "in place of the device's draft" in why
        assert "rejected the draft" in why
        assert "not measured" not in why
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width
        wait(driver, lambda d: "of 20.0 kB" in find(d, "#stats")[0].text)  # the budget
        assert overlapping(driver, ".bar > *") == []
        find(driver, "#settings")[0].click()
        assert overlapping(driver, ".panel > *") == overlapping(driver, ".row > *") == []
        find(driver, "#settings")[0].click()
        assert quiet(driver)
        shot = tmp_path / "page.png"
        driver.save_screenshot(str(shot))
        assert shot.stat().st_size > 10_000
        if width > 1000 and not SCREENSHOT.exists():
            SCREENSHOT.write_bytes(shot.read_bytes())  # remove the old one to make a new one


@pytest.mark.slow
@needs_browser
def test_the_keyboard_goes_from_word_to_word(server: Running) -> None:
    from selenium.webdriver.common.keys import Keys

    with browser(360) as driver:
        ready(driver, server.url)
        reply = say(driver, QUESTION)
        words = reply.find_elements("css selector", ".words .t")
        driver.execute_script("arguments[0].focus()", words[0])
        driver.switch_to.active_element.send_keys(Keys.ENTER)
        first = reply.find_element("css selector", ".why h2").text
        driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
        second = reply.find_element("css selector", ".why h2").text
        assert [first, second] == [f"“{word.text}”" for word in words[:2]]
        driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        assert not reply.find_element("css selector", ".why").is_displayed()


@pytest.mark.slow
@needs_browser
def test_text_stays_text_and_a_choice_of_strategy_holds(server: Running) -> None:
    with browser(1280) as driver:
        ready(driver, server.url)
        find(driver, "#settings")[0].click()
        find(driver, "#strategy option[value=local]")[0].click()
        reply = say(driver, "<img src=x onerror=alert(1)> <b>2</b>")
        assert "<img src=x" in find(driver, ".said")[0].text
        assert not find(driver, "#log img") + find(driver, "#log b")
        assert not reply.find_elements("css selector", ".confirmed, .replaced, .unverified")
        assert "no uploads" in reply.find_element("css selector", ".cost").text
        assert quiet(driver)


@pytest.mark.slow
@needs_browser
def test_the_settings_are_usable_by_keyboard_and_a_threshold_goes_with_its_score(
    server: Running,
) -> None:
    from selenium.webdriver.common.keys import Keys

    with browser(360) as driver:
        ready(driver, server.url)

        def press(key: str) -> Any:
            driver.switch_to.active_element.send_keys(key)
            return driver.switch_to.active_element

        def outlined() -> bool:
            style = "return getComputedStyle(document.activeElement).outlineStyle"
            return bool(driver.execute_script(style) == "solid")

        driver.execute_script("document.getElementById('fresh').focus()")
        button = press(Keys.TAB)
        assert button.get_attribute("id") == "settings"
        assert outlined()
        press(Keys.SPACE)
        seen = []
        while (at := press(Keys.TAB).get_attribute("id")) != "theme":
            assert outlined()
            seen.append(at)
            assert len(seen) < 9
            if at == "threshold":
                press(Keys.ARROW_RIGHT)
        assert seen == ["strategy", "threshold", "automatic"]
        assert find(driver, "#threshold-text")[0].text == "0.11"

        strategy = find(driver, "#strategy")[0]
        for keys, name, of, value in [
            (Keys.ARROW_DOWN * 2, "spec", "Threshold of u", "0.11"),  # the same score
            (Keys.ARROW_DOWN, "reward", "Threshold of the expected rejection", "automatic"),
            (Keys.HOME, "local", "Threshold", "none"),
        ]:
            strategy.send_keys(keys)
            assert strategy.get_attribute("value") == name
            assert find(driver, "#threshold-name")[0].text == of
            assert find(driver, "#threshold-text")[0].text == value
        assert press(Keys.ESCAPE).get_attribute("id") == "settings"
        assert not find(driver, "#panel")[0].is_displayed()
        assert quiet(driver)


class _Killing(HttpLink):
    """A link whose verifier is killed before the fourth call."""

    process: RunningVerifier
    asked = 0

    def verify(
        self, session_id: str, request: Request, n_vocab: int, deadline: Deadline
    ) -> Reply | Conflict:
        self.asked += 1
        if self.asked == 4:
            self.process.kill()
        return super().verify(session_id, request, n_vocab, deadline)


@pytest.mark.slow
@needs_browser
def test_a_verifier_killed_in_the_middle_is_told_and_the_text_goes_on(tmp_path: Path) -> None:
    given = keys_of({"strategy": "hlm", "seed": 4, "pipelined": False})
    config = load_config(given, "demo", environment={}).config
    with verifier(tmp_path) as running:
        link = _Killing(running.url)
        link.process = running
        with (
            Hybrid(config, link=link) as hybrid,
            in_thread(hybrid, key="") as server,
            browser(360) as driver,
        ):
            ready(driver, server.url)
            reply = say(driver, QUESTION)
            (told,) = find(driver, ".notice")
            assert "going on with the device alone" in told.text
            assert find(driver, "#status")[0].get_attribute("data-state") == "offline"
            kinds = [
                word.get_attribute("class").split()[1]
                for word in reply.find_elements("css selector", ".words .t")
            ]
            assert set(kinds[:3]) <= {"confirmed", "replaced"}
            assert len(kinds) > 4
            assert kinds[3] == "unverified"
            assert "partly without the cloud" in reply.text
            driver.save_screenshot(str(tmp_path / "killed.png"))


@pytest.mark.slow
@needs_browser
def test_a_key_is_asked_for_and_then_used() -> None:
    with demo(alone=True) as hybrid, in_thread(hybrid) as server, browser(360) as driver:
        driver.get(server.url)
        wait(driver, lambda d: find(d, "#key-dialog[open]"))
        find(driver, "#key")[0].send_keys(KEY + "\n")
        wait(driver, lambda d: find(d, "#strategy option"))
        assert "Lima" in say(driver, "What is the capital of Peru?").text
        assert json.loads(driver.execute_script("return JSON.stringify({...localStorage})")) == {}
