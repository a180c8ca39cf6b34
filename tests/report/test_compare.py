"""The comparison page: what it measures and shows, and how it behaves in a headless browser."""

import html
import json
import os
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from kdsr_arch.cli import main
from kdsr_arch.metrics.measure import lower_is_better
from kdsr_arch.metrics.psnr_metric import psnr
from kdsr_arch.options.schema import MetricOptions
from kdsr_arch.report.compare_data import (
    Truth,
    choose,
    clips,
    common_images,
    find_methods,
    measure_images,
    options_of,
    spread,
    temporal_profile,
)
from kdsr_arch.report.compare_page import write_comparison
from tests.helpers.messages import refuses

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FRAMES = [f"clip/{i:03d}" for i in range(5)] + ["other/000"]


def picture(seed, strength=0.0):
    base = np.random.default_rng(seed).integers(0, 200, (48, 64, 3)).astype(np.float32)
    base = cv2.GaussianBlur(base, (0, 0), 3)
    noise = np.random.default_rng(seed + 100).normal(0, 1, base.shape)
    return np.clip(base + strength * noise, 0, 255).astype(np.uint8)


@pytest.fixture
def results(tmp_path):
    """gt, good and bad; bad is worst at frame 3 and best at frame 1."""
    for name, strength in (("gt", lambda i: 0), ("good", lambda i: 2), ("bad", lambda i: (9, 5, 10, 30, 12, 8)[i])):
        for i, frame in enumerate(FRAMES):
            inside = tmp_path / name if name == "gt" else tmp_path / name / "visualization" / "data"
            (inside / frame).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(inside / f"{frame}.png"), picture(i, strength(i)))
    return tmp_path


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S).group(1))


def make(results, **keywords):
    folders = [results / "good", results / "bad"]
    return write_comparison(folders, results / "page.html", gt=[str(results / "gt")], **keywords)


def test_metrics_and_pictures_are_those_of_the_files(results):
    page = make(results)
    data = data_of(page)
    assert data["columns"] == ["good", "bad"] and data["methods"] == ["good", "bad", "ground truth"]
    entry = next(item for item in data["items"] if item["name"].endswith("clip/003"))
    expected = psnr(picture(3, 30), picture(3), 0, True)
    assert entry["values"]["psnr"]["bad"] == pytest.approx(expected, abs=1e-4)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(|<link|src=", re.sub(r'id="data">.*?</script>', "", text, flags=re.S))
    kind, encoded = entry["images"]["bad"].split(",", 1)
    assert kind == "data:image/webp;base64"
    import base64

    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded, picture(3, 30))


def test_the_page_keeps_worst_best_and_most_differing(results):
    methods = find_methods([results / "good", results / "bad"])
    items = measure_images(common_images(methods), methods, Truth({"": [results / "gt"]}), ["psnr"])
    assert [i.name[-3:] for i in choose(items, "psnr", 2)] == ["001", "003"]
    assert max(items, key=lambda item: spread(item, "psnr")).name.endswith("003")
    data = data_of(make(results, limit=2))
    assert len([i for i in data["items"] if i["kind"] == "image" and "images" in i]) == 2
    assert len([i for i in data["items"] if i["kind"] == "image"]) == data["count"] == 6


def test_images_that_not_every_folder_has_are_told(results, caplog):
    (results / "bad" / "visualization" / "data" / "other" / "000.png").unlink()
    assert len(common_images(find_methods([results / "good", results / "bad"]))) == 5
    assert "good: 1 of its 6 images" in caplog.text and "bad:" not in caplog.text


def test_results_may_be_links_to_other_disks(results):
    (results / "good").rename(results / "elsewhere")
    (results / "good").mkdir()
    (results / "good" / "visualization").symlink_to(results / "elsewhere" / "visualization")
    method = find_methods([results / "good"])[0]
    (results / "inner").mkdir()
    (results / "inner" / "linked").symlink_to(results / "elsewhere" / "visualization")
    assert set(find_methods([results / "inner"])[0].files) == {f"linked/{name}" for name in method.files}


