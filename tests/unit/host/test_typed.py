"""Records and annotations without `typing`: the same as with it, and triage loads none of it."""

from __future__ import annotations

import pickle
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.host import typed
from bmcmedic.host.kernel.proc import ProcessIdentity, Stat
from tests.support.proc_tree import KTHREADD, kipmi, stuck_ipmitool, write_capture

TIMEOUT_S = 60
DEAR = ("argparse", "gettext", "locale", "typing")
"""To load them takes a tenth of what a triage may."""

RECORD = '''
class Point(NamedTuple):
    """A point."""

    x: int
    y: "int" = 0
    """Upwards."""
    names: Optional[Tuple[str, ...]] = None

    @property
    def sum(self) -> int:
        """Return the sum of both."""
        return self.x + self.y

    @classmethod
    def of(cls, text: str) -> "Optional[Point]":
        return cls(*map(int, text.split()))
'''


def record_of(words: Any) -> Any:  # noqa: ANN401 - a module
    body = {"__name__": __name__, **{name: getattr(words, name) for name in typed.__all__}}
    exec(RECORD, body)  # noqa: S102 - ours
    return body["Point"]


def test_a_record_is_what_typing_makes_of_it() -> None:
    ours, theirs = record_of(typed), record_of(typing)
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "_fields", "__bases__"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours._field_defaults.keys() <= theirs._field_defaults.keys()
    assert set(vars(theirs)) - set(vars(ours)) <= {"__annotations__", "__orig_bases__"}
    for record in (ours, theirs):
        assert repr(record(1)) == "Point(x=1, y=0, names=None)"
        assert record.of("2 3") == (2, 3, None)
        assert record.of("2 3").sum == 5
        assert record(1)._replace(y=4)._asdict() == {"x": 1, "y": 4, "names": None}
        with pytest.raises(TypeError):
            record()
        with pytest.raises(TypeError):
            record(1, z=2)


def test_records_of_triage_go_through_a_pickle() -> None:
    stat = Stat(7, "ipmitool", "S", 1, 7, 7, 0, 0, 0, 1, 99, 0)
    assert pickle.loads(pickle.dumps(stat)) == stat  # noqa: S301 - our own
    assert stat.identity == ProcessIdentity(7, 99)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="classes keep annotations elsewhere")
@pytest.mark.parametrize("options", [[], ["--json", "--interval", "0.5", "--stuck-after", "9"]])
def test_triage_loads_nothing_that_costs_more_than_it_gives(
    tmp_path: Path, options: list[str]
) -> None:
    processes = [KTHREADD, kipmi(), stuck_ipmitool()]
    root = str(write_capture(tmp_path / "sick", processes, processes))
    loaded = f"print(*sorted({set(DEAR)} & set(sys.modules)), file=sys.stderr)"
    code = f"import sys, bmcmedic.cli\nfrom bmcmedic.host import main\ns = main.main()\n{loaded}\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(s)", "triage", "--proc-root", root, *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "\n")
    assert "65113" in done.stdout
