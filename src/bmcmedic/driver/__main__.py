"""`python -m bmcmedic.driver`."""

from bmcmedic.driver.process.main import main

if __name__ == "__main__":
    raise SystemExit(main())
