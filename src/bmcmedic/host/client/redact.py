"""Find the secrets in the arguments of processes, and redact them.

Every argument that triage prints, captures or logs has passed through `redacted`. Where the meaning
of a word is uncertain, too much is redacted rather than too little.
"""

import re

from bmcmedic.host.client.programs import CLIENTS, IPMITOOL, options, program_of
from bmcmedic.host.typed import Dict, List, Optional

REDACTED = "****"
"""What stands in place of a secret."""

_NESTING_MAX = 4
"""Number of command lines within each other, and of quotes within quotes, that are read.

Deeper ones are redacted as a whole.
"""

_REDACTED_LETTERS = "KPkpy"
"""Options whose value is a secret in one program or another."""

_RAW_WITH_SECRETS = ([0x06, 0x47], [0x06, 0x56], [0x06, 0x34], [0x0C, 0x01])
"""Network functions and commands whose data may hold a secret.

They are Set User Password, Set Channel Security Keys, Send Message and Set LAN Configuration
Parameters.
"""
_NETFN_NAMES = {"application": 0x06, "transport": 0x0C}
_NUMBER_CHARACTERS_MAX = 16

_NAME = r"[\w.-]*(?:pass(?:w(?:or)?d|phrase)?|pwd|secret|token|kg(?:_?key)?|k[_-]g|community)"
# Patterns are compiled at their first use: a host without a client needs none of them.
_NAMED = rf"(?si)(?<![\w.-])({_NAME}[=:])(?!//).+\Z"
_LONG_OPTION = rf"(?i)--?{_NAME}\Z"
_QEMU_SECRET = r"(?s)(secret,(?:.*,)?data=).+"  # noqa: S105 - a pattern
_IN_URL = r"(://[^/\s:@]*:)[^/\s@]+@"
_SHELL_WORD = r"""(?s)(?:\\.|"(?:\\.|[^"\\])*"|'[^']*'|[^\s;|&()`\\])+"""
_ESCAPED = r"(?s)\\(.)"
_COMMAND_ENDS = r"[;|&()`\n]"


def redacted(argv: List[str], program: Optional[str] = None) -> List[str]:
    """Return arguments as they may be shown.

    `program`: the client whose arguments they are, by its executable; None: unknown or no client.
    """
    return _redacted(argv, program, 0)


def _redacted(argv: List[str], program: Optional[str], nesting: int) -> List[str]:
    # The words before the client belong to another program (`timeout`, `sshpass`).
    begins = 0 if program else len(argv)
    for index, word in enumerate(argv[:begins]):
        program = program_of(word)
        if program is not None:
            begins = index
            break
    positions = _secrets_of_unknown_program(argv[:begins])
    if program is not None:
        for position, start in _secrets_of_client(program, argv[begins:]).items():
            positions[begins + position] = start
    return [
        word[: positions[index]] + REDACTED if index in positions else _redacted_word(word, nesting)
        for index, word in enumerate(argv)
    ]


def _secrets_of_unknown_program(argv: List[str]) -> Dict[int, int]:
    """Return where secrets may stand in the arguments of an unknown program."""
    positions: Dict[int, int] = {}
    for index, word in enumerate(argv):
        if index == 0 or len(word) < 2 or word[0] != "-":
            continue
        is_short = word[1] != "-"
        if re.match(_LONG_OPTION, word) or (is_short and word[-1] in _REDACTED_LETTERS):
            # The next word may be an option itself, so it is checked as well.
            positions.setdefault(index + 1, 0)
        elif is_short and word[1] in _REDACTED_LETTERS:
            positions.setdefault(index, 2)
    positions.pop(len(argv), None)
    return positions


def _secrets_of_client(program: str, argv: List[str]) -> Dict[int, int]:
    """Return where secrets stand in a client's arguments: the argument, and the first character."""
    syntax = CLIENTS[program]
    positions = {o.position: o.start for o in options(syntax, argv) if o.letter in syntax.secret}
    for index in range(2, len(argv)):
        if syntax is not IPMITOOL and re.match(_LONG_OPTION, argv[index - 1]):
            positions[index] = 0
    if syntax is IPMITOOL:
        positions.update((i, 0) for i in range(_first_secret_of_ipmitool(argv), len(argv)))
    if program == "ipmi-raw":
        positions.update((i, 0) for i in range(_first_secret_of_ipmi_raw(argv), len(argv)))
    return positions


