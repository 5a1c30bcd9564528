"""The gallery of attention maps: what is in the file, and what a browser shows of it."""

from __future__ import annotations

import base64
import io
import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, Chromium
from matplotlib import colormaps
from PIL import Image

from openclip_eclip.attention.gallery import EXPERT_SIDE, MAP_SIDE, GalleryImage, write_gallery
from openclip_eclip.config import UserError
from openclip_eclip.data.figures import COLOURS

EVIL = "</script><script>window.evil = 1</script><img src=x onerror='evil = 1'>\" ' & {{ 7 * 7 }}"
MODELS = ("plain", "eclip")
TEXTS = ("first", "second")


def hot(rows: int, columns: int, row: int, column: int) -> np.ndarray:
    """A map with 1 in one cell."""
    values = np.zeros((rows, columns))
    values[row, column] = 1
    return values


def sample(key: str = "a", **changed: Any) -> GalleryImage:
    """A picture of 64 x 48 with two models and two texts; all four maps differ."""
    maps = {
        "plain": np.stack([hot(4, 4, 3, 0), hot(4, 4, 0, 0)]),
        "eclip": np.stack([hot(6, 8, 0, 7), hot(6, 8, 5, 7)]) * 3 - 1,
    }
    image = Image.new("RGB", (64, 48), "#808080")
    return replace(GalleryImage(key, image, TEXTS, maps), **changed)


class Page(HTMLParser):
    """The parts of a page: tags, and the contents of its data scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.contents: list[dict[str, Any]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == ("script", {"type": "application/json"}) and data.strip():
            self.contents.append(json.loads(data, parse_constant=pytest.fail))

    def buttons(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if "data-key" in attributes]


def levels(grid: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(grid["levels"]), np.uint8).reshape(grid["shape"])


def test_page_holds_images_texts_maps_and_hits(tmp_path: Path) -> None:
    path = tmp_path / "gallery.html"
    expert = hot(48, 64, 10, 60)
    hits = {"plain": [True, None], "eclip": [None, None]}
    images = [sample("a", expert=expert, hits=hits), sample("b", hits={"eclip": [True, False]})]
    size = write_gallery(path, iter(images), "A title", ["A note"], "Method")
    assert size == path.stat().st_size
    page = Page(path)
    assert [button["data-key"] for button in page.buttons()] == ["a", "b"]
    counts = [json.loads(button["data-counts"] or "") for button in page.buttons()]
    assert counts == [{"plain": [1, 1], "eclip": [0, 0]}, {"plain": [0, 0], "eclip": [1, 2]}]
    assert ["data-annotated" in button for button in page.buttons()] == [True, False]
    first, second = page.contents
    assert first["texts"] == list(TEXTS) and first["size"] == [64, 48]
    assert [model["name"] for model in first["models"]] == list(MODELS)
    assert [model["hits"] for model in first["models"]] == [[True, None], [None, None]]
    grid = first["models"][1]["maps"][1]
    assert (grid["low"], grid["high"], grid["cells"]) == (-1, 2, [6, 8])
    np.testing.assert_array_equal(levels(grid), hot(6, 8, 5, 7) * 255)
    np.testing.assert_array_equal(levels(first["expert"]), expert * 255)
    assert second["expert"] is None
    stored = base64.b64decode(first["image"].removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(stored)).size == (64, 48)
    text = path.read_text()
    assert "http" not in text and "A note" in text and "<h2 id=models-name>Method</h2>" in text


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64])
def test_maps_are_shrunk_to_means_and_keep_their_range(tmp_path: Path, kind: type) -> None:
    values = np.random.default_rng(0).integers(-50, 50, (1, 2 * MAP_SIDE, MAP_SIDE)).astype(kind)
    image = sample(texts=["one"], maps={"plain": values})
    write_gallery(tmp_path / "gallery.html", [image], "")
    grid = Page(tmp_path / "gallery.html").contents[0]["models"][0]["maps"][0]
    assert (grid["low"], grid["high"]) == (values.min(), values.max())
    assert grid["cells"] == [2 * MAP_SIDE, MAP_SIDE]
    means = values[0].astype(float).reshape(MAP_SIDE, 2, MAP_SIDE // 2, 2).mean(axis=(1, 3))
    shares = (means - values.min()) / (float(values.max()) - float(values.min()))
    np.testing.assert_allclose(levels(grid) / 255, shares, atol=0.51 / 255)


@pytest.mark.filterwarnings("error")  # of a division by zero
def test_flat_maps_and_empty_expert_are_zeros(tmp_path: Path) -> None:
    image = sample(maps={"plain": np.full((2, 3, 3), 5.0)}, expert=np.zeros((48, 64)))
    write_gallery(tmp_path / "gallery.html", [image], "")
    (content,) = Page(tmp_path / "gallery.html").contents
    grid = content["models"][0]["maps"][0]
    assert (grid["low"], grid["high"]) == (5, 5)
    assert not levels(grid).any() and not levels(content["expert"]).any()


def test_thin_regions_of_the_expert_survive(tmp_path: Path) -> None:
    expert = np.zeros((1000, 1000))
    expert[:, 637] = 0.2  # one of 1000 columns
    image = sample(image=Image.new("L", (500, 500)), expert=expert)
    write_gallery(tmp_path / "gallery.html", [image], "")
    stored = levels(Page(tmp_path / "gallery.html").contents[0]["expert"])
    assert stored.shape == (EXPERT_SIDE, EXPERT_SIDE)
    column = 637 * EXPERT_SIDE // 1000
    assert (stored[:, column] == 255).all() and (stored == 255).sum() == EXPERT_SIDE


@pytest.mark.slow
def test_two_hundred_images_of_noise_stay_under_30_mb(tmp_path: Path) -> None:
    """Each adds the same; the worst images, maps and experts' maps that there are."""
    draws = np.random.default_rng(0)

    def noise(number: int) -> GalleryImage:
        pixels = draws.integers(0, 256, (700, 700, 3), dtype=np.uint8)
        maps = {model: draws.random((2, 224, 224)) for model in MODELS}
        texts = [f"{text} {'long text ' * 30}" for text in TEXTS]
        return GalleryImage(str(number), Image.fromarray(pixels), texts, maps, draws.random((9, 9)))

    one, three = (
        write_gallery(tmp_path / "gallery.html", map(noise, range(count)), "") for count in (1, 3)
    )
    assert one + 199 * (three - one) / 2 < 30e6


