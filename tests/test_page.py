"""Runs on made-up walkers, actions and silhouettes in; the page that `bpmt report` writes, in a browser, out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from test_actions import write_actions
from test_actions import write_configs as write_action_configs

from bpmt_ext.cli import main
from bpmt_ext.engine.testing import save_arrays
from bpmt_ext.errors import UserError
from bpmt_ext.report import page as pages
from bpmt_ext.report import ranked
from bpmt_ext.report.insight import rebuilt
from bpmt_ext.report.runfolder import read_folders
from bpmt_ext.synthetic_silhouettes import write_silhouettes

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
VOID = {"meta", "img", "br", "hr", "input", "link"}
EVIL = "</td></script><script>document.documentElement.dataset.broken=1</script><img src=//x onerror=alert(1)>\"'&"
HOSTILE = "<script>document.documentElement.dataset.broken=1<_script>\"'&"  # a name that a folder can have
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]


class Page(HTMLParser):
    """What stands in a page: its tables, its texts, its tags; `faults` in how they are nested."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[tuple[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(("", dict(attrs).get("data-value")))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            text, value = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, value)

    def row(self, name: str) -> list[tuple[str, str | None]]:
        return next(row[1:] for row in self.rows if row and row[0][0] == name)


def read(path: Path) -> Page:
    """The page, with everything that must hold of any of them."""
    text = path.read_text("utf-8")
    assert len(text.encode()) < pages.MOST_BYTES
    page = Page(text)
    assert page.faults == [] and page.open == []
    for name, attributes in page.tags:
        assert not {"srcset", "background", "action", "formaction", "onload", "onclick", "onerror"} & attributes.keys()
        assert name not in ("link", "iframe", "object", "embed", "base", "form")
        assert name != "script" or not attributes
        for key in ("src", "href", "xlink:href", "poster", "data"):
            assert (attributes.get(key) or "#").startswith(("data:", "#")), (name, attributes)
    assert sum(name == "script" for name, _ in page.tags) == 1
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp|WebSocket|importScripts", text)
    pictures = [a for name, a in page.tags if name in ("svg", "img", "canvas")]
    assert all(a.get("aria-label") or a.get("alt") for a in pictures)
    anchors = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for n, a in page.tags if n == "a"} <= anchors
    return page


def report(out: Path, *runs: Path) -> Page:
    assert main(["report", *map(str, runs), "-o", str(out)]) == 0
    return read(out)


@pytest.fixture(scope="module")
def walkers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, one of whose people has markup for a name, and three trained stages and a test."""
    here = tmp_path_factory.mktemp("walkers")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        partition = tiny.write_data(here / "data", frames=(12, 20))
        lists = partition.read_text().replace("0009", json.dumps(HOSTILE)[1:-1])
        (here / "data" / "0009").rename(here / "data" / HOSTILE)
        partition.write_text(lists)
        tiny.write_configs(here, with_test=True)
        assert tiny.run("both") == 0
        assert tiny.run("net", "trainer_cfg.with_test=false", "trainer_cfg.val_iter=0", "data_cfg.validation=0") == 0
    return here


@pytest.fixture(scope="module")
def actions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained and tested network of actions, a class of which has markup for a name."""
    here = tmp_path_factory.mktemp("actions")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        write_actions(here / "data")
        (here / "data" / "wave").rename(here / "data" / HOSTILE)
        partition = here / "data" / "partition.json"
        partition.write_text(partition.read_text().replace("wave", json.dumps(HOSTILE)[1:-1]))
        write_action_configs(here)
        assert main(["train", "--cfgs", "bpmt.yaml"]) == 0
    return here / "output/made-up/BPMTAction/bpmt"


def shown(page: Path, wide: int, *more: str) -> tuple[str, str]:
    """The page's DOM after its script has run, and what the browser said of it."""
    profile = page.parent / f"profile-{page.stem}-{wide}"
    line = [BROWSER, *QUIET, f"--user-data-dir={profile}", f"--window-size={wide},900", "--enable-logging=stderr",
            "--virtual-time-budget=1500", *more, page.as_uri()]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout, "\n".join(row for row in done.stderr.splitlines() if "CONSOLE" in row or "Uncaught" in row)


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")


def check_in_browser(path: Path) -> None:
    """The script runs through, nothing is refused or loaded, and no script but the page's own."""
    page = read(path)
    canvases = sum(name == "canvas" for name, _ in page.tags)
    for wide in (390, 1280):
        dom, said = shown(path, wide, "--dump-dom")
        root = re.search(r"<html[^>]*>", dom).group()
        assert said == "" and "data-error" not in root and "data-broken" not in root
        assert f'data-drawn="{canvases}"' in root
    measured = path.with_name("measured.html")
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text())
    root = "document.documentElement"
    script = f"<script>{root}.dataset.over = {root}.scrollWidth - window.innerWidth</script></body>"
    measured.write_text(free.replace("</body>", script))
    assert 'data-over="0"' in shown(measured, 390, "--dump-dom")[0], "wider than a phone"


