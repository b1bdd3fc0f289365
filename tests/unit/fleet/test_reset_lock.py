from __future__ import annotations

from bmcmedic.fleet.reset_lock import ResetLock

HERE = ("192.0.2.1", 623)


def test_a_bmc_is_locked_once_until_it_is_released() -> None:
    first, second = ResetLock(), ResetLock()
    assert first.take(HERE)
    assert first.take(HERE)
    assert not second.take(HERE)
    assert second.take(("192.0.2.1", 624))
    second.release()
    first.release()
    assert second.take(HERE)
    second.release()
