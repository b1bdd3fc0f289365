"""The second incident, the starved watchdog, in virtual time and on real threads."""
