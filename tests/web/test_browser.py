"""The page in a real browser: it is accessible, follows the fleet and the sound, and works without JavaScript."""

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright  # noqa: E402

from pipeline.jobs.batches import Batches  # noqa: E402
from tests.support.fleet import Fleet  # noqa: E402
from tests.support.site_data import MARK, TOKEN, addresses, seed  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
Open = Callable[..., Page]
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--mute-audio"])
        yield browser
        browser.close()


@pytest.fixture
def site(fleet: Fleet, redis: Any) -> tuple[str, dict[str, int]]:
    """The address of the page of a seeded fleet, and its audio ids."""
    ids = seed(fleet, redis)
    return fleet.page(TOKEN)[1], ids


@pytest.fixture
def log_in(browser: Browser, site: tuple[str, dict[str, int]]) -> Iterator[Open]:
    """`log_in(...)`: a page that is logged in, in a context of its own; what it complains of fails the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def opened(address: str = "/", **options: Any) -> Page:
        context = browser.new_context(base_url=site[0], **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
        page.goto(address)
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"**{address}")
        return page

    yield opened
    for context in contexts:
        context.close()
    # a page that is not there, or refuses a search, says so with its status; one is kept from us by a test
    assert [text for text in complaints if not re.search("status of (400|404)|ERR_FAILED", text)] == []


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 640}}])
def test_every_page_is_accessible(log_in: Open, site: tuple[str, dict[str, int]], options: dict[str, Any]) -> None:
    page = log_in(**options)
    found = []
    for address in [*addresses(site[1]), "/login"]:
        page.goto(address)
        for violation in Axe().run(page).response["violations"]:
            where = [node["target"] for node in violation["nodes"]][:3]
            found.append((violation["impact"], address, violation["id"], where))
    assert [violation for violation in found if violation[0] in SERIOUS] == []
    assert found == []  # nor are there lesser ones


def test_no_page_is_wider_than_a_telephone(log_in: Open, site: tuple[str, dict[str, int]]) -> None:
    page = log_in(viewport={"width": 360, "height": 640})
    for address in addresses(site[1]):
        page.goto(address)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360, address


def test_the_fleet_moves_without_a_reload(log_in: Open, fleet: Fleet, redis: Any) -> None:
    page = log_in()
    expect(page.get_by_role("cell", name="3 of 847")).to_be_visible()
    page.evaluate("window.kept = true")
    assert Batches(redis, "gpu-01").settle("20261124-115900", "9.mp3", "processed") == "counted"
    expect(page.get_by_role("cell", name="4 of 847")).to_be_visible(timeout=15_000)
    assert page.evaluate("window.kept")


def test_the_refresh_can_be_paused(log_in: Open, fleet: Fleet, redis: Any) -> None:
    page = log_in()
    pause = page.get_by_role("button", name="Pause the refresh")
    pause.press("Enter")
    expect(pause).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("status")).to_have_text("not refreshed")
    Batches(redis, "gpu-01").settle("20261124-115900", "9.mp3", "processed")
    page.wait_for_timeout(7000)  # two refreshes would have come
    expect(page.get_by_role("cell", name="3 of 847")).to_be_visible()
    pause.press("Enter")
    expect(page.get_by_role("cell", name="4 of 847")).to_be_visible(timeout=15_000)


def test_a_page_that_is_unavailable_says_so(log_in: Open, fleet: Fleet) -> None:
    page = log_in()
    page.route("**/*", lambda route: route.abort())
    expect(page.get_by_role("status")).to_have_text(re.compile("does not answer"), timeout=15_000)
    page.unroute_all()
    expect(page.get_by_role("status")).to_have_text("", timeout=15_000)


def test_the_transcript_follows_the_sound(log_in: Open, site: tuple[str, dict[str, int]], fleet: Fleet) -> None:
    heard = site[1]["heard"]
    fleet.query(
        "UPDATE transcripts SET segments = jsonb_set(segments, '{1,start}', '0.5') WHERE audio_id = %s", heard
    )
    page = log_in(f"/files/{heard}")
    audio, lines = page.locator("audio"), page.locator("[data-start]")
    lines.nth(1).get_by_role("link").click()
    expect(lines.nth(1)).to_have_attribute("aria-current", "true")
    assert audio.evaluate("audio => audio.currentTime >= 0.5 && audio.currentSrc.includes('/audio')")
    audio.evaluate("audio => { audio.pause(); audio.currentTime = 0; }")
    expect(lines.nth(0)).to_have_attribute("aria-current", "true")
    expect(lines.nth(1)).not_to_have_attribute("aria-current", "true")


def test_a_hit_leads_to_where_it_was_said(log_in: Open, site: tuple[str, dict[str, int]]) -> None:
    page = log_in("/search")
    page.get_by_label("Words").fill("mill")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="monday/call07.mp3").click()
    page.wait_for_url("**#t=10.0")
    assert page.locator("audio").evaluate("audio => audio.currentTime") == 10.0


def test_a_recording_that_is_gone_is_reported(
    log_in: Open, site: tuple[str, dict[str, int]], fleet: Fleet
) -> None:
    page = log_in(f"/files/{site[1]['hostile']}")  # its Opus was never put into S3
    page.locator("[data-start]").first.get_by_role("link").click()
    expect(page.get_by_role("status")).to_have_text(re.compile("cannot be played"))


def test_everything_can_be_read_without_javascript(log_in: Open, site: tuple[str, dict[str, int]]) -> None:
    page = log_in(java_script_enabled=False)
    expect(page.get_by_role("heading", level=1)).to_have_text("The fleet is down")
    page.get_by_role("link", name="Search").click()
    page.get_by_label("Words").fill("mill")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="monday/call07.mp3").click()
    expect(page.get_by_text("There is a fire at the mill.")).to_be_visible()
    expect(page.locator("audio")).to_be_visible()
    assert page.get_by_role("link", name="0:10").get_attribute("href") == f"/files/{site[1]['heard']}/audio#t=10.0"


def test_uncertain_text_is_distinguished_without_javascript(
    log_in: Open, site: tuple[str, dict[str, int]]
) -> None:
    page = log_in(f"/files/{site[1]['doubtful']}", java_script_enabled=False)
    uncertain = page.get_by_text("There is fire on the river road.")
    expect(uncertain).to_have_css("text-decoration-style", "dotted")
    expect(uncertain).to_have_attribute("title", "uncertain: confidence 41 %")
    expect(page.get_by_text("Good morning, the fire brigade.")).not_to_have_css("text-decoration-style", "dotted")
    expect(page.get_by_text("[unintelligible, 4 s]")).to_have_css("font-style", "italic")
    expect(page.get_by_text("(uncertain)").first).to_have_css("width", "1px")  # for those who see no dots


def test_the_keyboard_reaches_everything(log_in: Open, site: tuple[str, dict[str, int]]) -> None:
    page = log_in()
    page.goto("/search")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break  # that was all
        name = page.evaluate("(document.activeElement.innerText || document.activeElement.name || '').trim()")
        reached.append(name)
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"nobody sees that {name} has the focus"
    assert reached[0] == "To the content"
    for name in ("Fleet", "Failures", "Log out", "words", "since", "tag", "Search"):
        assert name in reached


def test_nothing_hostile_runs(log_in: Open, site: tuple[str, dict[str, int]]) -> None:
    """`log_in` fails the test where a dialog opens or the policy had to stop something."""
    page = log_in()
    for address in addresses(site[1]):
        page.goto(address)
        assert page.evaluate("document.querySelectorAll('img, b, script:not([src])').length") == 0, address
    page.goto(f"/files/{site[1]['hostile']}")
    assert MARK in page.locator("h1").inner_text()


def test_times_are_in_the_zone_of_the_reader(log_in: Open, site: tuple[str, dict[str, int]], fleet: Fleet) -> None:
    audio_id = site[1]["heard"]
    sql = "UPDATE audio_files SET recorded_at = '2024-03-15 22:22:33Z', recorded_from = 'name' WHERE audio_id = %s"
    fleet.query(sql + " RETURNING 1", audio_id)
    page = log_in(f"/files/{audio_id}", timezone_id="Asia/Kolkata")
    expect(page.get_by_title("2024-03-15 22:22:33 UTC")).to_have_text("2024-03-16 03:52:33")
    expect(
        page.get_by_text("Times are in Asia/Calcutta").or_(page.get_by_text("Times are in Asia/Kolkata"))
    ).to_be_visible()
    page = log_in(f"/files/{audio_id}", java_script_enabled=False)
    expect(page.get_by_title("2024-03-15 22:22:33 UTC")).to_have_text("2024-03-15 22:22:33")
    expect(page.get_by_text("Times are in UTC")).to_be_visible()
