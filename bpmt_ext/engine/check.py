"""Settings in, a report on their data and protocol on standard output out: `bpmt check-data`."""

from __future__ import annotations

import json
import sys
from typing import Any

from tqdm import tqdm

from bpmt_ext.config import Settings
from bpmt_ext.data.health import check_data
from bpmt_ext.data.sequences import Splits, load_splits
from bpmt_ext.engine.stages import check_protocol, pose_skeleton
from bpmt_ext.errors import UserError
from bpmt_ext.report.tables import text_table


def run(settings: Settings) -> int:
    """Open every file of the config's data once, count what the protocol would compare, and write both out.

    Raises UserError at the end if a file cannot be used or the protocol has no valid probe.
    """
    splits = load_splits(settings.data_cfg, joints=pose_skeleton(settings).num_joints, lenient=True)
    with tqdm(desc="check", unit="file", disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = check_data(splits, progress=progress)
    sys.stdout.write(data_text(settings, report) + "\n\n")
    sys.stdout.write(protocol_text(settings, splits) + "\n")
    bad = {kind: report["problems"][kind] for kind in ("unreadable", "nan") if report["problems"][kind]}
    if bad:
        first = next(iter(bad.values()))[0]
        raise UserError(
            f"{sum(map(len, bad.values()))} sequence(s) cannot be used, the first is {first['name']} "
            f"({first['detail'].rstrip('.')}); convert them again or take them out"
        )
    return 0


def data_text(settings: Settings, report: dict[str, Any]) -> str:
    """What each set holds, which sequences are doubtful, what was left out."""
    header = ["set", "labels", "cameras", "sequences", "frames", "shortest", "median", "longest"]
    rows = [[name, *(f"{row[key]:g}" for key in header[1:])] for name, row in report["splits"].items()]
    lines = [f"{settings.data_cfg.dataset_name} in {settings.data_cfg.dataset_root}", text_table(header, rows), ""]
    for kind, found in report["problems"].items():
        names = ", ".join(f"{row['name']} ({row['detail']})" for row in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        lines.append(f"{kind}: {len(found)}" + (f": {names}{more}" if found else ""))
    lines += [f"left out, {kind.replace('_', ' ')}: {count}" for kind, count in report["dropped"].items() if count]
    return "\n".join([*lines, f"fingerprint: {report['fingerprint'][:16]}"])


def protocol_text(settings: Settings, splits: Splits) -> str:
    """Counts of the test protocol. UserError without a valid probe, or without anything to recognise."""
    counts = check_protocol(settings, splits)
    if "classes" in counts:  # of a recognition
        header = ["class", "train", "val", "test"]
        rows = [[name, *(str(row.get(key, 0)) for key in header[1:])] for name, row in counts["classes"].items()]
        empty = [row[0] for row in rows if row[1] == "0"]
        lines = [f"protocol {counts['protocol']}: {counts['sequences']} sequences to recognise"]
        lines += [text_table(header, rows)]
        return "\n".join([*lines, *([f"classes without training sequences: {', '.join(empty)}"] if empty else [])])
    probes, every_probe = counts.pop("probes"), counts.pop("every_probe")
    lines = [f"protocol {counts.pop('protocol')}: {probes['valid']} of {probes['total']} probes have a match"]
    if probes["without_match"]:
        how = "counted as missed in Rank-k, left out of mAP and mINP" if every_probe else "left out of every figure"
        lines.append(f"{probes['without_match']} probes have no match in their gallery: {how}")
    conditions = counts.pop("conditions")
    if len(conditions) > 1:
        header = ["condition", "probes", "valid", "gallery"]
        lines.append(text_table(header, [[name, *map(str, row.values())] for name, row in conditions.items()]))
    if "views" in counts:
        lines.append(f"views: {', '.join(counts.pop('views'))}")
    return "\n".join([*lines, json.dumps(counts)])
