from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from bmcmedic.errors import ConfigurationError
from bmcmedic.lab.guest.kernel_files import Kernel, module_order

PAYLOAD = b"\x7fELF" + bytes(range(256)) * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "package").write_text("linux-image-6.1.0-56-amd64_6.1.192-2_amd64\n")
    (tmp_path / "modules").mkdir()
    (tmp_path / "vmlinuz").write_bytes(b"not much of a kernel")
    return tmp_path


def test_a_missing_kernel_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"vmlinuz, package, modules missing; run `make setup`"
    ):
        Kernel.find(tmp_path)


def test_a_kernel_that_xz_has_packed_is_unpacked_once(folder: Path) -> None:
    (folder / "vmlinuz").write_bytes(b"MZ and a loader" + lzma.compress(PAYLOAD) + b"and a tail")
    kernel = Kernel.find(folder)
    image = kernel.image(folder / "cache")
    assert image.read_bytes() == PAYLOAD
    assert kernel.image(folder / "cache") == image
    assert [path.name for path in (folder / "cache").iterdir()] == [image.name]


@pytest.mark.parametrize(
    "content",
    [
        b"MZ" + b"\x28\xb5\x2f\xfd" + bytes(100),  # zstd
        b"MZ" + b"\xfd7zXZ\x00" + bytes(100),
        b"MZ" + lzma.compress(b"something else"),
    ],
)
def test_any_other_kernel_is_booted_as_it_is(folder: Path, content: bytes) -> None:
    (folder / "vmlinuz").write_bytes(content)
    assert Kernel.find(folder).image(folder / "cache") == folder / "vmlinuz"


def test_modules_come_decompressed(folder: Path) -> None:
    (folder / "modules" / "ipmi_si.ko").write_bytes(b"plain")
    (folder / "modules" / "ipmi_devintf.ko.xz").write_bytes(lzma.compress(b"packed"))
    assert Kernel.find(folder).modules() == {"ipmi_si": b"plain", "ipmi_devintf": b"packed"}


def test_modules_come_after_what_they_need() -> None:
    modules = {
        "a": b"\x7fELF\0depends=b-b,c\0",
        "b_b": b"\0depends=c\0",
        "c": b"\0depends=\0",
        "d": b"nothing said",
    }
    assert module_order(["a"], modules) == ["c", "b_b", "a"]
    assert module_order(["d", "c", "b_b", "a"], modules) == ["d", "c", "b_b", "a"]
    with pytest.raises(ConfigurationError, match="no module e; there are a, b_b, c, d"):
        module_order(["e"], modules)