def test_one_image_at_a_time_is_held(tmp_path: Path) -> None:
    alive: weakref.WeakSet[GalleryImage] = weakref.WeakSet()
    most = []

    def images() -> Iterator[GalleryImage]:
        for number in range(20):
            most.append(len(alive))
            new = sample(str(number))
            alive.add(new)
            yield new
            del new

    write_gallery(tmp_path / "gallery.html", images(), "")
    assert max(most) <= 1 and len(most) == 20


def test_originals_comments_are_left_out(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (64, 48)).save(buffer, "JPEG", comment=b"name of a patient")
    write_gallery(tmp_path / "gallery.html", [sample(image=Image.open(buffer))], "")
    page = Page(tmp_path / "gallery.html")
    small = next(attributes["src"] for tag, attributes in page.tags if tag == "img")
    for uri in (page.contents[0]["image"], small):
        assert b"patient" not in base64.b64decode(str(uri).partition(",")[2])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": Image.new("I;16", (64, 48))}, "image bad: mode I;16; expected RGB or L"),
        ({"texts": []}, "no text or no map"),
        ({"maps": {}}, "no text or no map"),
        ({"maps": {"m": np.zeros((3, 4, 4))}}, r"maps of m have shape \(3, 4, 4\); expected \(2,"),
        ({"maps": {"m": np.zeros((2, 4))}}, r"shape \(2, 4\)"),
        ({"maps": {"m": np.zeros((2, 0, 4))}}, r"shape \(2, 0, 4\)"),
        ({"maps": {"m": np.full((2, 4, 4), np.nan)}}, "maps of m hold NaN"),
        ({"hits": {"other": [True, True]}}, "hits of other, which has no maps"),
        ({"hits": {"plain": [True]}}, "1 hits of plain; expected 2"),
        ({"expert": np.zeros((64, 48))}, r"shape \(64, 48\); expected .* 48 x 64"),
        ({"expert": np.zeros((0, 1))}, r"shape \(0, 1\)"),
        ({"expert": np.zeros((1, 48, 64))}, r"shape \(1, 48, 64\)"),
        ({"expert": np.full((48, 64), -1.0)}, "less than 0"),
        ({"expert": np.full((48, 64), np.inf)}, "infinity"),
    ],
)
def test_what_does_not_fit_is_an_error_and_writes_nothing(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    path = tmp_path / "gallery.html"
    path.write_text("old")
    with pytest.raises(UserError, match=f"^gallery: .*{message}"):
        write_gallery(path, [sample(), sample("bad", **changed)], "")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_no_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no image; expected at least one"):
        write_gallery(tmp_path / "gallery.html", [], "")
    assert not list(tmp_path.iterdir())


def evil_image() -> GalleryImage:
    maps = {EVIL: np.stack([hot(4, 4, 3, 0), hot(4, 4, 0, 0)])}
    return sample(EVIL, texts=[EVIL, "b\udcff"], maps=maps, hits={EVIL: [True, True]})


def test_texts_are_never_code(tmp_path: Path) -> None:
    """In names, texts, models, title and note; a name that is not Unicode is written, too."""
    path = tmp_path / "gallery.html"
    write_gallery(path, [evil_image()], EVIL, [EVIL], EVIL)
    page = Page(path)
    assert [tag for tag, _ in page.tags].count("script") == 2  # data and program
    assert not [tag for tag, attributes in page.tags if "onerror" in attributes]
    assert page.buttons()[0]["data-key"] == EVIL
    assert list(json.loads(page.buttons()[0]["data-counts"] or "")) == [EVIL]
    (content,) = page.contents
    assert content["texts"][0] == EVIL and content["models"][0]["name"] == EVIL
    write_gallery(path, [sample("\udcff.png")], "")
    assert Page(path).buttons()[0]["data-key"] == "?.png"


def chromium_page(tmp_path: Path, images: list[GalleryImage], **shown: Any) -> Iterator[Chromium]:
    write_gallery(tmp_path / "gallery.html", images, EVIL, [EVIL])
    with Chromium(tmp_path / "profile") as browser:
        browser.open(tmp_path / "gallery.html", **shown)
        yield browser
        assert browser.ask("window.evil") is None
        assert not browser.errors
        assert {url.partition(":")[0] for url in browser.requests} == {"file", "data"}


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    """Four images: by name a2, a10, b, c; b has no expert's map, c one model."""
    expert = np.zeros((48, 64))
    expert[:24, :32] = 1
    hits = {"plain": [True, False], "eclip": [True, True]}
    others = {"plain": [True, True], "eclip": [False, None]}
    yield from chromium_page(
        tmp_path,
        [
            sample("b"),
            sample("a10", expert=expert, hits=others),
            sample("a2", expert=expert, hits=hits),
            replace(evil_image(), key="c", expert=np.zeros((48, 64))),
        ],
    )


def key(browser: Chromium) -> str:
    return browser.ask("document.querySelector('#image').alt")


def facts(browser: Chromium) -> str:
    return browser.ask("document.querySelector('#facts').textContent")


def pixel(browser: Chromium, canvas: str, x: float, y: float) -> list[int]:
    """RGBA at shares of the width and height."""
    return browser.ask(
        f"(canvas => [...canvas.getContext('2d').getImageData(Math.round({x} * (canvas.width - 1)),"
        f" Math.round({y} * (canvas.height - 1)), 1, 1).data])(document.querySelector('{canvas}'))"
    )


def coloured(value: float) -> list[int]:
    """RGBA: as opaque as the map is high."""
    return [
        *(round(255 * channel) for channel in colormaps[COLOURS](value)[:3]),
        round(255 * value),
    ]


CLEAR = [0, 0, 0, 0]


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome")


@pytest.mark.slow
@pytest.mark.browser
@needs_browser
def test_clicks_and_keys_change_image_text_model_and_expert(browser: Chromium) -> None:
    assert key(browser) == "a2"
    assert browser.ask("document.title") == EVIL
    assert facts(browser) == "a2 · plain · map of 4 × 4, values 0 to 1 · hit"
    assert pixel(browser, "#map", 0, 1) == coloured(1.0)  # the bottom left cell
    assert pixel(browser, "#map", 1, 1) == pixel(browser, "#map", 0, 0) == CLEAR
    # between the middles of two cells
    assert pixel(browser, "#map", 0.25, 1) == pytest.approx(coloured(0.5), abs=12)
    # bicubic, as in the pictures: a quarter of a cell from the middle
    shares = hot(4, 4, 3, 0).astype(np.float32)
    expected = np.asarray(Image.fromarray(shares).resize((640, 640), Image.Resampling.BICUBIC))
    opacity = pixel(browser, "#map", 120 / 639, 560 / 639)[3]
    assert opacity == pytest.approx(255 * expected[560, 120], abs=7)
    browser.press("ArrowDown")
    assert facts(browser).endswith("· miss")
    assert browser.ask("document.querySelector('#shown-text').textContent") == "second"
    assert pixel(browser, "#map", 0, 0) == coloured(1.0)
    browser.press("ArrowDown")  # and round
    assert facts(browser).endswith("· hit")
    browser.click("#models button:nth-child(2)")
    assert facts(browser) == "a2 · eclip · map of 6 × 8, values -1 to 2 · hit"
    assert pixel(browser, "#map", 1, 0) == coloured(1.0)
    pressed = "[...document.querySelectorAll('#models button')].map(b => b.ariaPressed)"
    assert browser.ask(pressed) == ["false", "true"]
    browser.click("#texts button:nth-child(2)")
    assert browser.ask("document.querySelector('#shown-text').textContent") == "second"
    browser.press("ArrowUp")
    browser.press("m")
    assert facts(browser).startswith("a2 · plain")
    browser.press("M")
    browser.press("ArrowRight")
    assert facts(browser) == "a10 · eclip · map of 6 × 8, values -1 to 2 · miss"
    browser.click("#on")
    # annotated images are first; this one has no such model, and an expert's map of zeros
    assert key(browser) == "c" and EVIL in facts(browser)
    assert browser.ask("document.querySelector('#shown-text').textContent") == EVIL
    assert browser.ask("document.querySelector('#expert-says').textContent").startswith("empty")
    browser.click("#on")
    assert facts(browser) == "b · eclip · map of 6 × 8, values -1 to 2"
    browser.click("#back")
    assert key(browser) == "c"
    browser.click("#strip li:nth-child(1) button")
    assert key(browser) == "a2"
    browser.press("ArrowLeft")
    assert key(browser) == "b" and browser.ask("document.activeElement.dataset.key") == "b"
    assert browser.ask("document.querySelector('#place').textContent") == "4 of 4"


@pytest.mark.slow
@pytest.mark.browser
@needs_browser
def test_expert_slider_and_order(browser: Chromium) -> None:
    white, black = [255, 255, 255, 255], [0, 0, 0, 255]
    column = [pixel(browser, "#outline", x / 639, 0.25) for x in range(310, 330)]
    assert white in column and black in column  # the border of the left half
    assert pixel(browser, "#outline", 0.25, 0.25) == [0, 0, 0, 0]
    assert pixel(browser, "#outline", 0.5, 0.75) == [0, 0, 0, 0]
    hidden = "getComputedStyle(document.querySelector('#outline')).display == 'none'"
    for change in (lambda: browser.press("e"), lambda: browser.click("#expert")):
        before = browser.ask(hidden)
        change()
        assert browser.ask(hidden) is not before
    assert browser.ask(hidden) is False
    opacity = "getComputedStyle(document.querySelector('#map')).opacity"
    browser.click("#opacity", 0.001)
    assert browser.ask(opacity) == "0"
    browser.click("#opacity", 0.999)
    assert browser.ask(opacity) == "1"
    browser.press("ArrowLeft")  # the slider has focus: its own step
    assert browser.ask(opacity) == "0.99" and key(browser) == "a2"

    names = "[...document.querySelectorAll('#strip button')].map(b => b.dataset.key)"

    def sort(order: str) -> list[str]:
        browser.ask(
            f"(s => {{s.value = '{order}'; s.dispatchEvent(new Event('change'))}})"
            "(document.querySelector('#order'))"
        )
        return browser.ask(names)

    # hits of plain: a2 1 of 2, a10 both; c knows another model, b has none
    assert sort("high") == ["a10", "a2", "b", "c"] and key(browser) == "a10"
    assert sort("low") == ["a2", "a10", "b", "c"] and key(browser) == "a2"
    browser.click("#models button:nth-child(2)")  # of eclip: a2 both, a10 none of 1
    assert browser.ask(names) == ["a10", "a2", "b", "c"] and key(browser) == "a2"
    assert browser.ask("document.querySelector('#place').textContent") == "2 of 4"
    numbers = "[...document.querySelectorAll('#strip .number')].map(n => n.textContent)"
    assert browser.ask(numbers) == ["miss", "2 of 2 hit", "", ""]
    assert sort("name") == ["a2", "a10", "b", "c"]
    assert sort("annotated") == ["a2", "a10", "c", "b"]


@pytest.mark.slow
@pytest.mark.browser
@needs_browser
def test_page_fits_a_phone_and_follows_the_scheme(tmp_path: Path) -> None:
    long = sample(texts=["x" * 300, "word " * 99], image=Image.new("L", (48, 640)))
    pages = chromium_page(tmp_path, [long] * 30, width=390, height=844, scheme="dark")
    browser = next(pages)
    assert browser.ask("document.documentElement.scrollWidth") == 390
    colour = "getComputedStyle(document.body).backgroundColor"
    assert browser.ask(colour) == "rgb(21, 27, 34)"
    unnamed = "[...document.querySelectorAll('button')].filter(b => !b.ariaLabel && !b.innerText"
    assert browser.ask(f"{unnamed} && !b.querySelector('[alt]')).length") == 0
    # the filmstrip is one stop of the tab key
    stops = "document.querySelectorAll('#strip button:not([tabindex=\"-1\"])').length"
    assert browser.ask(stops) == 1
    browser.open(tmp_path / "gallery.html", 1280, 900, "light")
    assert browser.ask(colour) == "rgb(255, 255, 255)"
    assert next(pages, None) is None  # the checks at the end
