"""`python -m bmcmedic.agent`."""

from bmcmedic.service import startup_signals

if __name__ == "__main__":
    startup_signals.hold()  # before the imports that take longer
    from bmcmedic.agent.main import main

    raise SystemExit(main())
