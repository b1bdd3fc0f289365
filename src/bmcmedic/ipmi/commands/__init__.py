"""What is said: one module a chapter of the specification, `registry` finds them by number."""
