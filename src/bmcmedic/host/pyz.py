"""Make `bmcmedic-triage.pyz`: triage and relief in one file, for hosts without bmcmedic.

A zip cannot be run from standard input, but most hosts are reached by
`ssh host python3 - triage < FILE`. So the file is a plain Python script. It begins with a header
that every Python since 2.7 can read, so that an old Python gets a clear message. Then follow the
modules of `bmcmedic.host`, compressed, in a string that the script imports from. The same sources
give the same bytes.
"""

import base64
import os
import textwrap
import zlib

from bmcmedic.host.typed import Dict

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LINE_CHARACTERS = 100

HEADER = '''\
#!/usr/bin/env python3
# bmcmedic {version}: triage and relief on a sick host. Python 3.6 and later, nothing else.
#
#   python3 bmcmedic-triage.pyz triage --help
#   ssh host python3 - triage --json < bmcmedic-triage.pyz
#
# Its sources follow, compressed; `python3 bmcmedic-triage.pyz --sources DIR` unpacks them.
import sys

if sys.version_info < (3, 6):
    sys.exit("bmcmedic-triage: needs Python 3.6 or later, and this is %d.%d" % sys.version_info[:2])

import binascii
import importlib.machinery
import os
import zlib


# It has no base class and imports little: on a sick host more took longer than all of triage.
class Modules:
    """Finds and loads the modules of this file."""

    def __init__(self, text):
        words = zlib.decompress(binascii.a2b_base64(text)).decode("utf-8").split("\\0")
        self.sources = dict(zip(words[::2], words[1::2]))

    def find_spec(self, name, path, target=None):
        if name not in self.sources:
            return None
        return importlib.machinery.ModuleSpec(
            name, self, origin="bmcmedic-triage.pyz", is_package=self.is_package(name)
        )

    def is_package(self, name):
        return any(other.startswith(name + ".") for other in self.sources)

    def get_source(self, name):
        return self.sources[name]

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        name = module.__spec__.name
        module.__file__ = "bmcmedic-triage.pyz/" + name
        exec(compile(self.sources[name], module.__file__, "exec"), module.__dict__)

    def unpack(self, folder):
        for name, source in self.sources.items():
            path = os.path.join(folder, *name.split("."))
            path = os.path.join(path, "__init__.py") if self.is_package(name) else path + ".py"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(source)


MODULES = """
'''

FOOTER = '''
"""

if __name__ == "__main__":
    modules = Modules(MODULES)
    if sys.argv[1:2] == ["--sources"] and len(sys.argv) == 3:
        modules.unpack(sys.argv[2])
        sys.exit(0)
    # First in the path, so that no other bmcmedic on this host mixes with it.
    sys.meta_path.insert(0, modules)
    from bmcmedic.host.main import run

    run()
'''


def sources() -> Dict[str, str]:
    """Return the sources of the modules by their names."""
    unpacked = getattr(globals()["__loader__"], "sources", None)
    if unpacked is not None:  # this is the file itself
        return dict(unpacked)
    found = {"bmcmedic": _text(os.path.join(_PACKAGE, "__init__.py"))}
    host = os.path.join(_PACKAGE, "host")
    paths = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(host)
        for name in names
        if name.endswith(".py") and name != "__main__.py"
    ]
    for path in sorted(paths, key=lambda path: path.split(os.sep)):
        parts = ["bmcmedic", *os.path.relpath(path[: -len(".py")], _PACKAGE).split(os.sep)]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = _text(path)
    return found


def script() -> str:
    """Return the text of the whole file."""
    modules = sources()
    version = modules["bmcmedic"].partition('__version__ = "')[2].partition('"')[0]
    words = "\0".join(word for pair in modules.items() for word in pair)
    packed = base64.b64encode(zlib.compress(words.encode("utf-8"), 9)).decode()
    text = "\n".join(textwrap.wrap(packed, LINE_CHARACTERS))
    return HEADER.replace("{version}", version) + text + FOOTER


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