def test_a_line_over_time(results):
    methods, truth = find_methods([results / "good"]), Truth({"": [results / "gt"]})
    names = common_images(methods)
    groups = clips(names)
    assert list(groups) == ["data/clip"] and len(groups["data/clip"]) == 5
    line, images = temporal_profile(groups["data/clip"], methods, truth, 7)
    assert line == 7 and np.array_equal(images["ground truth"], np.stack([picture(i)[7] for i in range(5)]))
    change = np.mean([np.abs(picture(i + 1).astype(float) - picture(i)).mean((1, 2)) for i in range(4)], 0)
    assert temporal_profile(groups["data/clip"], methods, truth)[0] == 6 + int(np.argmax(change[6:42]))


def test_without_ground_truth_the_first_folder_is_the_reference(results, caplog):
    page = write_comparison([results / "good", results / "bad"], results / "p.html")
    data = data_of(page)
    assert data["reference"] == "good" and data["columns"] == ["bad"] and data["truth"] is False
    assert "good; name it with --gt" in caplog.text


@pytest.fixture
def two_sets(tmp_path):
    """Results of two networks on two sets that share an image's name, and the ground truth of each."""
    for number, name in enumerate(("one", "two")):
        for image in ("0", str(number + 1)):
            truth = picture(10 * number + int(image))
            for place in (f"gt/{name}", f"a/visualization/{name}", f"b/visualization/{name}"):
                (tmp_path / place).mkdir(parents=True, exist_ok=True)
                noise = {"g": 0, "a": 3, "b": 6}[place[0]]
                cv2.imwrite(str(tmp_path / place / f"{image}.png"), np.clip(truth.astype(int) + noise, 0, 255))
    return tmp_path


def record(folder, **truths):
    results = [{"dataset": name, "ground_truth": [str(path)]} for name, path in truths.items()]
    (folder / "results.json").write_text(json.dumps({"results": results}))


def compared(folder, *gt):
    return data_of(write_comparison([folder / "a", folder / "b"], folder / "page.html", gt=list(map(str, gt))))


def test_the_ground_truth_of_the_tests_is_taken_without_a_word(two_sets):
    """Each test set has its own, which every results.json names; the means are those of each set and of all images."""
    for name in "ab":
        record(two_sets / name, one=two_sets / "gt" / "one", two=two_sets / "gt" / "two")
    data = compared(two_sets)
    assert data["truth"] and data["columns"] == ["a", "b"]
    assert [group["name"] for group in data["means"]] == ["one", "two", "all images"]
    noise = {"a": 3 * 219 / 255, "b": 6 * 219 / 255}  # the luma of grey noise
    for group in data["means"]:
        for name, value in group["values"]["psnr"].items():
            assert value == pytest.approx(20 * np.log10(255 / noise[name]), abs=0.1)
    named = compared(two_sets, f"one={two_sets / 'gt/one'}", f"two={two_sets / 'gt/two'}")
    assert named["means"] == data["means"] == compared(two_sets, two_sets / "gt")["means"]


def test_a_ground_truth_that_is_gone_is_no_ground_truth(two_sets):
    record(two_sets / "a", one=two_sets / "gt" / "one", two=two_sets / "gone")
    assert compared(two_sets)["truth"] is False
    record(two_sets / "b", two=two_sets / "gt" / "two")  # the other one knows
    assert compared(two_sets)["truth"] is True
    (two_sets / "gt" / "two" / "2.png").unlink()
    assert compared(two_sets)["truth"] is False
    (two_sets / "b" / "results.json").write_text("[1]")
    assert compared(two_sets)["truth"] is False


def test_the_ground_truth_of_one_set_does_not_serve_another(two_sets):
    one, two = two_sets / "gt" / "one", two_sets / "gt" / "two"
    cv2.imwrite(str(one / "2.png"), picture(0))
    with refuses("one/0", "two/0", "--gt SET=DIR"):
        compared(two_sets, one)
    with refuses("two/0", "--gt SET=DIR"):
        compared(two_sets, f"one={one}")
    with refuses("tow", near="two"):
        compared(two_sets, f"one={one}", f"tow={two}")
    cv2.imwrite(str(two / "1.png"), picture(0))
    with refuses(one, two, "0"):
        compared(two_sets, one, two)
    assert not (two_sets / "page.html").exists()


