"""Relief: stuck clients are ended, `kipmid` is throttled, and everything can be undone."""
