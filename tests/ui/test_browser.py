"""A person's way through each tab, in Debian's chromium; what was seen is kept in SCREENSHOTS."""

from __future__ import annotations

import contextlib
import csv
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.run import Run
from ui.page import serving
from ui.ports import free_port
from ui.shelf import Shelf
from ui.training import Setup, TaskChoice, Trainings

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e '.[dev]')")

SCREENSHOTS = Path(tempfile.gettempdir()) / "modernbert-screenshots"
#: Milliseconds that anything may take; a training process imports torch first.
WAIT, TRAINED = 30_000, 150_000
STILL, UPLOADS = 500, 4
SIZES = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
TEXT = "The courier left my parcel with a neighbour"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(
    make_run: Callable[..., Run],
    make_search_run: Callable[..., Run],
    run: Run,
    ner_run: Run,
    rerank_run: Run,
    tiny_encoder: Callable[..., Path],
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """A page of runs of every task, from which a tiny encoder can be trained."""
    teams = ["delivery", "billing", "account", "returns", "app"]
    runs = [run, make_run(teams, name="other", seed=5), ner_run, rerank_run]
    runs += [make_search_run(), make_search_run("multi_vector", "late")]
    encoder = tiny_encoder("bert")

    def word(key: str, value: str | int) -> str:
        return f"encoder.source={encoder}" if key == "encoder" else f"{key}={value}"

    roles = {"text": "column of the text", "label": "column of the label"}
    tasks = {"classification": TaskChoice("Sort texts.", roles)}
    folder = tmp_path_factory.mktemp("trained")
    command = (sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r}); from app.cli import main; "
               "sys.exit(main())")  # fmt: skip
    trainings = Trainings(Setup(command, word, tasks, {"tiny": "two layers"}, folder))
    shelf = Shelf(loaded={each.folder.name: each for each in runs})
    with serving(shelf, "127.0.0.1", free_port("127.0.0.1", 26_000), trainings) as found:
        yield found