def test_refusals(results, capsys):
    def refused(words, *arguments):
        assert main(["compare", *map(str, arguments), "-o", str(results / "x.html")]) == 2
        assert words in capsys.readouterr().err and not (results / "x.html").exists()

    (results / "empty").mkdir()
    cv2.imwrite(str(results / "empty2.png"), picture(0)[:20])
    (results / "small" / "data" / "clip").mkdir(parents=True)
    cv2.imwrite(str(results / "small" / "data" / "clip" / "000.png"), picture(0)[:20])
    (results / "twice").mkdir()
    for ending in (".png", ".jpg"):
        cv2.imwrite(str(results / "twice" / f"0{ending}"), picture(0))
    refused("0.jpg beside it", results / "twice", results / "good")
    refused("no such results folder", results / "nowhere", results / "good")
    refused("holds no images", results / "empty", results / "good")
    refused("nothing to be compared", results / "good")
    refused("names for", results / "good", results / "bad", "--names", "a")
    refused("no image in common", results / "good", results / "gt")
    refused("compare results of one scale", results / "good", results / "small")
    refused("--metrics calculate_tof", results / "good", results / "bad", "--metrics", "calculate_tof")
    refused("-3", results / "good", results / "bad", "--crop-border", -3)
    with refuses(results / "x.png", ".html"):
        write_comparison([results / "good", results / "bad"], results / "x.png")
    for line in (48, -1):
        with refuses(f"--line {line}", "'data/clip/000'", "48 rows"):
            make(results, line=line)


def browse(page, script="", fragment="", size="1200,900"):
    """The page's DOM after ``script`` ran in a headless browser."""
    if BROWSER is None:
        pytest.skip("no Chromium here: apt-get install chromium to test the page's behavior")
    copy = page.with_name("run.html")
    wrapped = f"<script>addEventListener('load', async () => {{ {script}; document.body.dataset.done = 1; }});</script>"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", wrapped + "</body>"), encoding="utf-8")
    words = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--window-size={size}",
        "--virtual-time-budget=6000",
        f"--user-data-dir={page.parent / 'profile'}",
        "--dump-dom",
        f"{copy.as_uri()}{fragment}",
    ]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "HOME": str(page.parent)}
    )
    assert 'data-done="1"' in done.stdout, done.stderr[-2000:]
    return html.unescape(re.sub(r'id="data">.*?</script>', "", done.stdout, flags=re.S))


def rows(dom):
    return re.findall(r'<tr data-item="\d+"[^>]*><th scope="row">([^<]*)', dom)


def transforms(dom):
    return re.findall(r"translate\(([-\d.]+)px, ([-\d.]+)px\) scale\(([-\d.]+)\)", dom)


@pytest.mark.slow
def test_in_a_browser_images_are_ordered_sorted_and_chosen(results):
    page = make(results)
    names = rows(browse(page))
    assert names[0].endswith("clip/003") and names[4].endswith("other/000")
    assert names[-1] == "clip"  # the profile is last
    script = """const button = [...document.querySelectorAll('#heads button')].find((b) => b.textContent === 'bad');
        button.click();"""
    assert rows(browse(page, script))[0].endswith("clip/001")
    best = browse(
        page, "const o = document.getElementById('order'); o.value = 'best'; o.dispatchEvent(new Event('change'));"
    )
    assert rows(best)[0].endswith("clip/001")
    chosen = browse(page, "document.querySelector('#rows tr:nth-child(2)').click()")
    assert re.search(r'aria-selected="true"><th scope="row">([^<]*)', chosen).group(1) == names[1]


@pytest.mark.slow
def test_in_a_browser_all_images_zoom_and_move_together(results):
    page = make(results)
    script = """document.querySelector('#modes [data-mode=grid]').click();
        const pane = document.querySelectorAll('.pane')[1], box = pane.getBoundingClientRect();
        const at = { clientX: box.left + 30, clientY: box.top + 40, bubbles: true, cancelable: true };
        pane.dispatchEvent(new WheelEvent('wheel', { ...at, deltaY: -900 }));"""
    dom = browse(page, script)
    values = transforms(dom)
    assert len(values) == 3 and len(set(values)) == 1
    fitted = transforms(browse(page, "document.querySelector('#modes [data-mode=grid]').click()"))[0]
    assert float(values[0][2]) > 3 * float(fitted[2])
    for axis, pointer in ((0, 30), (1, 40)):  # the point under the pointer stays there
        before = (pointer - float(fitted[axis])) / float(fitted[2])
        assert (pointer - float(values[0][axis])) / float(values[0][2]) == pytest.approx(before, abs=0.6)