def test_every_fact_is_that_of_the_run(walkers: Path) -> None:
    folders = [walkers / tiny.folder_of("both"), walkers / tiny.folder_of("t1")]
    page = report(walkers / "both.html", *folders)
    results = json.loads((folders[0] / "results.json").read_text())
    for name, value in results["metrics"].items():
        assert page.row(name) == [(f"{value:.1f}", repr(value))]
    with np.load(folders[0] / "per_probe.npz") as rows:
        for camera in np.unique(rows["camera"]):
            own = rows["camera"] == camera
            told = page.row(str(camera))
            assert told[0][0] == str(own.sum()) and float(told[2][1]) == 100 * np.nanmean(rows["rank1"][own])
    said = " ".join(page.words)
    assert f"{results['probes']['total']} of" in said and results["weights"] in said
    for heading in ("Stage T1", "Stage T2", "Attention", "Reconstruction", "Map of the embeddings", "Run card"):
        assert heading in said
    assert HOSTILE in said and "<_script>" not in (walkers / "both.html").read_text()
    assert len([1 for name, a in page.tags if name == "canvas"]) > 12 and str(Path.home()) not in said
    again = report(walkers / "again.html", *folders)
    assert again.words == page.words, "equal runs give equal pages"


def test_curves_and_answers_are_those_of_the_test(walkers: Path) -> None:
    run = read_folders([walkers / tiny.folder_of("both")])[0]
    test = ranked.read_test(run)
    (curve,) = ranked.curves(test)
    for k in (1, 5, 10):
        assert curve.percent[k - 1] == pytest.approx(run.results["metrics"][f"Rank-{k}"])
    hard = ranked.hardest(test, 3)
    ap = run.per_probe["ap"]
    assert min(one.ap for one in hard) == np.nanmin(ap) and len({run.embeddings["labels"][h.index] for h in hard}) == 3
    labels, types = run.embeddings["labels"], run.embeddings["types"]
    for one in hard:
        far = [answer.distance for answer in one.answers]
        assert far == sorted(far) and all(a.index != one.index for a in one.answers)
        for answer in one.answers:
            assert answer.right == (labels[answer.index] == labels[one.index])
            assert not answer.right or types[answer.index][:6] != types[one.index][:6], "its own camera is left out"
        places = [k for k, answer in enumerate(one.answers, 1) if answer.right]
        assert one.first == places[0] if places else one.first > len(one.answers)


def test_reconstruction_touches_only_what_was_hidden(walkers: Path) -> None:
    run = read_folders([walkers / tiny.folder_of("t1")])[0]
    found = rebuilt(run.made, run.some(3))
    assert 0.3 < found.share < 0.7 and found.error.shape == (5,) and (found.error > 0).all()
    assert np.allclose(found.guess[~found.hidden], found.pose[~found.hidden], atol=1e-6)
    assert not np.allclose(found.guess[found.hidden], found.pose[found.hidden], atol=1e-2)


