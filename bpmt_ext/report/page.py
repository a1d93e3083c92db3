"""Folders of runs in, one self-contained page about them out: `bpmt report`.

The page loads nothing: style and script stand in it, charts are inline SVG, and a content security policy, which knows
the script by its checksum, forbids everything else. Equal runs give equal pages.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from bpmt_ext import __version__
from bpmt_ext.data.pickles import write_bytes
from bpmt_ext.engine.logs import log, log_to
from bpmt_ext.errors import UserError
from bpmt_ext.report import inner, ranked, sections
from bpmt_ext.report.markup import Html, join, note, tag
from bpmt_ext.report.runfolder import RunFolder, read_folders

MOST_BYTES = 5_000_000  # of a page
_HARDEST = (6, 3, 1, 0)  # probes shown of a run; fewer where the page becomes too large


def run(folders: Sequence[Path], out: Path) -> int:
    """Write the page and say so; 0 when done."""
    if not out.parent.is_dir():
        raise UserError(f"{out}: the folder {out.parent} does not exist; make it first")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give the page a name, as in {out / 'report.html'}")
    runs = read_folders(folders)
    log_to(None)
    page = _encoded(make_page(runs))
    write_bytes(out, page)
    sys.stdout.write(f"{out}: {len(folders)} run{'s' * (len(folders) > 1)}, {len(page) / 1e6:.1f} MB\n")
    return 0


def _encoded(text: str) -> bytes:
    """A page as it is written; what a name holds that is no text is shown by its number."""
    return text.encode("utf-8", "backslashreplace")


def make_page(runs: Sequence[RunFolder]) -> str:
    """The whole HTML of a page about these runs."""
    tests = {one.name: ranked.read_test(one) for one in runs}
    shared = [("metrics", "Metrics", sections.metrics(runs))]
    if any(not isinstance(test, str) for test in tests.values()) or not any(one.predictions for one in runs):
        shared.append(("cmc", "CMC", sections.cmc(runs, tests)))
    own = {one.name: _of_run(one) for one in runs}
    for count in _HARDEST:
        hard = {one.name: sections.hardest(one, tests[one.name], count) for one in runs} if count else {}
        text = _whole(runs, shared, {one.name: _with_hardest(one, own[one.name], hard) for one in runs})
        if len(_encoded(text)) < MOST_BYTES:
            return text
    raise UserError(f"a page about {len(runs)} runs has more than {MOST_BYTES / 1e6:.0f} MB; report fewer at once")


Section = tuple[str, str, Html]  # anchor, title, content


def _of_run(run: RunFolder) -> list[Section]:
    """Everything about one run but its hardest probes."""
    log.info("looking at %s", run.name)
    found = [("curves", "Training and validation", sections.training(run))]
    tested = run.results is not None or run.embeddings is not None or run.predictions is not None
    by = "Class by class" if run.predictions is not None else "Camera by camera"
    found.append(("breakdown", by, sections.breakdown(run)))
    if run.predictions is not None:
        found.append(("confusion", "Confusion matrix", sections.confusion(run)))
    found.append(("map", "Map of the embeddings" if run.predictions is None else "Map of the scores",
                  sections.embedding_map(run)))  # fmt: skip
    if run.silhouettes:
        found.append(("silhouettes", "Silhouettes", inner.silhouettes(run)))
    else:
        found.append(("attention", "Attention", inner.attention(run)))
        found.append(("reconstruction", "Reconstruction", inner.reconstruction(run)))
    found.append(("about", "Run card and config", inner.about(run)))
    return found if tested else [one for one in found if one[0] not in ("breakdown", "map")]


def _with_hardest(run: RunFolder, found: list[Section], hard: dict[str, Html]) -> list[Section]:
    if run.results is None or run.name not in hard:
        return found
    title = "Hardest clips" if run.predictions is not None else "Hardest probes and their first five answers"
    place = next(i for i, one in enumerate(found) if one[0] == "map")
    return [*found[:place], ("hardest", title, hard[run.name]), *found[place:]]


def _whole(runs: Sequence[RunFolder], shared: Sequence[Section], own: dict[str, list[Section]]) -> str:
    title = "Report: " + ", ".join(run.name for run in runs)
    links = [tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in shared]
    body = [tag("section", tag("h2", name), content, id=anchor) for anchor, name, content in shared]
    for i, run in enumerate(runs):
        mine = [(f"run{i}-{anchor}", name, content) for anchor, name, content in own[run.name]]
        parts = [tag("section", tag("h3", name), content, id=anchor) for anchor, name, content in mine]
        inside = join(tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in mine)
        menu = tag("nav", tag("ul", inside), aria_label=f"sections of {run.name}")
        body.append(tag("article", tag("h2", run.name), menu, *parts, id=f"run{i}"))
        links.append(tag("li", tag("a", run.name, href=f"#run{i}")))
    style, script = (files("bpmt_ext.report").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (f"default-src 'none'; script-src 'sha256-{known}'; style-src 'unsafe-inline'; img-src data:; "
              "base-uri 'none'; form-action 'none'")  # fmt: skip
    head = join([
        Html('<meta charset="utf-8">'), Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'), tag("title", title),
        tag("style", Html(style)),
    ])  # fmt: skip
    made = note(f"Written by bpmt {__version__}. Figures are percent unless they say otherwise.")
    top = tag("header", tag("h1", title), made, tag("nav", tag("ul", *links), aria_label="contents"))
    quiet = tag("noscript", note("The small figures are drawn by a script, which is switched off here."))
    return ("<!doctype html>\n"
            + tag("html", tag("head", head), tag("body", top, quiet, tag("main", *body), tag("script", Html(script))),
                  lang="en") + "\n")  # fmt: skip