@pytest.mark.slow
def test_in_a_browser_the_slider_divides(results):
    page = make(results)
    script = """const h = document.querySelector('.handle');
        for (let i = 0; i < 5; i += 1) h.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }));"""
    dom = browse(page, script)
    assert re.search(r"clip-path: inset\(0px 60(\.\d+)?% 0px 0px\)", dom) and 'aria-valuenow="40"' in dom
    assert len(set(transforms(dom))) == 1


@pytest.mark.slow
def test_in_a_browser_difference_maps_measure(results):
    dom = browse(make(results), "await new Promise((done) => setTimeout(done, 1500))", "#mode=difference&item=3")
    assert "data-mean" in dom
    values = [float(value) for value in re.findall(r'data-mean="([\d.]+)"', dom)]
    name = re.search(r'aria-selected="true"><th scope="row">[^<]*?(\d+)<', dom).group(1)
    index = int(name)
    expected = [
        np.abs(picture(index, strength).astype(float) - picture(index)).mean()
        for strength in (2, (9, 5, 10, 30, 12)[index])
    ]
    assert values == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_in_a_browser_no_number_is_the_best_without_ground_truth(results):
    folders = [results / "good", results / "bad", results / "good2"]
    shutil.copytree(folders[0], folders[2])
    dom = browse(write_comparison(folders, results / "page.html"))
    assert 'class="number top"' not in dom and "bad to good" in dom and "no ground truth" in dom
    dom = browse(write_comparison(folders, results / "page.html", gt=[str(results / "gt")]))
    assert 'class="number top"' in dom and "bad to good" not in dom


def test_photographs_with_numbers_for_names_are_no_clip(tmp_path):
    """B100's lie in one folder, too, in two sizes and with gaps between their numbers."""
    for folder in "ab":
        (tmp_path / folder / "B100").mkdir(parents=True)
        for number, shape in ((101085, (48, 32)), (101087, (32, 48)), (101089, (48, 32))):
            cv2.imwrite(str(tmp_path / folder / "B100" / f"{number}.png"), np.zeros((*shape, 3), np.uint8))
    page = write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html")
    assert [item["kind"] for item in data_of(page)["items"]] == ["image"] * 3
    assert clips([f"B100/{number}" for number in (101085, 101087, 102061)]) == {}
    assert list(clips([f"clip/{number:03d}" for number in (0, 10, 20)])) == ["clip"]


def test_sixteen_bits_are_rounded_as_the_ground_truth_is(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (32, 32, 3)).astype(np.uint16)
    (tmp_path / "a").mkdir()
    cv2.imwrite(str(tmp_path / "a" / "1.png"), values)
    page = write_comparison([tmp_path / "a"], tmp_path / "page.html", gt=[str(tmp_path / "a")])
    (item,) = data_of(page)["items"]
    assert item["values"]["psnr"]["a"] in ("inf", "Infinity") and item["values"]["ssim"]["a"] == 1.0


def test_a_metric_goes_the_way_it_says(results, monkeypatch):
    class Distance:
        lower_better = True

    monkeypatch.setattr("kdsr_arch.metrics.perceptual_metric.create", lambda *_: Distance())
    metrics = ("psnr", "calculate_psnr", "calculate_niqe", "calculate_tof", "calculate_warping_error", "pi")
    ways = {metric: lower_is_better(options_of(metric)) for metric in metrics}
    assert [metric for metric in metrics if ways[metric]] == [*metrics[2:]]
    told = {"type": "calculate_tof", "better": "higher"}
    assert not lower_is_better(MetricOptions.model_validate(told))


def test_the_frames_of_a_clip_are_averaged_before_the_clips(tmp_path):
    """A long clip counts as much as a short one, as in the means of kdsr test."""
    values = np.random.default_rng(0).integers(40, 215, (64, 64, 3)).astype(np.uint8)
    for clip, count, more in (("long", 9, 2), ("short", 3, 8)):
        for frame in range(count):
            for method, added in (("gt", 0), ("a", more)):
                (folder := tmp_path / method / clip).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{frame}.png"), values + np.uint8(added))
    page = write_comparison([tmp_path / "a"], tmp_path / "page.html", gt=[str(tmp_path / "gt")], metrics=["psnr_rgb"])
    data = data_of(page)
    expected = np.mean([20 * np.log10(255 / more) for more in (2, 8)])
    assert data["means"][0]["values"]["psnr_rgb"]["a"] == pytest.approx(expected, abs=1e-4)
    assert "means of clips" in data["protocol"]
