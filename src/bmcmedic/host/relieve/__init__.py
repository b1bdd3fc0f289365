"""Relief: end the clients that are stuck, throttle `kipmid`, and undo the throttle."""
