"""The shim on a scratch root, with the real dpkg and dpkg-divert."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from bmcmedic.agent.shim import install_main
from bmcmedic.agent.shim.install import ShimError, ShimInstall
from bmcmedic.agent.shim.main import is_shim
from bmcmedic.errors import Refused

pytestmark = pytest.mark.skipif(
    shutil.which("dpkg-divert") is None or shutil.which("dpkg-deb") is None,
    reason="this is no Debian",
)

FIRST = b'#!/bin/sh\necho first "$@"\n'
SECOND = b'#!/bin/sh\necho second "$@"\n'


FORMER_SCRIPT = """\
#!/bin/sh
# bmcmedic shim: runs the real ipmitool through the agent's door. `bmcmedic shim remove` ends it.
[ -x /python ] && [ -r /lib/bmcmedic/agent/shim_start.py ] && exec /python -IS \
/lib/bmcmedic/agent/shim_start.py {real} "$@"
exec {real} "$@"
"""
"""What `shim install` wrote before `agent/shim/` existed."""


class Root:
    """A file system with a dpkg database and an ipmitool that the test made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages = folder.parent / "packages"
        database = folder / "var" / "lib" / "dpkg"
        for name in ("info", "updates", "triggers"):
            (database / name).mkdir(parents=True)
        for name in ("status", "available", "diversions"):
            (database / name).touch()
        self.path = folder / "usr" / "bin" / "ipmitool"
        self.real = folder / "usr" / "bin" / "ipmitool.bmcmedic-real"

    def unpack(self, version: str, program: bytes) -> None:
        """Install or upgrade the package with dpkg."""
        tree = self.packages / version
        (tree / "usr" / "bin").mkdir(parents=True)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN" / "control").write_text(
            f"Package: ipmitool\nVersion: {version}\nArchitecture: all\n"
            "Maintainer: nobody <nobody@invalid>\nDescription: stands for ipmitool\n",
            encoding="ascii",
        )
        (tree / "usr" / "bin" / "ipmitool").write_bytes(program)
        (tree / "usr" / "bin" / "ipmitool").chmod(0o755)
        package = self.packages / f"{version}.deb"
        run("dpkg-deb", "--build", "--root-owner-group", str(tree), str(package))
        self.dpkg("--install", str(package))

    def dpkg(self, *words: str) -> str:
        forced = ("--force-not-root", "--force-script-chrootless", "--force-bad-path")
        return run("dpkg", f"--root={self.folder}", *forced, *words)

    def diversions(self) -> str:
        return run("dpkg-divert", f"--root={self.folder}", "--list")

    def shim(self) -> ShimInstall:
        # Without its interpreter the script runs the real one: enough to see that it is reached.
        return ShimInstall(self.folder, python="/nonexistent/python")


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root(tmp_path / "root")
    made.unpack("1.0", FIRST)
    return made


def output_of(path: Path) -> str:
    return run(str(path), "mc", "info").strip()


def test_it_stands_in_the_place_and_remove_restores_the_bytes(root: Root) -> None:
    before = root.path.stat()
    shim = root.shim()
    assert shim.status().state == "absent"
    shim.install()
    assert is_shim(str(root.path))
    assert root.real.read_bytes() == FIRST
    assert output_of(root.path) == "first mc info"
    assert "ipmitool.bmcmedic-real" in root.diversions()
    assert shim.status().state == "installed"
    assert shim.status().sha256 == shim.status().sha256_before

    assert shim.remove().endswith("as it was")
    after = root.path.stat()
    assert root.path.read_bytes() == FIRST
    assert (after.st_mode, after.st_ino, after.st_mtime) == (
        before.st_mode, before.st_ino, before.st_mtime,
    )  # fmt: skip
    assert not root.real.exists()
    assert root.diversions() == ""
    assert not shim.journal.exists()
    assert shim.status().state == "absent"
    assert root.dpkg("--verify", "ipmitool") == ""


def test_both_can_be_repeated(root: Root) -> None:
    shim = root.shim()
    shim.install()
    assert shim.install().endswith("the shim already")
    shim.remove()
    assert shim.remove().endswith("is not the shim")
    assert root.path.read_bytes() == FIRST


def test_an_upgrade_in_between_goes_to_the_real_one_and_stays(root: Root) -> None:
    shim = root.shim()
    shim.install()
    root.unpack("2.0", SECOND)
    assert is_shim(str(root.path))
    assert output_of(root.path) == "second mc info"
    assert shim.status().sha256 != shim.status().sha256_before
    assert shim.remove().endswith("upgraded since")
    assert root.path.read_bytes() == SECOND
    assert root.dpkg("--verify", "ipmitool") == ""


def with_former_script(root: Root) -> ShimInstall:
    shim = root.shim()
    shim.install()
    root.path.write_text(FORMER_SCRIPT.format(real=root.real), encoding="ascii")
    assert shim.status().state == "installed"
    return shim


