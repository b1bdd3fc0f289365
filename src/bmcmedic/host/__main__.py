"""`python -m bmcmedic.host`: the same as the one-file program."""

import sys

from bmcmedic.host.main import main

sys.exit(main())
