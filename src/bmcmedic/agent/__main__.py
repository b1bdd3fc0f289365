"""`python -m bmcmedic.agent`."""

from bmcmedic.agent.main import main

raise SystemExit(main())
