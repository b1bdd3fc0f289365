"""The watchdog: pats and the ways they go, the check command, and the software pretimeout."""
