"""The search page in headless Chromium (Debian's `chromium` and `chromium-driver`)."""

import contextlib
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from jaxir import Retriever
from jaxir.serve import __main__ as serve
from jaxir.serve.engine import Engine
from jaxir.serve.requests import Limits

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MODEL = Path(__file__).parent / "fixtures" / "labse"
PASSAGES = (
    # begins with Latin letters, which alone would make a browser write it from the left
    ("ar", "Danube هو ثاني أطول نهر في أوروبا، وينبع من الغابة السوداء."),
    ("he", "הדנובה היא הנהר השני באורכו באירופה."),
    ("de", "Die Donau entspringt im Schwarzwald."),
    ("en", "The Danube rises in the Black Forest <img src=x onerror=\"document.title='owned'\">"),
    ("hi", "डेन्यूब यूरोप की दूसरी सबसे लंबी नदी है।"),
    ("zh", "多瑙河发源于黑森林。"),
    ("", "<script>document.title = 'owned'</script>"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is missing"),
    # selenium leaves sockets to its driver to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.* and were cut there"),
]


@pytest.fixture(scope="module")
def server():
    """An address, and the server, so that a test can end it."""
    retriever = Retriever.load(MODEL)
    languages, texts = zip(*PASSAGES)
    engine = Engine(retriever, retriever.index(texts, languages=languages))
    server = serve.make_server(engine, Limits(characters=300), serve.LOOPBACK)
    with serve.listen("127.0.0.1", 0) as listener:
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", server, thread
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--window-size=1000,1400", f"--user-data-dir={profile}"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(DRIVER))
    with contextlib.closing(browser):
        yield browser
    browser.quit()


def search(browser, query):
    """Type a query as a user does, and wait for what comes of it."""
    field = browser.find_element(By.ID, "query")
    field.clear()
    field.send_keys(query)
    browser.find_element(By.TAG_NAME, "button").click()
    settle(browser)


def settle(browser):
    def settled(browser):
        shown = [browser.find_element(By.ID, name).is_displayed() for name in ("found", "error")]
        busy = browser.find_element(By.TAG_NAME, "body").get_attribute("aria-busy")
        return any(shown) and not busy

    WebDriverWait(browser, 20).until(settled)


def results(browser):
    """Language badge, score, direction as laid out, `lang` and text of each, all at one moment."""
    rows = browser.execute_script(
        """return [...document.querySelectorAll("#results li")].map((item) => {
          const [badge, score, text] = ["badge", "score", "text"].map((name) =>
            item.querySelector("." + name));
          return [badge.textContent, Number(score.textContent), getComputedStyle(text).direction,
            text.getAttribute("lang"), text.innerText];
        });"""
    )
    return list(map(tuple, rows))


def open_page(browser, server, path=""):
    browser.get(server[0] + "/" + path)
    wait = WebDriverWait(browser, 20)
    wait.until(lambda b: len(b.find_elements(By.CSS_SELECTOR, "#language option")) > 1)


def keep_picture(browser, name):
    """Into $JAXIR_PICTURES, for somebody to look at."""
    if folder := os.environ.get("JAXIR_PICTURES"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def test_results_of_all_languages_each_in_its_direction(browser, server):
    open_page(browser, server)
    search(browser, "Wo entspringt die Donau?")
    found = results(browser)
    assert len(found) == len(PASSAGES)
    assert [score for _, score, *_ in found] == sorted((x[1] for x in found), reverse=True)
    names = {"Arabic", "Hebrew", "German", "English", "Hindi", "Chinese", "unknown"}
    assert {badge for badge, *_ in found} == names
    laid_out = {badge: (direction, code) for badge, _, direction, code, _ in found}
    assert laid_out["Arabic"] == ("rtl", "ar")
    assert laid_out["Hebrew"] == ("rtl", "he")
    assert laid_out["German"] == ("ltr", "de")
    assert laid_out["Chinese"] == ("ltr", "zh")
    assert laid_out["unknown"][1] is None
    shares = browser.find_element(By.ID, "shares").text
    assert "Arabic 14 %" in shares
    assert "7 results from all languages" in browser.find_element(By.ID, "summary").text
    keep_picture(browser, "all_languages")


def test_a_query_from_the_right_and_results_of_one_language(browser, server):
    open_page(browser, server)
    search(browser, "أين ينبع نهر الدانوب؟")
    field = browser.find_element(By.ID, "query")
    assert field.value_of_css_property("direction") == "rtl"
    everywhere = results(browser)
    chosen = Select(browser.find_element(By.ID, "language"))
    chosen.select_by_visible_text("Arabic (1)")
    WebDriverWait(browser, 20).until(lambda b: len(results(b)) == 1)
    assert results(browser) == [x for x in everywhere if x[0] == "Arabic"]
    assert "from Arabic" in browser.find_element(By.ID, "summary").text
    keep_picture(browser, "arabic")
    # the address is the search: opened again it shows the same
    browser.get(browser.current_url)
    WebDriverWait(browser, 20).until(lambda b: len(results(b)) == 1)
    chosen = Select(browser.find_element(By.ID, "language"))
    chosen.select_by_value("=")
    WebDriverWait(browser, 20).until(lambda b: results(b) and results(b)[0][0] == "unknown")


def test_passages_are_text_and_never_markup(browser, server):
    open_page(browser, server)
    search(browser, "<b>Danube</b>")
    texts = [text for *_, text in results(browser)]
    assert "<script>document.title = 'owned'</script>" in texts
    assert browser.title == "jaxir search"
    assert not browser.find_elements(By.CSS_SELECTOR, "#results img, #results script, #results b")
    # nothing the page needs is against its own policy
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    assert not [message for message in complaints if "Content Security Policy" in message]


def test_an_error_is_shown_and_goes_away(browser, server):
    open_page(browser, server)
    search(browser, "a" * 301)
    error = browser.find_element(By.ID, "error")
    assert error.text == "query: has 301 characters; 300 are allowed"
    assert not browser.find_element(By.ID, "found").is_displayed()
    keep_picture(browser, "error")
    search(browser, "Donau")
    assert not error.is_displayed()
    assert results(browser)


def test_narrow_windows_need_no_scrolling_sideways(browser, server):
    browser.set_window_size(500, 900)
    open_page(browser, server, "?q=Donau")
    settle(browser)
    width = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert width <= 0
    keep_picture(browser, "narrow")
    browser.set_window_size(1000, 1400)


def test_a_server_that_has_gone_is_told_of(browser, server):  # the last: it ends the server
    open_page(browser, server)
    server[1].should_exit = True
    server[2].join(600)
    deadline = time.monotonic() + 600
    while server[2].is_alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    search(browser, "Donau")
    assert "does not answer" in browser.find_element(By.ID, "error").text
