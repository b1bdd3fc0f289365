"""The grammar of ipmitool's arguments: its options, its commands, and what those commands are.

Two callers read the same command line for different purposes. Triage asks whether a running client
may be judged by its waiting; the shim asks whether a call may go through the loopback proxy. Which
commands each of them excludes is its own policy; what the words mean is here, once.

The shim loads this module at every start, so it imports nothing at run time.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bmcmedic.host.typed import List, Optional

WITH_VALUE = "ACDHILNOPRSTUbBdefklmoptyz"
"""The letters of ipmitool's options that take a value (1.8.19)."""
FLAGS = "46EKVYZacghsv"
"""The letters of ipmitool's options that take none (1.8.19)."""
SECRET = "Pky"  # noqa: S105 - the letters of options
"""The letters of the options whose value is a secret."""

_CONSOLE = "a serial console"
_FIRMWARE = "a firmware update"
_MEMORY = "writes to a memory of the BMC"
_EVENTS = "waits for events, as it is meant to"
_NO_REQUEST = "sends the BMC no request"

DESCRIPTIONS = {
    "sol": _CONSOLE,
    "isol": _CONSOLE,
    "tsol": _CONSOLE,
    "shell": "an interactive prompt",
    "exec": "a script of commands that are not known",
    "set": "a setting for `shell` and `exec`",
    "hpm": _FIRMWARE,
    "fwum": _FIRMWARE,
    "ime": _FIRMWARE,
    "ekanalyzer": _FIRMWARE,
    "update": _FIRMWARE,
    "upgrade": _FIRMWARE,
    "vflash": _FIRMWARE,
    "write": _MEMORY,
    "edit": _MEMORY,
    "upgekey": _MEMORY,
    "getevt": _EVENTS,
    "getevent": _EVENTS,
    "help": _NO_REQUEST,
    "echo": _NO_REQUEST,
    "quit": _NO_REQUEST,
    "exit": _NO_REQUEST,
}
"""Commands and subcommands that do more, or less, than ask the BMC once: what each of them is."""


class ParsedOption:
    """One option of a command line, and where it stands in it."""

    __slots__ = ("letter", "position", "start", "value")

    def __init__(self, letter: str, value: "Optional[str]", position: int, start: int) -> None:
        self.letter = letter
        self.value = value
        """None for a flag."""
        self.position = position
        """The index of the argument that holds the value, or of a flag's argument."""
        self.start = start
        """The index of the value's first character in that argument."""


class ParsedArguments:
    """A command line, taken apart."""

    __slots__ = ("error", "options", "words")

    def __init__(self) -> None:
        self.options: List[ParsedOption] = []
        self.words: List[str] = []
        """The command and its own arguments, as they are written."""
        self.error = ""
        """Why the command line is not understood; empty if it is."""


def parse(
    arguments: "List[str]",
    first: int = 0,
    with_value: str = WITH_VALUE,
    flags: "Optional[str]" = FLAGS,
) -> ParsedArguments:
    """Take a command line apart as GNU getopt does, beginning with the argument at `first`.

    getopt finds options anywhere among the words, until `--` ends them. If `flags` is None, the
    command line is searched for options instead: an unknown letter counts as a flag, a long option
    is skipped, and `--` ends nothing. So a caller that looks for secrets misses none.
    """
    parsed = ParsedArguments()
    index = first
    while index < len(arguments):
        word = arguments[index]
        index += 1
        if len(word) < 2 or word[0] != "-":
            parsed.words.append(word)
            continue
        if word[1] == "-":
            if flags is None:
                continue
            if word == "--":
                parsed.words += arguments[index:]
            else:
                parsed.error = "an option that is not known"
            break
        index = _parse_letters(parsed, arguments, index, with_value, flags)
        if parsed.error:
            break
    return parsed


def _parse_letters(
    parsed: ParsedArguments,
    arguments: "List[str]",
    following: int,
    with_value: str,
    flags: "Optional[str]",
) -> int:
    """Read the argument before `following`, whose letters are options.

    Returns the index of the next argument to read.
    """
    word = arguments[following - 1]
    for start, letter in enumerate(word[1:], 2):
        if letter in with_value:
            if start < len(word):
                parsed.options.append(ParsedOption(letter, word[start:], following - 1, start))
            elif following < len(arguments):
                parsed.options.append(ParsedOption(letter, arguments[following], following, 0))
                return following + 1
            elif flags is not None:
                parsed.error = "an option without its value"
            return following
        if flags is not None and letter not in flags:
            parsed.error = "an option that is not known"
            return following
        parsed.options.append(ParsedOption(letter, None, following - 1, start - 1))
    return following


def prompts_for_password(words: "List[str]") -> bool:
    """Return whether ipmitool reads a password from the terminal for a command, in small letters.

    It does so where the command line has room for a password and gives none.
    """
    if words[:3] == ["user", "set", "password"] or words[:2] == ["user", "test"]:
        return len(words) < 5
    return words[:2] == ["lan", "set"] and words[3:] == ["password"]
