"""`python -m bmcmedic.host`: the same as the one-file program."""

from bmcmedic.host.main import run

run()