def test_the_script_of_a_former_version_is_written_anew(root: Root) -> None:
    shim = with_former_script(root)
    assert shim.install().startswith(f"{root.path} is the shim now")
    assert "agent/shim/start.py" in root.path.read_text(encoding="ascii")
    assert (root.real.read_bytes(), output_of(root.path)) == (FIRST, "first mc info")
    assert shim.status().state == "installed"
    assert shim.install().endswith("the shim already")


def test_the_script_of_a_former_version_is_removed(root: Root) -> None:
    shim = with_former_script(root)
    root.unpack("2.0", SECOND)
    assert output_of(root.path) == "second mc info"
    assert shim.remove().endswith("upgraded since")
    assert (root.path.read_bytes(), root.diversions()) == (SECOND, "")
    assert root.dpkg("--verify", "ipmitool") == ""


def test_a_package_that_is_removed_leaves_no_shim_behind(root: Root) -> None:
    shim = root.shim()
    shim.install()
    root.dpkg("--purge", "ipmitool")
    assert is_shim(str(root.path))
    with pytest.raises(Refused, match="reinstall"):
        shim.install()
    assert "package was removed" in shim.remove()
    assert not root.path.exists()
    assert root.diversions() == ""


STEPS = ("_save_original", "_divert", "_write")


@pytest.mark.parametrize("cut_at", range(4))
@pytest.mark.parametrize("then", ["install", "remove"])
def test_cut_off_anywhere_it_is_taken_up_again(
    root: Root, monkeypatch: pytest.MonkeyPatch, cut_at: int, then: str
) -> None:
    shim = root.shim()
    with monkeypatch.context() as patched:
        done = 0

        def cut(step: str) -> None:
            whole = getattr(ShimInstall, step)

            def until_cut(*arguments: object, **named: object) -> object:
                nonlocal done
                if done == cut_at:
                    raise ShimError("cut off")
                done += 1
                return whole(*arguments, **named)

            patched.setattr(ShimInstall, step, until_cut)

        for step in STEPS:
            cut(step)
        with pytest.raises(ShimError, match="cut off"):
            shim.install()
    assert output_of(root.path) == "first mc info"
    getattr(shim, then)()
    assert output_of(root.path) == "first mc info"
    assert shim.status().state == ("installed" if then == "install" else "absent")
    shim.remove()
    assert root.path.read_bytes() == FIRST
    assert root.diversions() == ""
    assert [each.name for each in root.path.parent.iterdir()] == ["ipmitool"]


def test_a_remove_that_was_cut_off_is_taken_up_again(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = root.shim()
    shim.install()
    with monkeypatch.context() as patched:
        patched.setattr(ShimInstall, "_divert", lambda *_: (_ for _ in ()).throw(ShimError("cut")))
        with pytest.raises(ShimError):
            shim.remove()
    assert root.path.read_bytes() == FIRST
    shim.remove()
    assert root.diversions() == ""


def test_another_diversion_is_refused(root: Root) -> None:
    run(
        "dpkg-divert", f"--root={root.folder}", "--local", "--no-rename", "--divert",
        "/usr/bin/ipmitool.theirs", "--add", "/usr/bin/ipmitool",
    )  # fmt: skip
    with pytest.raises(Refused, match=r"diverted to /usr/bin/ipmitool\.theirs"):
        root.shim().install()
    assert root.path.read_bytes() == FIRST
    assert not root.real.exists()


def test_a_file_of_somebody_else_is_refused(root: Root) -> None:
    shim = root.shim()
    shim.install()
    root.path.write_bytes(SECOND)
    with pytest.raises(Refused, match="neither the shim nor"):
        shim.remove()
    with pytest.raises(Refused, match="both exist and differ"):
        shim.install()
    assert (root.path.read_bytes(), root.real.read_bytes()) == (SECOND, FIRST)


def test_without_ipmitool_or_dpkg_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = Root(tmp_path / "root")
    with pytest.raises(Refused, match="install ipmitool first"):
        bare.shim().install()
    (bare.folder / "var" / "lib" / "dpkg" / "status").unlink()
    assert install_main.main(["install"], bare.folder) == 3
    assert "does not use dpkg" in capsys.readouterr().err


def test_what_cannot_be_written_says_so(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(root.path))

    shim = root.shim()
    with monkeypatch.context() as patched:
        patched.setattr("bmcmedic.agent.shim.install.os.fsync", full)
        with pytest.raises(ShimError, match="No space left"):
            shim.install()
    assert [each.name for each in root.path.parent.iterdir()] == ["ipmitool"]
    assert root.path.read_bytes() == FIRST


def test_the_command_line(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert install_main.main(["status"], root.folder) == 1
    assert install_main.main(["install"], root.folder) == 0
    assert install_main.main(["status"], root.folder) == 0
    capsys.readouterr()
    assert install_main.main(["status", "--json"], root.folder) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"state", "path", "real", "sha256", "sha256_before"}
    assert printed["state"] == "installed"
    assert install_main.main(["remove"], root.folder) == 0
    with pytest.raises(SystemExit) as ended:
        install_main.main(["enable"], root.folder)
    assert ended.value.code == 2
