"""`python -m bmcmedic`."""

from bmcmedic.cli import main

if __name__ == "__main__":
    main()
