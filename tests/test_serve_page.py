"""The page at `/` in a real browser: every kind of model tried from the keyboard, answers those of the pipelines."""

from __future__ import annotations

import os
import re
import shutil

import pytest

pytest.importorskip("uvicorn")  # the extra `serve`

from serving import running
from test_serve import loaded, packed, sentence_files, sentences  # noqa: F401

from pruneonce.run.pipelines import pipeline

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("PRUNEONCE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
PATIENCE_MS = 60_000
AA = 4.5  # WCAG 2: least contrast of text

# Contrast of every element that has text of its own with what is behind it.
CONTRASTS = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (parts(colour).length < 4 || parts(colour)[3] > 0) return colour;
    }
  };
  const told = {};
  for (const element of document.body.querySelectorAll("*")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    if (["STYLE", "SCRIPT"].includes(element.tagName) || !element.getClientRects().length) continue;
    const both = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    told[element.tagName + "." + element.className] = (both[0] + 0.05) / (both[1] + 0.05);
  }
  return told;
}"""


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (apt install chromium, or PRUNEONCE_CHROMIUM)")
    with api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def opened(browser):
    """Pages that are opened at an address; whatever they complain of, or ask of others, fails the test."""
    contexts, complaints = [], []

    def open_(url, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        page.on("request", lambda request: request.url.startswith((url, "data:")) or complaints.append(request.url))
        page.goto(url)
        return page

    open_.complaints = complaints
    yield open_
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture(scope="module")
def server(packed, sentence_files):  # noqa: F811
    with running({**packed, **sentence_files}, kernels="sparse", logs_requests=False) as process:
        yield process


@pytest.fixture
def url(server):
    return f"http://127.0.0.1:{server.port}/"


def form_of(page, model):
    """The form of a model, by its name as it is read out."""
    return page.get_by_role("region", name=model, exact=True).locator("form")


def tried(page, model, **fields):
    """Text of the answer that the form gives, filled and sent from the keyboard alone."""
    form = form_of(page, model)
    form.locator("input, textarea").first.focus()
    for text in fields.values():
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(text)
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # on the button
    answer = form.locator("output")
    answer.get_by_text(" ms").wait_for()
    return answer


def test_every_kind_of_model_can_be_tried_without_a_mouse(opened, url, loaded, sentences):  # noqa: F811
    page = opened(url)
    page.get_by_text("6 models ready").wait_for()
    text, other, query = "the film was good", "a bad story of the king", "the king"
    likeness = pipeline("embeddings", sentences[1]["vectors"]).similarity(text, [other])[0]
    assert f"{likeness:.4f}" in tried(page, "vectors", text=text, other=other).inner_text()
    ranking = pipeline("text-ranking", sentences[1]["ranks"]).rerank(query, [text, other], raw_scores=False)
    expected = [f"{each['score']:.4f} {[text, other][each['index']]}" for each in ranking]
    assert tried(page, "ranks", query=query, texts=f"{text}\n{other}\n").locator("li").all_inner_texts() == expected
    classes = pipeline(None, loaded["classes"])(text, top_k=None)
    expected = [f"{100 * each['score']:.1f} % {each['label']}" for each in classes]
    assert tried(page, "classes", text=text).locator("li").all_inner_texts() == expected
    words = pipeline(None, loaded["words"])("the [MASK] was good")
    assert words[0]["sequence"] in tried(page, "words", text="the [MASK] was good").locator("li").first.inner_text()
    assert tried(page, "tags", text=text).inner_text()


def test_an_answer_is_marked_where_it_stands_behind_characters_of_two_halves(opened, url, loaded):  # noqa: F811
    context = "\U0001f600 \U0001f600 the city of the king , a good story"
    answer = pipeline(None, loaded["spans"])(question="who ?", context=context)
    shown = tried(opened(url), "spans", question="who ?", context=context)
    assert shown.locator("mark").inner_text() == answer["answer"] == context[answer["start"] : answer["end"]]
    assert shown.inner_text().startswith(context)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_in_dark(opened, url, scheme):
    page = opened(url, color_scheme=scheme)
    tried(page, "spans", question="who ?", context="the city of the king")
    contrasts = page.evaluate(CONTRASTS)
    assert {"H1.", "LABEL.", "BUTTON.", "MARK."} <= contrasts.keys()
    assert {name: value for name, value in contrasts.items() if value < AA} == {}


def test_what_is_refused_is_told_where_it_was_asked(opened, url, server):
    page = opened(url)
    form = form_of(page, "words")
    form.locator("input").fill("no mask")
    form.locator("button").click()
    told = form.locator(".bad")
    told.wait_for()
    assert "[MASK]" in told.inner_text()
    assert "422" in opened.complaints.pop()  # the browser's own line for such an answer


def test_plots_show_what_all_clients_do(opened, url, server):
    page = opened(url)
    rate = page.locator("#rate b")
    rate.get_by_text("top").wait_for()
    for _ in range(3):
        server.post("/predict", {"inputs": [["good"]] * 50, "model": "classes"})
    page.locator("#rate b").filter(has_text=re.compile(r"top (0\.[1-9]|[1-9])")).wait_for()
    page.locator("#latency polyline[points*=',']").first.wait_for(state="attached")
    for name in ("rate", "queue", "latency"):
        assert re.match(r"now .*, at most ", page.locator(f"#{name} svg").get_attribute("aria-label"))


def test_it_fits_a_telephone(opened, url):
    page = opened(url, viewport={"width": 360, "height": 640})
    page.get_by_text("models ready").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_key_is_asked_for_where_one_is_needed_and_a_name_is_text_whatever_it_holds(opened, packed):  # noqa: F811
    name = "<img src=x onerror=alert(1)>"
    with running({name: packed["classes"]}, kernels="sparse", logs_requests=False, keys_text=["a key"]) as server:
        page = opened(f"http://127.0.0.1:{server.port}/")
        for key, told in (("another", "a key is expected"), ("a key", "1 model ready")):
            page.get_by_label("API key").fill(key)
            page.keyboard.press("Enter")
            page.get_by_text(told).wait_for()
        assert page.get_by_role("heading", name=name).is_visible()
        assert page.locator("img").count() == 0
        assert tried(page, name, text="good").locator("li").count() == 2
        assert all("401" in each for each in opened.complaints)
        opened.complaints.clear()
        page.close()  # or it would go on asking a server that has ended