class Visit:
    """One visitor: a page in a size and a colour scheme, and everything that went wrong in it."""

    def __init__(self, browser: Any, address: str, size: str, dark: bool) -> None:
        scheme = "dark" if dark else "light"
        self.page = browser.new_page(viewport=SIZES[size], color_scheme=scheme)
        self.page.set_default_timeout(WAIT)
        self.size, self.failures = size, []
        self.open: set[Any] = set()
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        self.page.on("response", lambda reply: self.failures.extend([reply.url] * (reply.status >= 400)))
        self.page.on("request", lambda request: self.left(request.url, address))
        self.page.on("request", lambda request: self.open.add(request))
        for end in ("requestfinished", "requestfailed"):
            self.page.on(end, lambda request: self.open.discard(request))
        self.page.goto(address)
        self.page.get_by_role("tab").first.wait_for()
        self.settle()

    def left(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.failures.append(f"it asked {url}")

    def tab(self, name: str) -> None:
        """Open a tab."""
        self.page.get_by_role("tab", name=name, exact=True).click()
        self.settle()

    def choose(self, label: str, option: str) -> None:
        """An option of a dropdown."""
        box = self.visible(self.named(label))
        box.click()
        box.fill(option)
        self.page.get_by_role("option", name=re.compile(f"^(✓ ?)?{re.escape(option)}( ·.*)?$")).first.click()

    def run(self, name: str) -> None:
        """Choose a run, and wait until the page is about it."""
        self.choose("Run", name)
        self.page.get_by_role("heading", name=name, exact=True).wait_for()
        self.settle()

    def settle(self) -> None:
        """Gradio makes boxes when they come into sight; what a machine types into them before that is lost.

        So wait until nothing moves in the page, nor is asked of the server (but the heartbeat, which never ends).
        """
        for _ in range(WAIT // STILL):
            self.page.evaluate(UNMOVED, STILL)
            if all("heartbeat" in request.url for request in self.open):
                return

    def fill(self, label: str, text: str) -> None:
        self.visible(self.named(label)).fill(text)

    def named(self, label: str) -> Any:
        """What has this label; what Gradio writes below a label belongs to the name."""
        return self.page.get_by_label(re.compile(rf"^\s*{re.escape(label)}"))

    def press(self, name: str) -> None:
        self.visible(self.page.get_by_role("button", name=name, exact=True)).click()

    def upload(self, number: int, path: Path) -> None:
        """Into the visible file box of this number; once more where the box was made anew meanwhile and lost it.

        A box that holds a file has no input any more, and names it by a label. Its name stands there as a text only
        while it is sent, which may be too short to be seen.
        """
        pane = self.page.locator('[role="tabpanel"]:visible')
        box, shown = pane.locator('input[type="file"]').nth(number), pane.get_by_label(path.name, exact=True).first
        for _ in range(UPLOADS):
            with contextlib.suppress(sync_api.TimeoutError):
                box.set_input_files(str(path), timeout=WAIT / UPLOADS)
            with contextlib.suppress(sync_api.TimeoutError):
                shown.wait_for(timeout=WAIT / UPLOADS)
                return self.settle()
        pytest.fail(f"timeout: {path.name} did not appear in the box of files of\n{pane.inner_html()[:4000]}")

    def visible(self, found: Any) -> Any:
        """Of elements that every tab has, the one in sight."""
        return found.locator("visible=true").first

    def answer(self, css: str) -> Any:
        """What stands in an answer, once it is there."""
        found = self.page.locator(f".answer:visible {css}").first
        found.wait_for()
        return found

    def keep(self, name: str) -> None:
        """A picture; nothing may stick out of the page, and everything to act on has a name."""
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.wait_for_timeout(400)  # fades end
        self.page.screenshot(path=SCREENSHOTS / f"{name}-{self.size}.png", full_page=True)
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"the page is {wide} pixels wider than its window"
        nameless = self.page.evaluate(NAMELESS)
        assert nameless == []
        assert self.failures == []


#: Ends when nothing in the page has changed for so many milliseconds, or much later all the same.
UNMOVED = """still => new Promise(done => {
  let timer = setTimeout(finish, still);
  const watch = new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(finish, still); });
  const latest = setTimeout(finish, 10 * still);
  function finish() { watch.disconnect(); clearTimeout(timer); clearTimeout(latest); done(); }
  watch.observe(document.body, {subtree: true, childList: true, attributes: true});
})"""

#: What can be acted on and has no name that a screen reader could say.
NAMELESS = """() => [...document.querySelectorAll('button, input, textarea, select, a[href], [role=tab]')]
  .filter(each => each.checkVisibility({visibilityProperty: true}) && each.type !== 'file')
  .filter(each => !(each.innerText || each.getAttribute('aria-label') || each.title || each.querySelector('img[alt]') ||
    (each.labels && [...each.labels].some(label => label.innerText.trim())) ||
    document.getElementById(each.getAttribute('aria-labelledby') || '-')))
  .map(each => each.outerHTML.slice(0, 200))"""


@pytest.fixture(params=[("wide", False), ("phone", True)], ids=["light", "phone-dark"])
def visit(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Visit]:
    size, dark = request.param
    made = Visit(browser, address, size, dark)
    yield made
    made.page.close()


def write(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_classify_and_what_spoke_for_it(visit: Visit) -> None:
    visit.fill("Text", TEXT)
    visit.press("Answer")
    visit.answer('[role="meter"]')
    visit.press("What spoke for it?")
    assert visit.answer(".marked mark").inner_text() in TEXT
    visit.keep("classify")


def test_an_error_is_a_message_in_the_page(visit: Visit) -> None:
    visit.press("Answer")
    visit.page.get_by_text("Text is empty: type or paste one").wait_for()
    visit.keep("message")


def test_an_example_is_answered_by_a_click(visit: Visit) -> None:
    visit.page.get_by_role("button", name="The parcel has not come yet").click()
    visit.answer('[role="meter"]')
    assert visit.visible(visit.named("Text")).input_value() == "The parcel has not come yet"


def test_entities(visit: Visit) -> None:
    visit.run("ner-run")
    visit.fill("Text", TEXT)
    visit.press("Answer")
    visit.answer("mark .type")
    visit.keep("entities")


def test_search_an_uploaded_corpus_and_order_it_anew(visit: Visit, tmp_path: Path) -> None:
    visit.run("dense-search")
    long = "The courier comes at noon. " * 20 + "Where is my parcel? " + "Please refund the money. " * 20
    corpus = write(tmp_path / "docs.csv", ("id", "text"), ("a", TEXT), ("b", "refund my money"), ("c", long))
    visit.upload(0, corpus)
    visit.press("Make searchable")
    visit.page.get_by_text("3 documents of docs.csv can be searched").wait_for()
    visit.fill("Query", "where is my parcel")
    visit.choose("Order anew by", "rerank-run")
    visit.press("Search")
    assert visit.answer("mark.passage").inner_text().strip()
    assert visit.page.locator(".answer:visible section h3").all_inner_texts() == [
        "As found",
        "Ordered anew by rerank-run",
    ]
    assert visit.page.locator(".answer:visible ol.hits > li").count() == 6
    visit.keep("search")


def test_late_interaction_has_a_heat_map(visit: Visit, tmp_path: Path) -> None:
    visit.run("late")
    visit.upload(0, write(tmp_path / "docs.csv", ("text",), (TEXT,), ("please refund my money",)))
    visit.press("Make searchable")
    visit.page.get_by_text("2 documents of docs.csv can be searched").wait_for()
    visit.fill("Query", "my parcel")
    visit.press("Search")
    assert visit.answer(".warm").get_attribute("title")
    visit.keep("heat")


def test_order_documents(visit: Visit) -> None:
    visit.run("rerank-run")
    visit.fill("Query", "where is my parcel")
    tabs = visit.page.get_by_role("tab").all_inner_texts()
    assert tabs == ["Order documents", "Score a file", "The run", "Train"]
    visit.fill("Documents", f"{TEXT}\nplease refund my money\n\nthe app closes")
    visit.press("Put in order")
    visit.answer("ol.hits")
    assert visit.page.locator(".answer:visible ol.hits > li").count() == 3
    visit.keep("order")


def test_score_a_file(visit: Visit, tmp_path: Path) -> None:
    visit.tab("Score a file")
    visit.upload(0, write(tmp_path / "new.csv", ("id", "message"), ("1", TEXT), ("2", "refund")))
    visit.press("Score the file")
    visit.page.get_by_text("2 rows scored.").wait_for()
    visit.page.get_by_text("new_scored").first.wait_for()
    visit.keep("batch")


def test_the_run(visit: Visit) -> None:
    visit.tab("The run")
    visit.page.get_by_role("heading", name="Confusion matrix").wait_for()
    assert visit.page.locator('[role="region"][aria-label="Scores"]').is_visible()
    rows = visit.page.locator('[aria-label="Worst errors"] tbody tr')
    before = rows.count()
    visit.choose("Right answer", "billing")
    counted = "document.querySelectorAll('[aria-label=\"Worst errors\"] tbody tr').length"
    visit.page.wait_for_function(f"{counted} < {before}")
    visit.keep("run")


def test_compare(visit: Visit) -> None:
    visit.tab("Compare")
    visit.fill("Text", TEXT)
    visit.press("Ask both")
    visit.answer('section [role="meter"]')
    assert visit.page.locator(".answer:visible section h3").all_inner_texts() == ["auto-run", "other"]
    visit.press("Compare on these rows")
    visit.answer('[aria-label="Comparison"]')
    visit.keep("compare")


def test_train_watch_and_try(browser: Any, address: str, tmp_path: Path) -> None:
    visit = Visit(browser, address, "wide", dark=False)
    words = {"good": "the parcel was fine and good", "bad": "the app was bad again"}
    rows = [(f"{text} {i}", label) for i in range(40) for label, text in words.items()]
    visit.tab("Train")
    visit.upload(0, write(tmp_path / "reviews.csv", ("text", "label"), *rows))
    visit.press("Check the data")
    visit.page.set_default_timeout(TRAINED)
    visit.page.get_by_text("Ready to train").wait_for()
    visit.keep("train-checked")
    visit.press("Start training")
    visit.page.get_by_text("Training …").wait_for()
    visit.press("What it says ▼")
    visit.page.get_by_text("validation: 8 of 80 rows of reviews.csv").last.wait_for()
    visit.page.get_by_text("modernbert train task=classification").wait_for()
    visit.page.get_by_text("Trained. The run is in").wait_for()
    assert visit.page.locator(".panels:visible svg").count() >= 2
    visit.keep("train")
    visit.press("Open the trained run")
    visit.page.get_by_role("heading", name=re.compile("-reviews$")).wait_for()
    visit.tab("Try a text")
    visit.fill("Text", "the app was bad again")
    visit.press("Answer")
    visit.answer('[role="meter"]')
    visit.keep("trained")
    visit.page.close()
