"""What the commands enroll, identify and gallery are given in; a changed gallery, answers as a table or JSON, out."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from bpmt_ext.engine.embed import Model, embed_walks, read_all
from bpmt_ext.engine.inference import embed
from bpmt_ext.engine.logs import log, write_text
from bpmt_ext.engine.stages import load_data
from bpmt_ext.errors import UserError
from bpmt_ext.identify.calibrate import TRIALS, Calibration, calibration
from bpmt_ext.identify.gallery import Entry, Gallery
from bpmt_ext.identify.model import check_enrolling, check_same, kept_facts, kept_files, open_model
from bpmt_ext.identify.poses import MIN_FRAMES, ShortError, VideoReader, Walk, walk_paths
from bpmt_ext.identify.search import Match, load_faiss, search
from bpmt_ext.report.tables import text_table

UNKNOWN, UNCALIBRATED = "unknown", "uncalibrated"
CONSENT = ("a new gallery: it holds biometric data of people. Enroll only who has agreed, delete who asks for it "
           "(bpmt gallery --remove), and keep the folder to yourself")  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How files of poses are read: their joint format where they do not tell it, a video's reader, fewest frames."""

    joint_format: str | None = None
    video: VideoReader | None = None
    least: int = MIN_FRAMES

    def __call__(self, model: Model, paths: Sequence[Path]) -> list[Walk]:
        """Everybody in these files, and in all walks of the folders among them."""
        return [walk for path in paths for found in self.each(model, path) for walk in found]

    def each(self, model: Model, path: Path) -> Iterator[list[Walk]]:
        """Everybody in a file, or in one walk after the other of a folder; what is too short is left out and told.

        UserError where nothing is left.
        """
        files, empty = walk_paths(path), True
        for file in files:
            try:
                walks, told = read_all(model, [file], joint_format=self.joint_format, video=self.video,
                                       least=self.least)  # fmt: skip
            except ShortError as error:
                if files == [path]:
                    raise
                log.warning("left out: %s", error)
                continue
            for sentence in told:
                log.warning("%s", sentence)
            empty = False
            yield walks
        if empty:
            raise UserError(f"{path}: none of its {len(files)} walks has the {self.least} frames that an answer needs; "
                            "give longer ones, or lower --min-frames")  # fmt: skip


def plain_name(text: str) -> str:
    """A person's name as the gallery keeps it. UserError for one that is empty, too long, unprintable or an answer."""
    name = unicodedata.normalize("NFC", text).strip()
    if not 0 < len(name) <= 100 or not name.isprintable() or name.lower() in (UNKNOWN, UNCALIBRATED):
        raise UserError(f"--name {text[:40]!r}: give a name of 1 to 100 printable letters, other than {UNKNOWN} and "
                        f"{UNCALIBRATED}")  # fmt: skip
    return name


def _sizes(people: int, entries: int) -> str:
    return f"{people} {'person' if people == 1 else 'people'}, {entries} {'entry' if entries == 1 else 'entries'}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def enroll(folder: Path, name: str, paths: Sequence[Path], *, model: Callable[[], Model] | None, reading: Reading,
           track: str | None = None) -> int:  # fmt: skip
    """Put a person's walks into a gallery, which is made where there is none; prints what went in.

    Of a folder of walks all go in. A copy of a walk that the person has already is left out, and told.

    model: gives the network of --cfgs; the gallery's own where left out. track: which one of each file's people.
    """
    name = plain_name(name)
    gallery = Gallery.open(folder) if Gallery.exists(folder) else None
    if gallery is None and model is None:
        raise UserError(f"{folder}: is no gallery yet; give --cfgs CONFIG, the network that it is to be made with")
    network = model() if model is not None else open_model(gallery)  # type: ignore[arg-type]
    check_enrolling(network)
    if gallery is not None:
        check_same(gallery, network)
    walks, origins = [], []
    for path in paths:
        for found in reading.each(network, path):
            walks.append(_one(found, found[0].source, track))
            origins.append(_origin(walks[-1].source, path))
    embeddings = embed_walks(network, walks)
    if gallery is None:
        gallery = Gallery.create(folder, kept_facts(network, embeddings.shape[1:]), kept_files(network))
        check_same(gallery, network)  # another process may have been quicker
        log.warning("%s: %s", folder, CONSENT)
    today = date.today().isoformat()
    fresh = gallery.add([Entry(name, origin, _printable(walk.track), len(walk.pose), today)
                         for walk, origin in zip(walks, origins, strict=True)], embeddings)  # fmt: skip
    people = gallery.people()
    for walk, is_new in zip(walks, fresh, strict=True):
        if is_new:
            sys.stdout.write(f"enrolled {name}: {_told(walk)}\n")
        else:
            log.warning("%s: left out, a copy of a walk that is enrolled as %s already", _printable(walk.name), name)
    sys.stdout.write(f"{folder}: {_sizes(len(people), people.total())}, {people[name]} of {name}\n")
    return 0


