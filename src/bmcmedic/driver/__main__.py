"""`python -m bmcmedic.driver`."""

from bmcmedic.service import startup_signals

if __name__ == "__main__":
    startup_signals.hold()  # before all that takes longer to load
    from bmcmedic.driver.process.main import main

    raise SystemExit(main())
