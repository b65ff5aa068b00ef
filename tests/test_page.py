"""The page, in a real browser: Debian's Chromium without a screen."""

import shutil
import time
from pathlib import Path

import pytest
from serving import Server, painting

if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium chromium-driver)", allow_module_level=True)

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
]
TOKEN = "t" * 20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("page")) as server:
        yield server


@pytest.fixture(scope="module")
def chromium():
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    yield driver
    driver.quit()


class Page:
    """The page in a browser, with the words that tests use."""

    def __init__(self, driver, url: str):
        self.driver = driver
        driver.get(url)

    def one(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, question, seconds: float = 30):
        """Ask until the answer is true; an element that the page replaced meanwhile is looked up again."""
        passing = [StaleElementReferenceException]
        return WebDriverWait(self.driver, seconds, 0.05, passing).until(lambda _: question())

    def click(self, selector: str) -> None:
        self.until(lambda: [self.one(selector).click()])

    def fill(self, name: str, text: str) -> None:
        def type_it() -> bool:
            field = self.one(f"#input-{name}")
            field.clear()
            field.send_keys(text)
            return True

        self.until(type_it)

    def width(self, selector: str) -> int:
        return self.driver.execute_script("return arguments[0].naturalWidth", self.one(selector))

    def run(self) -> None:
        self.click("button.go")


@pytest.fixture
def page(server, chromium):
    made = Page(chromium, server.url)
    made.until(lambda: made.one("#state").text == "connected")
    made.until(lambda: made.all("button.go"))
    yield made
    problems = [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [entry for entry in problems if "422" not in entry["message"] and "401" not in entry["message"]]


def test_a_form_is_submitted_progress_is_seen_and_the_picture_is_shown(page):
    page.fill("prompt", "a large red star on a green background")
    page.fill("steps", "90")
    before = len(page.all("#gallery img"))
    page.run()
    page.until(lambda: page.all("#queue li"))
    page.until(lambda: [image for image in page.all("#queue img") if image.get_attribute("src")])
    page.until(lambda: len(page.all("#gallery img")) == before + 1, 60)
    page.until(lambda: page.width("#gallery img") == 64)
    assert not page.all("#queue li")


def test_the_form_is_made_from_the_declared_inputs(page):
    steps = page.one("#input-steps")
    assert (steps.get_attribute("min"), steps.get_attribute("max"), steps.get_attribute("value")) == ("1", "1000", "20")
    Select(page.one("#workflow")).select_by_value("image_to_image")
    page.until(lambda: page.all("#input-image"))
    assert page.one("#input-image").get_attribute("type") == "file"


def test_names_of_models_are_offered_and_others_can_be_typed(page):
    field = page.until(lambda: page.one("#input-checkpoint"))
    offered = page.until(
        lambda: [option.get_attribute("value") for option in page.all("#input-checkpoint-names option")]
    )
    assert field.get_attribute("list") == "input-checkpoint-names" and "tiny" in offered
    assert "tiny-dit" not in offered  # a denoiser by itself
    page.fill("checkpoint", "mine")
    page.run()
    assert "there is no checkpoint 'mine'" in page.until(lambda: page.one("#form-error").text)


def test_what_a_run_did_otherwise_than_asked_stands_under_its_picture(page):
    page.fill("prompt", "a red wombat on a white background")
    page.run()
    told = "tiny speaks a small language, in which there is no wombat."
    assert page.until(lambda: told in [note.text for note in page.all("#gallery small")])


def test_a_picture_can_be_uploaded_with_the_form(page, tmp_path):
    from PIL import Image as pillow

    pillow.new("RGB", (64, 64), "#2040e0").save(tmp_path / "mine.png")
    Select(page.one("#workflow")).select_by_value("image_to_image")
    page.until(lambda: page.all("#input-image"))
    page.one("#input-image").send_keys(str(tmp_path / "mine.png"))
    page.fill("steps", "8")
    before = len(page.all("#gallery img"))
    page.run()
    page.until(lambda: len(page.all("#gallery img")) == before + 1, 60)


def test_what_is_wrong_is_told_beside_the_form(page):
    page.driver.execute_script("document.getElementById('input-steps').removeAttribute('min')")
    page.fill("steps", "0")
    page.run()
    page.until(lambda: "greater than or equal to 1" in page.one("#form-error").text)


def test_a_picture_shows_its_recipe_and_its_inputs_can_be_used_again(server, page):
    run = server.post(
        "/v1/workflows/text_to_image/runs", {"prompt": "a small blue ring on a white background", "steps": 7}
    )
    server.ended(run.json()["id"])
    page.until(lambda: "blue ring" in page.one("#gallery span").text)
    page.click("#gallery button")
    page.until(lambda: page.one("#recipe").is_displayed())
    assert "a small blue ring" in page.one("#recipe-inputs").text
    page.click("#again")
    page.until(lambda: page.one("#input-steps").get_attribute("value") == "7")


def test_the_graph_is_drawn(page):
    page.click("#graph summary")
    page.until(lambda: page.width("#drawing") > 300)


def test_a_run_can_be_cancelled_on_the_page(page):
    page.fill("steps", "1000")
    page.fill("seed", str(time.time_ns() % 10**6))
    page.run()
    page.click("#queue button")
    page.until(lambda: not page.all("#queue li"))


def test_everything_can_be_done_with_the_keyboard(page):
    page.one("#workflow").send_keys(Keys.TAB)
    assert page.driver.switch_to.active_element.get_attribute("id") == "input-prompt"
    page.fill("steps", "5")
    before = len(page.all("#gallery img"))
    page.one("#input-steps").send_keys(Keys.ENTER)
    page.until(lambda: len(page.all("#gallery img")) == before + 1, 60)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_follows_the_theme(page, tmp_path, width, scheme):
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    page.driver.save_screenshot(str(tmp_path / "page.png"))
    measure = "return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
    wide, colour = page.driver.execute_script(measure)
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width
    assert colour == ("rgb(245, 246, 250)" if scheme == "light" else "rgb(18, 21, 29)")
    assert Path(tmp_path / "page.png").stat().st_size > 5_000


def test_markup_in_a_name_is_shown_as_text(server, page):
    workflow = {"graphengine": 1, "name": "<img src=x onerror=document.title='pwned'>", "nodes": {}}
    workflow["nodes"] = {"n": {"type": "Text", "inputs": {"text": "x"}}}
    server.post("/v1/queue/pause")
    try:
        run = server.submit(workflow)
        page.until(lambda: "<img" in page.one("#queue").text)
        assert page.driver.title == "GraphEngine"
        server.http.delete(f"/v1/runs/{run}")
    finally:
        server.post("/v1/queue/resume")


def test_the_page_asks_for_a_token_and_keeps_it_for_the_session(tmp_path, chromium):
    (tmp_path / "tokens").write_text(f"me:{TOKEN}")
    with Server(tmp_path / "server", "--token-file", str(tmp_path / "tokens")) as server:
        kept = server.http.put("/v1/workflows/painting", json=painting(), headers={"Authorization": f"Bearer {TOKEN}"})
        assert kept.status_code == 201, kept.text
        page = Page(chromium, server.url)
        page.until(lambda: page.one("#token").is_displayed())
        page.one("#token-value").send_keys(TOKEN + Keys.ENTER)
        page.until(lambda: page.one("#state").text == "connected")
        Select(page.one("#workflow")).select_by_value("painting")  # it needs no model
        page.run()
        page.until(lambda: page.all("#gallery img"), 60)
        page.until(lambda: page.width("#gallery img") == 64)