def _origin(path: Path, given: Path) -> str:
    """A file's name; a folder's with the one above it, since those of sequences are called alike.

    What lies deeper in the folder that was given is told from there.
    """
    inside = path.relative_to(given).parts
    if len(inside) < 2:
        inside = path.absolute().parts[-2:] if path.is_dir() else (path.name,)
    return _printable("/".join(inside))


def _told(walk: Walk) -> str:
    span = f"frames {walk.frames[0]} to {walk.frames[-1]}, {len(walk.pose)} of them usable"
    return f"{_printable(str(walk.source))}, track {_printable(walk.track)}, {span}"


def _one(walks: Sequence[Walk], path: Path, track: str | None) -> Walk:
    chosen = [walk for walk in walks if track is None or walk.track == track]
    if len(chosen) == 1:
        return chosen[0]
    there = ", ".join(f"{_printable(walk.track)} ({len(walk.pose)} frames)" for walk in walks[:5])
    if not chosen:
        raise UserError(f"{path}: has no track {track!r}; its tracks: {there}")
    raise UserError(f"{path}: shows {len(walks)} people; name one with --track: {there}")


def identify(folder: Path, paths: Sequence[Path], *, reading: Reading, far: float, top: int, json_to: str | None,
             use_faiss: bool = False, calibrate: bool = False, opts: Sequence[str] = ()) -> int:  # fmt: skip
    """Say of everybody in these files who of the gallery it may be; a table, or JSON to a file or "-"."""
    gallery = Gallery.open(folder)
    faiss = load_faiss(gallery.facts["metric"]) if use_faiss else None
    model = open_model(gallery, opts)
    if calibrate:
        add_strangers(gallery, model)
    walks = reading(model, paths)
    if not len(gallery):
        raise UserError(f"{folder}: nobody is enrolled; enroll somebody first")
    embeddings = embed_walks(model, walks)
    scale, people = calibration(gallery), gallery.people()
    answers = search(gallery, embeddings, top=top, faiss=faiss)
    result = {
        "gallery": {"people": len(people), "entries": people.total(), "network": gallery.facts["network"],
                    "config": gallery.facts["config"], "weights": gallery.facts["weights"],
                    "metric": gallery.facts["metric"]},
        "false_accept_rate": far, "threshold": scale.threshold(far),
        "calibration": {"trials": len(scale.distances), "people": scale.people, "enough": scale.enough(far),
                        "rate": scale.rate(far), "notes": scale.notes(far)},
        "people": [answer(walk, found, scale, far, people) for walk, found in zip(walks, answers, strict=True)],
    }  # fmt: skip
    return tell(result, json_to, table)


def tell(result: dict[str, Any], json_to: str | None, table: Callable[[dict[str, Any]], str]) -> int:
    """Print a result as a table, and write it as JSON to a file; to "-" it is printed in place of the table."""
    text = json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    if json_to is not None and json_to != "-":
        write_text(Path(json_to), text)
    sys.stdout.write(text if json_to == "-" else table(result))
    return 0