def _first_secret_of_ipmitool(argv: List[str]) -> int:
    """Return the index of the first word that may be a password for an ipmitool command."""
    begins = len(argv)
    for index, word in enumerate(argv):
        if index >= begins:
            break
        if word == "password":  # user set password ID SECRET; lan set CHANNEL password SECRET
            is_of_user = index >= 2 and argv[index - 2] == "user"
            begins = min(begins, index + (2 if is_of_user else 1))
        elif word == "test" and argv[index - 1] == "user":  # user test ID SIZE SECRET
            begins = min(begins, index + 3)
        elif word == "snmp":
            begins = min(begins, index + 1)
        elif word == "raw" and _numbers(argv[index + 1 : index + 3], 0) in _RAW_WITH_SECRETS:
            begins = min(begins, index + 3)
    return begins


def _first_secret_of_ipmi_raw(argv: List[str]) -> int:
    """Return the same for FreeIPMI's `ipmi-raw LUN NETFN COMMAND`: all its numbers are in hex."""
    for index in range(len(argv) - 2):
        if _numbers(argv[index + 1 : index + 3], 16) in _RAW_WITH_SECRETS:
            return index + 3
    return len(argv)


def _numbers(words: List[str], base: int) -> List[Optional[int]]:
    return [_number(word.lower(), base) for word in words]


def _number(word: str, base: int) -> Optional[int]:
    if word in _NETFN_NAMES:
        return _NETFN_NAMES[word]
    # Python's base 0 refuses leading zeros, but strtol() reads them as octal.
    is_octal = base == 0 and re.match(r"0[0-7]+\Z", word) is not None
    try:
        return int(word[:_NUMBER_CHARACTERS_MAX], 8 if is_octal else base)
    except ValueError:
        return None


def _redacted_word(word: str, nesting: int, quotes: int = 0) -> str:
    if len(word) < 3 or word.isalnum():
        return word
    if nesting and word[0] in "'\"" and word[-1] == word[0]:
        if quotes >= _NESTING_MAX:
            return REDACTED
        return word[0] + _redacted_word(word[1:-1], nesting, quotes + 1) + word[-1]
    named = (re.match if _has_words(word) else re.search)(_NAMED, word)
    named = named or re.match(_QEMU_SECRET, word)
    if named:
        return word[: named.end(1)] + REDACTED
    if _has_words(word):
        return _redacted_line(word, nesting + 1) if nesting < _NESTING_MAX else REDACTED
    return re.sub(_IN_URL, rf"\1{REDACTED}@", word)


def _has_words(word: str) -> bool:
    return any(c in word for c in " \t\n;|&")


def _redacted_line(line: str, nesting: int) -> str:
    """Redact a command line in one word, as `sh -c` takes it; blanks stay as they are.

    Continued lines are joined.
    """
    line = re.sub(_ESCAPED, lambda found: "" if found.group(1) == "\n" else found.group(), line)
    shown: List[str] = []
    words: List[str] = []
    gaps: List[str] = []
    end = 0
    for found in re.finditer(_SHELL_WORD, line):
        gap = line[end : found.start()]
        if words and re.search(_COMMAND_ENDS, gap):
            shown += _joined(gaps, _redacted(words, None, nesting))
            if gap.lstrip()[:1] in ("(", "`") and _awaits_secret(words, nesting):
                return "".join(shown) + gap + REDACTED  # another command writes the secret
            words, gaps = [], []
        gaps.append(gap)
        words.append(found.group())
        end = found.end()
    shown += _joined(gaps, _redacted(words, None, nesting))
    return "".join(shown) + line[end:]


def _awaits_secret(words: List[str], nesting: int) -> bool:
    """Whether the next characters are a secret, in this word or as a word of their own."""
    longer = ([*words, "x"], [*words[:-1], words[-1] + "x"])
    return any(_redacted(each, None, nesting)[-1].endswith(REDACTED) for each in longer)


def _joined(gaps: List[str], words: List[str]) -> List[str]:
    return [gap + word for gap, word in zip(gaps, words)]
