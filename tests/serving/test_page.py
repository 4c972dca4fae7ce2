"""The page in a real browser, against a server that answers whatever a test wants."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("selenium", reason="selenium drives the browser: pip install selenium")

from selenium import webdriver

from tests.serving.browser import Page, browser, needs_browser
from tests.serving.fake_server import PAGE, fake_server

pytestmark = needs_browser

CLASSIFIER = {"id": "sentiment", "endpoints": ["/predict"]}
EMBEDDER = {"id": "minilm", "endpoints": ["/v1/embeddings"]}
MASKED = {"id": "masked", "endpoints": ["/fill-mask"]}
MARKUP = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><b>bold</b> & 'q'"
)
GOOD = {"label": "positive", "score": 0.9}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def predicting(*rows: dict[str, Any]) -> Any:
    return lambda _: (200, {"predictions": list(rows), "model": "sentiment"})


def test_it_asks_for_each_line_and_shows_labels_with_scores(driver: webdriver.Chrome) -> None:
    rows = {"label": "positive", "score": 0.98765}, {"label": "negative", "score": 0.5}
    with fake_server(CLASSIFIER, predict=predicting(*rows)) as server:
        page = Page(driver, server.url)
        page.ask("a warm film\n\n  it is thin  ")
    assert server.asked == [("/predict", {"texts": ["a warm film", "  it is thin  "]})]
    assert page.text("model") == driver.title == "sentiment"
    assert page.all(".answer .text") == ["a warm film", "  it is thin  "]
    assert page.all("dt") == ["positive", "negative"]
    assert page.all("dd.number") == ["0.9877", "0.5000"]
    assert re.fullmatch(r"\d+\.\d ms for 2 texts", page.text("took"))
    assert page.complaints() == []


def test_every_kind_of_answer_has_its_scores(driver: webdriver.Chrome) -> None:
    rows = (
        {"labels": ["a", "b"], "scores": [0.9, 0.6]},
        {"labels": [], "scores": []},
        {"value": 3.25},
        {"value[warmth]": -1.5, "value[length]": 2.0},
        {"label": "x", "score": 0.7, "label_2": "y", "score_2": 0.2},
        {"label": "x", "score": 0.7, "score[y]": 0.3, "score[x]": 0.7},
        {"choice": 1, "answer": "the second", "score": 0.8},
        {"label": None, "score": None},
    )
    with fake_server(CLASSIFIER, predict=predicting(*rows)) as server:
        page = Page(driver, server.url)
        page.ask("\n".join(f"text {at}" for at in range(len(rows))))
    assert page.all(".answer") == [
        "text 0\na\n0.9000\nb\n0.6000",
        "text 1\nno label reaches the threshold",
        "text 2\n3.2500",
        "text 3\n-1.5000 warmth\n2.0000 length",
        "text 4\nx\n0.7000\ny\n0.2000",
        "text 5\nx\n0.7000\ny\n0.3000",
        "text 6\nthe second\n0.8000",
        "text 7\nno answer: the text is empty",
    ]
    assert page.complaints() == []


def test_entities_are_marked_where_they_stand_behind_characters_of_two_code_units(
    driver: webdriver.Chrome,
) -> None:
    text = "😀 Ada met Bob"
    found = [
        {"entity_group": "person", "score": 0.9, "word": "ada", "start": 2, "end": 5},
        {"entity_group": "person", "score": 0.8, "word": "bob", "start": 10, "end": 13},
    ]
    with fake_server(CLASSIFIER, predict=predicting({"entities": found}, {"entities": []})) as server:
        page = Page(driver, server.url)
        page.ask(f"{text}\nnobody")
    assert page.all("mark") == ["Adaperson", "Bobperson"]
    assert page.all(".answer .text")[0] == "😀 Adaperson met Bobperson"
    assert "no entity found" in page.all(".answer")[1]


def test_an_answer_to_a_question_is_marked_in_its_context(driver: webdriver.Chrome) -> None:
    model = {**CLASSIFIER, "pairs": "must", "columns": ["question", "context"]}
    row = {"answer": "Ada", "score": 0.75, "start": 10, "end": 13}
    with fake_server(model, predict=predicting(row)) as server:
        page = Page(driver, server.url)
        assert page.shows("second")
        assert not page.shows("pairs-part")
        assert page.all("label")[:2] == ["question, one a line", "context, one a line"]
        page.ask("who wrote it?", "It was by Ada, they say.")
    assert server.asked[0][1] == {"pairs": [["who wrote it?", "It was by Ada, they say."]]}
    assert page.all("mark") == ["Ada"]
    assert page.all("dd.number") == ["0.7500"]


def test_pairs_have_a_second_field_of_as_many_lines(driver: webdriver.Chrome) -> None:
    with fake_server(CLASSIFIER, predict=predicting(GOOD, GOOD)) as server:
        page = Page(driver, server.url)
        assert not page.shows("second")
        page.element("pairs").click()
        page.ask("one\ntwo", "three")
        assert "there are 2 and 1" in page.text("error")
        assert server.asked == []
        page.ask("one\ntwo", "three\nfour")
    assert server.asked == [("/predict", {"pairs": [["one", "three"], ["two", "four"]]})]
    assert page.all(".answer .text") == ["one", "three", "two", "four"]


def test_a_model_without_pairs_offers_none(driver: webdriver.Chrome) -> None:
    with fake_server({**CLASSIFIER, "pairs": "no"}) as server:
        page = Page(driver, server.url)
        assert not page.shows("pairs-part")
        assert not page.shows("second")


def test_a_text_with_choices_asks_for_the_one_that_goes_with_it(driver: webdriver.Chrome) -> None:
    row = {"choice": 1, "answer": "out", "score": 0.75, "score[in]": 0.25, "score[out]": 0.75}
    with fake_server({**CLASSIFIER, "choices": 2}, predict=predicting(row)) as server:
        page = Page(driver, server.url)
        assert page.shows("second")
        page.ask("It was hot.\nShe opened the window.", "in\nout")
    assert server.asked == [
        ("/predict", {"texts": ["It was hot.\nShe opened the window."], "choices": [["in", "out"]]})
    ]
    assert page.all("dt") == ["out", "in"]


def test_a_text_may_have_several_lines(driver: webdriver.Chrome) -> None:
    with fake_server(CLASSIFIER, predict=predicting(GOOD)) as server:
        page = Page(driver, server.url)
        page.element("lines").click()
        page.ask("one\n\ntwo")
    assert server.asked[0][1] == {"texts": ["one\n\ntwo"]}


def test_vectors_are_compared_by_their_cosines(driver: webdriver.Chrome) -> None:
    vectors = [[1, 0], [3, 4], [-2, 0]]
    data = [{"index": at, "embedding": vectors[at]} for at in (2, 0, 1)]  # an order that nobody promised
    with fake_server(EMBEDDER, embeddings=lambda _: (200, {"data": data})) as server:
        page = Page(driver, server.url)
        page.ask("east\nnorth-east\nwest")
    assert server.asked == [("/v1/embeddings", {"input": ["east", "north-east", "west"], "model": "minilm"})]
    assert page.all("td") == [
        "",
        *["1.000", "0.600", "-1.000", "0.600", "1.000", "-0.600", "-1.000", "-0.600", "1.000"],
    ]
    assert page.all("tbody th") == ["1. east", "2. north-east", "3. west"]
    assert page.all("caption") == ["Cosine similarity of 3 texts, vectors of 2 numbers"]


def test_each_mask_has_its_candidates(driver: webdriver.Chrome) -> None:
    masks = [[{"token": "capital", "score": 0.9}], [{"token": "France", "score": 0.8}]]
    with fake_server(MASKED, fill_mask=lambda _: (200, {"masks": masks})) as server:
        page = Page(driver, server.url)
        page.fill("first", "Paris is the ")
        page.driver.execute_script("first.setSelectionRange(13, 13)")
        page.element("mask").click()
        text = page.element("first").get_property("value") + " of [MASK]"
        page.fill("top", "1")
        page.ask(text)
    assert server.asked == [("/fill-mask", {"text": "Paris is the [MASK] of [MASK]", "top_k": 1})]
    assert page.all(".answer") == ["mask 1\ncapital\n0.9000", "mask 2\nFrance\n0.8000"]


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ((413, {"error": {"message": "too many texts", "code": 413}}), "413: too many texts"),
        ((422, {"error": "texts: a list was expected"}), "422: texts: a list was expected"),
        ((400, {"detail": "not JSON"}), "400: not JSON"),
        ((422, {"detail": [{"loc": ["body"], "msg": "x"}]}), '422: [{"loc":["body"],"msg":"x"}]'),
        ((500, "<h1>Internal</h1>", {"Content-Type": "text/html"}), "500: <h1>Internal</h1>"),
        ((502, ""), "502: Bad Gateway"),
        (
            (503, {"error": "the queue is full"}, {"Retry-After": "2"}),
            "503: the queue is full (try again in 2 s)",
        ),
        ((200, "not JSON"), "200: not JSON"),
        ((200, {"unknown": 1}), 'what to make of the answer: {"unknown":1}'),
        ((200, {"predictions": [GOOD, {"entities": [None]}]}), "what to make of the answer"),
    ],
)
def test_errors_are_shown_as_the_server_says_them(driver: webdriver.Chrome, answer: Any, shown: str) -> None:
    with fake_server(CLASSIFIER, predict=lambda _: answer) as server:
        page = Page(driver, server.url)
        page.ask("one\ntwo")
        assert shown in page.text("error")
        assert not page.shows("result")
        server.answers["predict"] = predicting(GOOD, GOOD)
        page.ask("one\ntwo")
        assert page.shows("result")
        assert not page.shows("error")


def test_a_server_that_went_away_is_told(driver: webdriver.Chrome) -> None:
    with fake_server(CLASSIFIER, predict=predicting(GOOD)) as server:
        page = Page(driver, server.url)
        driver.set_network_conditions(offline=True, latency=0, throughput=0)
        try:
            page.ask("text")
        finally:
            driver.delete_network_conditions()
    assert "can't be reached" in page.text("error")


def test_a_server_that_is_not_ready_says_so_in_place_of_a_form(driver: webdriver.Chrome) -> None:
    starting = {"error": {"message": "the model is being loaded"}}
    with fake_server(CLASSIFIER, models=lambda _: (503, starting)) as server:
        page = Page(driver, server.url)
        assert page.text("error") == "503: the model is being loaded"
        assert not page.shows("form")


def test_markup_stays_text_wherever_it_comes_from(driver: webdriver.Chrome) -> None:
    model = {"id": MARKUP, "endpoints": ["/predict"]}
    row = {"label": MARKUP, "score": MARKUP}
    spans = {"entities": [{"entity_group": MARKUP, "score": 1, "word": MARKUP, "start": 0, "end": 4}]}
    with fake_server(model, predict=predicting(row, spans)) as server:
        page = Page(driver, server.url)
        page.ask(f"{MARKUP}\n{MARKUP}")
        assert page.text("model") == MARKUP
        assert page.all("dt")[0] == page.all("dd.number")[0] == page.all(".answer .text")[0] == MARKUP
        server.answers["predict"] = lambda _: (400, {"error": MARKUP})
        page.ask(MARKUP)
        assert page.text("error") == f"400: {MARKUP}"
        assert driver.title == MARKUP
        assert driver.execute_script("return document.querySelectorAll('img, main script, b').length") == 0
        assert page.complaints() == []


def test_the_command_shown_is_what_was_asked(driver: webdriver.Chrome) -> None:
    with fake_server(CLASSIFIER, predict=predicting(GOOD)) as server:
        page = Page(driver, server.url)
        page.ask("it's $HOME")
        shown = page.element("curl").get_property("textContent")
    assert shown == (
        f"curl {server.url}predict -H 'Content-Type: application/json' -d '{{\"texts\":[\"it'\\''s $HOME\"]}}'"
    )


def test_keys_alone_are_enough_and_every_field_has_a_name(driver: webdriver.Chrome) -> None:
    from selenium.webdriver import Keys

    vectors = {"data": [{"index": 0, "embedding": [1.0]}]}
    with fake_server(EMBEDDER, embeddings=lambda _: (200, vectors)) as server:
        page = Page(driver, server.url)
        driver.switch_to.active_element.send_keys("typed", Keys.CONTROL, Keys.ENTER)
        page.wait(lambda: page.shows("result"))
        names = driver.execute_script(
            "return [...document.querySelectorAll('textarea, input')].map(e => e.labels.length)"
        )
    assert server.asked[0][1]["input"] == ["typed"]
    assert len(names) == 5
    assert all(names)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert not re.search(
        r"https?://|@import|url\(|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text
    )
