"""One module a chapter of the specification; `COMMANDS` finds a command by its numbers."""
