"""Names of a benchmark's subjects, types and views in, its split and folder levels out: what its converters share.

The poses and the silhouettes of CASIA-B, OUMVLP and CCPG are divided alike (protocols.md sections 1 to 3).
"""

from __future__ import annotations

import re

from bpmt_ext.data.partitions import Benchmark

_STATUS = (("nm", 6), ("bg", 2), ("cl", 2))
_CASIAB_TYPES = tuple(f"{status}-{i:02d}" for status, count in _STATUS for i in range(1, count + 1))
_CASIAB_VIEWS = tuple(f"{angle:03d}" for angle in range(0, 181, 18))
_CASIAB_IDS = tuple(f"{i:03d}" for i in range(1, 125))
CASIAB = Benchmark(
    _CASIAB_IDS[:74], _CASIAB_IDS[74:], lambda label: (f"{kind}/{view}" for kind in _CASIAB_TYPES
                                                       for view in _CASIAB_VIEWS),
)  # fmt: skip
CASIAB_LEVELS = tuple(re.compile("|".join(names)) for names in (_CASIAB_IDS, _CASIAB_TYPES, _CASIAB_VIEWS))

OUMVLP_VIEWS = tuple(f"{angle:03d}" for angle in (*range(0, 91, 15), *range(180, 271, 15)))
OUMVLP_SESSIONS = ("00", "01")
_OUMVLP_ALL = range(1, 10308)
_OUMVLP_TRAIN = range(1, 10306, 2)
OUMVLP = Benchmark(
    tuple(f"{i:05d}" for i in _OUMVLP_TRAIN), tuple(f"{i:05d}" for i in _OUMVLP_ALL if i not in _OUMVLP_TRAIN),
    lambda label: (f"{session}/{view}" for session in OUMVLP_SESSIONS for view in OUMVLP_VIEWS),
)  # fmt: skip

CCPG_TYPES = ("U0_D0", "U0_D0_BG", "U0_D3", "U1_D0", "U1_D1", "U2_D2", "U3_D3")
_CCPG_IDS = tuple(f"{i:03d}" for i in range(200))
CCPG = Benchmark(_CCPG_IDS[:100], _CCPG_IDS[100:], lambda label: CCPG_TYPES)
CCPG_LEVELS = (re.compile("|".join(_CCPG_IDS)), re.compile(r"U\d_D\d(_BG)?"), re.compile(r"[A-Za-z0-9][\w.\-]*"))
