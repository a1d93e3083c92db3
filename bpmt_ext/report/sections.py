"""Runs in, the sections of a page about their figures out: metrics, curves, CMC, breakdowns, confusion, hardest, map.

Each returns Html, with a sentence in place of what is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bpmt_ext.metrics.classification import confusion_matrix
from bpmt_ext.metrics.ranking import distances
from bpmt_ext.report import ranked
from bpmt_ext.report.animated import canvas, clips, packed
from bpmt_ext.report.curves import panels_of
from bpmt_ext.report.markup import Cell, Html, Line, heat_map, join, line_chart, note, scatter, table, tag
from bpmt_ext.report.runfolder import RunFolder, is_number
from bpmt_ext.report.tsne import tsne

_POINTS = 2000  # of a map
_MANY, _FIRST = 16, ("Rank-1", "mAP", "top1")  # of more metrics than that these are shown first
_ROWS = 60  # of a breakdown
_CMC = 10  # lines of one chart


def metrics(runs: Sequence[RunFolder]) -> Html:
    """One table, a column a run, the best of each row marked; then what was tested and how."""
    tested = [run for run in runs if run.results is not None]
    if not tested:
        return note("No run here has been tested yet: run bpmt test, which writes results.json.")
    kinds = {tuple(str(run.results.get(key)) for key in ("dataset", "protocol", "same_camera", "camera", "data"))
             for run in tested}  # fmt: skip
    names = dict.fromkeys(name for run in tested for name in run.results["metrics"])
    rows = []
    for name in names:
        values = [run.results["metrics"].get(name, np.nan) for run in tested]
        best = max(values) if len(tested) > 1 and len(kinds) == 1 and np.isfinite(values).all() else None
        rows.append([name, *(Cell(v, best=v == best) for v in values)])
    header = ["percent", *(run.name for run in tested)]
    first = [row for row in rows if row[0].endswith(_FIRST)] if len(rows) > _MANY else rows
    pieces = [table(header, first or rows, caption="Metrics")]
    if first and len(first) < len(rows):
        whole = table(header, rows, caption="All metrics")
        pieces.append(tag("details", tag("summary", f"All {len(rows)} figures"), whole))
    if len(kinds) > 1:
        pieces.append(note("These runs were not all tested on the same data by the same protocol (see the next table): "
                           "their figures cannot be compared.", warn=True))  # fmt: skip
    facts = [[said, *(_fact(run.results.get(key)) for run in tested)] for said, key in _FACTS
             if any(run.results.get(key) is not None for run in tested)]  # fmt: skip
    pieces.append(table(["", *(run.name for run in tested)], facts, caption="What was tested, and how"))
    for run in tested:
        if run.results.get("note"):
            pieces.append(note(f"{run.name}: {run.results['note']}"))
    absent = [run.name for run in runs if run.results is None]
    if absent:
        pieces.append(note(f"Not tested yet: {', '.join(absent)}."))
    return join(pieces)


_FACTS = (
    ("data set", "dataset"), ("network", "model"), ("iteration", "iteration"), ("checkpoint", "checkpoint"),
    ("seed", "seed"), ("protocol", "protocol"), ("distance", "metric"),
    ("gallery of the probe's camera", "same_camera"),
    ("probes", "probes"), ("gallery", "gallery"), ("left out", "dropped"), ("other checkpoint", "other_checkpoint"),
    ("file for the server", "submission"), ("weights", "weights"), ("test data", "data"), ("versions", "versions"),
)  # fmt: skip


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(one)}" for key, one in value.items()) or "nothing"
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.1f}"
    text = str(value)
    return text[:12] + "…" if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


def training(run: RunFolder) -> Html:
    """Train and validation curves of every stage, in order, the run itself last."""
    own = run.settings.model_cfg.model if run.settings is not None else run.name
    stages = [(f"Stage {name.upper()}", stage) for name, stage in run.stages] + [(f"{own}, the run itself", run)]
    pieces: list[Html] = []
    for title, stage in stages:
        pieces.append(tag("h4", title, f" ({stage.folder.name})" if stage is not run else ""))
        if not stage.rows:
            pieces.append(note("No metrics.jsonl: nothing was trained here, or it was taken away."))
            continue
        charts = [_panel(stage.rows, heading, names) for heading, names in panels_of(stage.rows)]
        pieces.append(tag("div", *charts, class_="grid"))
        if not any(row["split"] == "validation" for row in stage.rows):
            pieces.append(note("No validation: no people were held out (data_cfg.validation, trainer_cfg.val_iter)."))
    lost = [name for name in (run.settings.model_cfg.stages if run.settings is not None else {})
            if name not in dict(run.stages)]  # fmt: skip
    if lost:
        told = f"The run of stage {', '.join(lost)} does not lie beside this one: its curves are not shown."
        pieces.append(note(told))
    return join(pieces)


def _panel(rows: Sequence[Mapping[str, Any]], heading: str, names: Sequence[str]) -> Html:
    lines = []
    for order, name in enumerate(names):
        for split in ("train", "validation"):
            points = [(row["iteration"], row[name]) for row in rows if row["split"] == split and name in row]
            if points:
                word = split if len(names) == 1 else name.removeprefix("part/").removesuffix("/loss").replace("_", " ")
                colour = order if len(names) > 1 else (split == "validation") * 3
                dots = split == "validation"
                lines.append(Line(word, points, colour, dots and len(names) > 1, dots))
    log = heading.startswith("loss") and any(value > 0 for line in lines for _, value in line.points)
    title = f"{heading}; dashed: validation" if any(line.dashed for line in lines) else heading
    return line_chart(lines, title=title, x="iteration", log=log)


def cmc(runs: Sequence[RunFolder], tests: Mapping[str, ranked.Test | str]) -> Html:
    """The CMC curves of all runs in one chart."""
    lines, notes = [], []
    for run in runs:
        test = tests[run.name]
        if isinstance(test, str):
            if run.predictions is None:
                notes.append(note(f"{run.name}: {test}."))
            continue
        found = ranked.curves(test)
        for curve in found[: max(1, _CMC // len(runs))]:
            name = " ".join(part for part in (run.name if len(runs) > 1 or not curve.name else "", curve.name) if part)
            points = [(k + 1, float(value)) for k, value in enumerate(curve.percent)]
            lines.append(Line(name, points, len(lines), dots=True))
            notes.append(note(f"{name}: {curve.probes} of {curve.total} probes; Rank-1 {curve.percent[0]:.1f} %, "
                              f"Rank-5 {curve.percent[4]:.1f} %."))  # fmt: skip
        if test.figure.prefix or test.figure.by_view:
            notes.append(note(f"{run.name}: over all probes together, the gallery of other views."))
    if not lines:
        return join(notes) or note("A CMC curve is of a test by distances; these runs name actions.")
    title = "CMC: the right person is among the first k"
    chart = line_chart(lines, title=title, x="k", y="percent of probes", high=100)
    return join([tag("div", chart, class_="grid"), *notes])


def breakdown(run: RunFolder) -> Html:
    """Camera by camera and view by view, or class by class."""
    if run.results is None:
        return note("Not tested yet.")
    if run.results.get("per_class"):
        return _classes(run.results["per_class"])
    pieces, rows = [], run.per_probe
    if rows is None:
        pieces.append(note("No per_probe.npz, which says how each probe was answered: run bpmt test."))
    for condition in dict.fromkeys(rows["condition"].tolist()) if rows is not None else ():
        own = rows["condition"] == condition
        told = []
        for camera in np.unique(rows["camera"][own]).tolist():
            here = own & (rows["camera"] == camera)
            first, ap = rows["rank1"][here], rows["ap"][here]
            value = 100 * float(np.nanmean(first)) if np.isfinite(first).any() else float("nan")
            mean = 100 * float(np.nanmean(ap)) if np.isfinite(ap).any() else float("nan")
            told.append([camera, str(int(here.sum())), str(int(np.isfinite(first).sum())),
                         Cell(value, share=value / 100), Cell(mean, share=mean / 100)])  # fmt: skip
        shown = sorted(told, key=lambda row: row[3].value)[:_ROWS] if len(told) > _ROWS else told
        caption = f"{condition}, by camera of the probe" if condition else "By camera of the probe"
        if len(shown) < len(told):
            caption += f" (the {_ROWS} worst of {len(told)})"
        pieces.append(table(["camera", "probes", "counted", "Rank-1", "mAP"], shown, caption=caption))
    views = [str(view) for view in run.results.get("views", ())]
    for name, cells in run.results.get("matrices", {}).items():
        grid = np.array([[np.nan if v is None else v for v in row] for row in cells["all"]["Rank-1"]], dtype=float)
        if grid.shape == (len(views), len(views)):
            title = f"{name} Rank-1, probe view against gallery view".strip()
            pieces.append(heat_map(grid, views, views, title=title, alt=f"{title}; mean {np.nanmean(grid):.1f} percent",
                                   high=100, across="gallery view", down="probe view"))  # fmt: skip
    return join(pieces)


def _classes(per_class: Mapping[str, Any]) -> Html:
    header = ["class", "sequences", "accuracy", "precision", "f1"]
    rows = []
    for name, one in per_class.items():
        if isinstance(one, Mapping) and all(is_number(one.get(key)) for key in header[1:]):
            bars = (Cell(one[key], share=one[key] / 100) for key in header[2:])
            rows.append([name, str(one["sequences"]), *bars])
    return table(header, rows, caption="Class by class, percent")


def confusion(run: RunFolder) -> Html:
    """The confusion matrix of predictions.npz."""
    found = run.predictions
    if found is None:
        return note("No predictions.npz: the confusion matrix is of a test that names actions.")
    names, k = found["classes"].tolist(), len(found["classes"])
    answers = found["scores"].argmax(1)
    counts = confusion_matrix(answers, found["labels"], k)
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = float((answers == found["labels"]).mean())
    wrong = counts - np.diag(np.diagonal(counts))
    alt = f"confusion matrix of {k} classes, {100 * right:.1f} percent on its diagonal"
    told = np.where(counts > 0, share, np.nan)
    pieces = [heat_map(told, names, names, title="Confusion, percent of the row's sequences", alt=alt, high=100,
                       digits=0 if k <= 30 else None, side=28 if k <= 30 else 12 if k <= 62 else 8,
                       across="taken for", down="is")]  # fmt: skip
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:8]
    rows = [[names[i // k], names[i % k], str(wrong.flat[i]), Cell(share.flat[i])] for i in pairs if wrong.flat[i]]
    if rows:
        header = ["is", "taken for", "sequences", "percent of the class"]
        pieces.append(table(header, rows, caption="Mixed up most often"))
    return join(pieces)


def hardest(run: RunFolder, test: ranked.Test | str, count: int) -> Html:
    """The probes with the lowest average precision, or the clips whose class got the lowest score, and the answers."""
    if run.predictions is not None:
        return _hardest_clips(run, count)
    if isinstance(test, str):
        return note(f"{test}.")
    found, names = ranked.hardest(test, count), _names(run)
    pieces = [] if run.skeleton is None or isinstance(run.splits, str) else [_play()]
    pieces += _poses_absent(run)
    pieces += [note(f"Of the condition {test.chosen[0].name}.")] if test.chosen[0].name else []
    for hard in found:
        who = run.embeddings["labels"][hard.index]
        told = f"average precision {100 * hard.ap:.1f} %, first right at place {hard.first} of {hard.gallery}"
        cards = [_card(run, names[hard.index], "probe", who, "probe", told)]
        for place, answer in enumerate(hard.answers, 1):
            told = ("✓ the same person" if answer.right else "✗ another person") + f", distance {answer.distance:.3g}"
            name = run.embeddings["labels"][answer.index]
            kind = "right" if answer.right else "wrong"
            cards.append(_card(run, names[answer.index], f"{place}.", name, kind, told))
        pieces.append(tag("div", _clips(run, cards), class_="hard"))
    return join(pieces) if found else note("No probe counts in this test.")


def _names(run: RunFolder) -> list[str]:
    found = run.embeddings
    return [f"{a}-{b}-{c}" for a, b, c in zip(found["labels"], found["types"], found["views"], strict=True)]


def _play() -> Html:
    return tag("button", "Pause", type="button", class_="play", aria_label="pause or play all moving figures")


def _poses_absent(run: RunFolder) -> list[Html]:
    if isinstance(run.splits, str):
        return [note(f"The sequences are not at hand, so the figures stay empty: {run.splits}.")]
    return [note("Silhouettes are not drawn as skeletons.")] if run.silhouettes else []


def _clips(run: RunFolder, cards: Sequence[Html]) -> Html:
    return clips(run.skeleton, *cards) if run.skeleton is not None else tag("div", *cards, class_="clips")


def _card(run: RunFolder, sequence: str, place: str, who: str, kind: str, told: str) -> Html:
    """A sequence with its moving figure, if it is at hand, and what is to be said of it."""
    pose = None if run.skeleton is None else run.pose(sequence)
    said = f"{place} {who}, {told}, sequence {sequence}"
    moving = Html("") if pose is None else canvas(packed(pose, run.skeleton), run.skeleton, f"walking figure: {said}")
    text = tag("figcaption", tag("b", f"{place} {who}"), tag("span", told), tag("small", sequence))
    return tag("figure", moving, text, class_=f"card {kind}")


def _hardest_clips(run: RunFolder, count: int) -> Html:
    """Actions: the clips whose right class got the lowest score, each with the five classes that got the highest."""
    found = run.predictions
    own = found["scores"][np.arange(len(found["labels"])), found["labels"]]
    order = np.lexsort((np.arange(len(own)), own))
    picked = ranked.spread(order, found["labels"][order], count)
    pieces = [] if run.skeleton is None or isinstance(run.splits, str) else [_play()]
    pieces += _poses_absent(run)
    for i in picked:
        name, right = found["names"][i], found["classes"][found["labels"][i]]
        card = _card(run, name, "is", right, "probe", f"score {100 * own[i]:.1f} %")
        rows = []
        for k in np.argsort(-found["scores"][i], kind="stable")[:5]:
            score = float(found["scores"][i, k])
            mark = "✓" if k == found["labels"][i] else "✗"
            rows.append([f"{mark} {found['classes'][k]}", Cell(100 * score, share=score)])
        answers = table(["taken for", "percent"], rows, caption="Answers")
        pieces.append(tag("div", _clips(run, [card]), answers, class_="hard pair"))
    return join(pieces)


def embedding_map(run: RunFolder) -> Html:
    """t-SNE of the embeddings by identity; of the class scores by class."""
    if run.embeddings is not None:
        x, group = run.embeddings["embeddings"], run.embeddings["labels"]
        metric = str((run.results or {}).get("metric", "euc"))
        kind, of = "embeddings", "person"
    elif run.predictions is not None:
        x = np.log(np.maximum(run.predictions["scores"], 1e-6))[..., None]
        group, metric, kind, of = run.predictions["classes"][run.predictions["labels"]], "euc", "class scores", "class"
    else:
        return note("No embeddings.npz: run bpmt test, which writes it.")
    names, number = np.unique(group, return_inverse=True)
    chosen = np.arange(len(x))
    if len(x) > _POINTS:  # whole people, evenly spread over the names
        turn = np.random.default_rng(0).permutation(len(names))
        chosen = np.flatnonzero(np.isin(number, turn[np.bincount(number)[turn].cumsum() <= _POINTS]))
        chosen = chosen if len(chosen) else np.arange(_POINTS)
    distance = distances(x[chosen], x[chosen], "cos" if metric == "cos" else "euc")
    place = tsne(distance, x[chosen].reshape(len(chosen), -1))
    title = f"t-SNE of {len(chosen)} {kind}, a colour a {of}"
    alt = f"{title}, {len(np.unique(number[chosen]))} of them; near points are alike"
    chart = scatter(place, number[chosen], names.tolist(), title=title, alt=alt)
    told = f"Near points are alike; distances across the map mean nothing. Point at a dot to read which {of} it is."
    if len(chosen) < len(x):
        told += f" {len(x) - len(chosen)} of {len(x)} sequences are left out."
    return join([tag("div", chart, class_="grid big"), note(told)])