def test_what_is_absent_is_told(walkers: Path, capsys: pytest.CaptureFixture) -> None:
    untested = walkers / tiny.folder_of("net")
    said = " ".join(report(walkers / "net.html", untested).words)
    assert "No run here has been tested yet" in said and "No validation" in said and "Stage T1" not in said
    copy = walkers / "copy"
    shutil.copytree(walkers / tiny.folder_of("both"), copy)
    (copy / "per_probe.npz").unlink()
    shutil.rmtree(copy / "checkpoints")
    (copy / "metrics.jsonl").write_text('{"iteration": 1, "split": "train", "loss": NaN}\nno json')
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data_cfg"]["dataset_root"] = "/nowhere/<b>"
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    (copy / "embeddings.npz").write_bytes(b"PK no archive")
    said = " ".join(report(walkers / "copy.html", copy).words)
    for word in ("embeddings.npz: is no whole", "/nowhere/<b>", "no checkpoint", "does not lie beside", "No per_probe"):
        assert word in said, word
    shutil.rmtree(copy)
    (walkers / "empty").mkdir(exist_ok=True)
    capsys.readouterr()
    for folder, word in (("empty", "is no run"), ("none", "no such folder"), ("output/walkers", "is no run"),
                         ("output/walkers/BPMT/both", "no such folder")):  # fmt: skip
        out = walkers / "x" / "r.html" if folder.endswith("both") else walkers / "r.html"
        word = "does not exist" if folder.endswith("both") else word
        assert main(["report", str(walkers / folder), "-o", str(out)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and word in lines[0] and not out.exists()


def test_actions(actions: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "actions.html", actions)
    results = json.loads((actions / "results.json").read_text())
    for name, value in results["metrics"].items():
        assert page.row(name) == [(f"{value:.1f}", repr(value))]
    for name, one in results["per_class"].items():
        told = next(row for row in page.rows if row[0][0] == name and len(row) == 5)
        assert float(told[2][1]) == one["accuracy"] and told[1][0] == str(one["sequences"])
    said = " ".join(page.words)
    assert "Confusion" in said and "Hardest clips" in said and HOSTILE in said and "CMC" not in said
    if BROWSER is not None:
        check_in_browser(tmp_path / "actions.html")


@needs_browser
def test_in_a_browser(walkers: Path, tmp_path: Path) -> None:
    """It runs, fits a phone and a desk, prints, and a script that is not its own does not run."""
    path = tmp_path / "both.html"
    report(path, walkers / tiny.folder_of("both"), walkers / tiny.folder_of("net"))
    check_in_browser(path)
    shown(path, 390, f"--screenshot={tmp_path / 'phone.png'}")
    shown(path, 1280, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "phone.png").stat().st_size > 5000 and (tmp_path / "page.pdf").read_bytes()[:5] == b"%PDF-"
    broken = tmp_path / "broken.html"
    text = path.read_text()
    broken.write_text(text.replace("</main>", "<script>document.documentElement.dataset.broken=1</script></main>"))
    dom, said = shown(broken, 390, "--dump-dom")
    assert "Content Security Policy" in said and "data-broken" not in re.search(r"<html[^>]*>", dom).group()
    wrong = tmp_path / "wrong.html"
    wrong.write_text(re.sub('data-clip="', 'data-clip="*', text))
    dom, _ = shown(wrong, 390, "--dump-dom")
    assert "data-drawn" not in re.search(r"<html[^>]*>", dom).group(), "a damaged figure would go unnoticed"


def test_silhouettes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"train": 3, "test": 2, "cameras": 2, "sequences": {"nm": 1, "cl": 1}, "frames": (8, 10)}
    write_silhouettes(tmp_path / "data", **sizes, seed=0)
    cut: list[dict[str, Any]] = [{"type": "BaseSilCuttingTransform"}]
    config = {
        "data_cfg": {"dataset_name": "made-up", "dataset_root": "data", "dataset_partition": "data/partition.json",
                     "modality": "silhouette", "num_workers": 0, "validation": 0.34},
        "evaluator_cfg": {"transform": cut, "sampler": {"type": "InferenceSampler", "batch_size": 2}},
        "trainer_cfg": {"total_iter": 2, "log_iter": 1, "val_iter": 1, "save_iter": 2, "transform": cut,
                        "save_name": "l",
                        "sampler": {"type": "TripletSampler", "batch_size": [2, 1], "frames_num_fixed": 6}},
        "optimizer_cfg": {"solver": "AdamW", "lr": 0.001}, "scheduler_cfg": {"scheduler": "WarmupCosineLR"},
        "model_cfg": {"model": "LandmarkNet", "channels": [4, 8, 8], "offset": 2},
    }  # fmt: skip
    (tmp_path / "l.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--cfgs", "l.yaml"]) == 0
    page = report(tmp_path / "s.html", tmp_path / "output/made-up/LandmarkNet/l")
    pictures = [a["alt"] for name, a in page.tags if name == "img"]
    assert len(pictures) == 9 and set(pictures) == {"silhouettes", "landmarks", "before and after"}


def test_several_runs_side_by_side(walkers: Path) -> None:
    """The best figure of a row is marked, and runs that were not tested alike are told so."""
    other = walkers / "other"
    shutil.copytree(walkers / tiny.folder_of("both"), other)
    results = json.loads((other / "results.json").read_text())
    results["metrics"]["mAP"] -= 1.5
    (other / "results.json").write_text(json.dumps(results))
    alike = report(walkers / "two.html", walkers / tiny.folder_of("both"), other)
    best = [a["data-value"] for name, a in alike.tags if name == "td" and a.get("class") == "best"]
    assert repr(results["metrics"]["mAP"] + 1.5) in best and repr(results["metrics"]["mAP"]) not in best
    (other / "results.json").write_text(json.dumps(results | {"data": "0" * 64, "dataset": EVIL, "note": EVIL}))
    with np.load(other / "embeddings.npz") as found:
        arrays = dict(found)
    arrays["labels"] = np.where(arrays["labels"] == "0006", EVIL, arrays["labels"])
    save_arrays(other / "embeddings.npz", arrays)
    page = report(walkers / "two.html", walkers / tiny.folder_of("both"), other)
    assert " ".join(page.words).count(EVIL) > 3
    assert page.row("mAP")[0][1] == repr(results["metrics"]["mAP"] + 1.5) and len(page.row("mAP")) == 2
    assert "cannot be compared" in " ".join(page.words) and "cannot be compared" not in " ".join(alike.words)
    shutil.rmtree(other)


def test_a_large_page_shows_fewer_figures(walkers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = read_folders([walkers / tiny.folder_of("both")])
    whole = pages.make_page(runs)
    monkeypatch.setattr(pages, "MOST_BYTES", len(whole.encode()) - 1)
    fewer = pages.make_page(runs)
    assert 3 < fewer.count("<canvas") < whole.count("<canvas") and "Hardest probes" in fewer
    monkeypatch.setattr(pages, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="report fewer at once"):
        pages.make_page(runs)