def answer(walk: Walk, found: Sequence[Match], scale: Calibration, far: float, people: Any) -> dict[str, Any]:
    """One person's answer: a name, unknown or uncalibrated, the threshold, and the names nearest first."""
    threshold = scale.threshold(far)
    ranked = [
        {"name": match.entry.name, "distance": match.distance, "strangers_as_near": scale.as_near(match.distance),
         "accepted": threshold is not None and match.distance < threshold, "entries": people[match.entry.name],
         "nearest": {"source": match.entry.source, "track": match.entry.track, "enrolled": match.entry.added}}
        for match in found
    ]  # fmt: skip
    known = UNKNOWN if threshold is not None else UNCALIBRATED
    first, last = int(walk.frames[0]), int(walk.frames[-1])
    return {
        "source": str(walk.source), "track": walk.track, "frames": {"first": first, "last": last,
                                                                    "usable": len(walk.pose)},
        "answer": ranked[0]["name"] if ranked and ranked[0]["accepted"] else known, "threshold": threshold,
        "ranked": ranked,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The answers for people to read: never a name without its distance and the threshold."""
    far, threshold, there = result["false_accept_rate"], result["threshold"], result["gallery"]
    limit = "no threshold" if threshold is None else f"threshold {threshold:.4g}"
    rate = result["calibration"]["rate"]
    if threshold is not None and rate > far:  # said in every line, so that no name is read without it
        limit += f", good for {rate:.1%} only"
    lines = [f"{_sizes(there['people'], there['entries'])}; {limit} for a false-accept rate of {far:.2%}, "
             f"from {result['calibration']['trials']} impostor trials of {result['calibration']['people']} people"]
    lines += [f"note: {note}" for note in result["calibration"]["notes"]]
    for one in result["people"]:
        nearest = one["ranked"][0]
        known = one["answer"] not in (UNKNOWN, UNCALIBRATED)
        told = f"distance {nearest['distance']:.4g}" if known else f"nearest {nearest['distance']:.4g}"
        frames = one["frames"]
        lines += ["", f"{_printable(one['source'])}, track {_printable(one['track'])}, frames {frames['first']} to "
                      f"{frames['last']}: {one['answer']} ({told}, {limit})"]  # fmt: skip
        rows = [[row["name"], f"{row['distance']:.4f}", "yes" if row["accepted"] else "no",
                 "-" if row["strangers_as_near"] is None else f"{row['strangers_as_near']:.1%}", str(row["entries"]),
                 row["nearest"]["source"]] for row in one["ranked"]]  # fmt: skip
        lines.append(text_table(["name", "distance", "accepted", "strangers as near", "entries", "nearest"], rows))
    return "\n".join(lines) + "\n"


def add_strangers(gallery: Gallery, model: Model) -> tuple[int, int]:
    """Embed the config's validation people and keep that beside the gallery, nameless, as impostors.

    They take the place of earlier ones. Returns how many walks of how many people.
    """
    settings = model.settings
    val = load_data(settings).val
    if not len(val):
        raise UserError(f"--calibrate: {settings.where('data_cfg.validation')} holds nobody out; the gallery's own "
                        "people have to do")  # fmt: skip
    found = embed(model.run, val, progress=False).embeddings
    rows = np.unique(np.linspace(0, len(found) - 1, min(len(found), TRIALS[1])).round().astype(np.int64))
    gallery.keep_strangers(found[rows], len(val.label_set))
    return len(rows), len(val.label_set)


def _rests(scale: Calibration) -> str:
    """What a threshold rests on, for people to read."""
    trials = len(scale.distances)
    if not trials:
        return "nobody is enrolled yet, so that there is no threshold\n"
    told = (f"the threshold rests on {trials} impostor trials of {scale.people} people: {scale.own} enrolled and "
            f"{trials - scale.own} strangers' walks, good for a false-accept rate of {scale.least():.1%} or more")
    return "".join(f"{line}\n" for line in (told, *(f"note: {note}" for note in scale.notes(scale.least()))))


def manage(folder: Path, *, remove: str | None = None, calibrate: bool = False, opts: Sequence[str] = ()) -> int:
    """List a gallery's people; before that delete one of them, or add the config's validation people as impostors."""
    gallery = Gallery.open(folder)
    if remove is not None:
        gone = gallery.remove(plain_name(remove))
        sys.stdout.write(f"removed {plain_name(remove)}: {gone} entries\n")
    if calibrate:
        walks, strangers = add_strangers(gallery, open_model(gallery, opts))
        sys.stdout.write(f"took {walks} walks of {strangers} validation people as strangers\n")
    if remove is not None or calibrate:
        scale = calibration(gallery)
        sys.stdout.write(_rests(scale) if calibrate else "")
    rows: dict[str, list[Entry]] = {}

    def listed() -> None:
        rows.clear()
        for shard in gallery.shards:
            for entry in gallery.entries(shard)[0]:
                rows.setdefault(entry.name, []).append(entry)

    gallery.consistent(listed)
    facts = gallery.facts
    sys.stdout.write(f"{folder}: {_sizes(len(rows), len(gallery))}; {facts['network']}, weights "
                     f"{facts['weights']}, {facts['joint_format']}\n")  # fmt: skip
    if rows:
        body = [[name, str(len(own)), str(sum(e.frames for e in own)), max(e.added for e in own)]
                for name, own in sorted(rows.items())]  # fmt: skip
        sys.stdout.write(text_table(["name", "entries", "frames", "last enrolled"], body) + "\n")
    return 0
