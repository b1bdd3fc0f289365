"""The command line: one thin module a command group, loaded when it is used."""
