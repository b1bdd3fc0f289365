"""Orders that clients send over the socket: to the watchdog, and to park the interface."""

from __future__ import annotations

from collections import Counter

from bmcmedic.driver.socket.backend import DriverBackend, WatchdogBackend
from bmcmedic.driver.socket.connection import error_frame
from bmcmedic.driver.socket.errors import NoRights
from bmcmedic.driver.socket.policy import Rights
from bmcmedic.driver.socket.protocol import (
    ParkAnswer,
    ParkFrame,
    ServerFrame,
    WatchdogAction,
    WatchdogAnswer,
    WatchdogFrame,
)
from bmcmedic.errors import BmcmedicError, Refused


class OrderDispatcher:
    """Passes each order on, or returns why it is refused; nothing here blocks.

    All orders come through one thread. So no other order comes between the check whether the
    watchdog needs the interface and the park.
    """

    __slots__ = ("_counts", "_driver", "_watchdog")

    def __init__(
        self, driver: DriverBackend, watchdog: WatchdogBackend | None, counts: Counter[str]
    ) -> None:
        self._driver = driver
        self._watchdog = watchdog
        self._counts = counts

    def to_watchdog(self, frame: WatchdogFrame, rights: Rights) -> ServerFrame:
        """Return the watchdog's status, or pass an order on to its thread."""
        watchdog = self._watchdog
        try:
            if watchdog is None:
                raise Refused("the driver has no watchdog: it is off in its configuration")
            if frame.action is not WatchdogAction.GET:
                self._require_full_rights(rights, "the watchdog")
                if watchdog.needs_interface and self._driver.parking.describe() is not None:
                    raise Refused(
                        "the interface is parked, and the timer is reached through it: resume"
                    )
            match frame.action:
                case WatchdogAction.LENGTHEN:
                    watchdog.order_lengthen(frame.seconds or 0.0)
                case WatchdogAction.DISARM:
                    watchdog.order_disarm()
                case WatchdogAction.RESUME:
                    watchdog.order_resume()
            return WatchdogAnswer(frame.frame_id, watchdog.status())
        except BmcmedicError as error:
            return error_frame(frame.frame_id, error)

    def to_park(self, frame: ParkFrame, rights: Rights) -> ServerFrame:
        """Park the interface, or end the park."""
        parking = self._driver.parking
        try:
            self._require_full_rights(rights, "the driver")
            if frame.seconds is None:
                parking.end()
            else:
                why_not = None if self._watchdog is None else self._watchdog.why_not_parked()
                if why_not is not None:
                    raise Refused(why_not)
                parking.begin(frame.seconds)
            return ParkAnswer(frame.frame_id, parking.describe())
        except BmcmedicError as error:
            return error_frame(frame.frame_id, error)

    def _require_full_rights(self, rights: Rights, whose: str) -> None:
        if rights is not Rights.FULL:
            raise NoRights(f"orders to {whose} are not allowed for readers")
        self._counts["orders"] += 1
