"""The symptoms of a host whose BMC is sick: one vocabulary for all that report or read them.

These are the words in the list `symptoms` of triage and of the agent's report, and the values of
the label `symptom` of the agent's metrics. A list from another host may hold words of a later
version, so a reader compares strings and ignores the words that it does not know.
"""

STUCK_CLIENTS = "stuck-clients"
"""At least one IPMI client on the host is proven stuck."""
BMC_NOT_ANSWERING = "bmc-not-answering"
"""The BMC does not answer its host: triage saw a hang, or the breaker of the driver is open."""
BMC_SLOW = "bmc-slow"
"""The BMC answers its host, but takes far longer than a healthy one."""
KIPMI_BUSY = "kipmi-busy"
"""A `kipmi` thread burns CPU time, and gets no answers for it, or too few."""
NO_INTERFACE = "no-interface"
"""No IPMI interface: triage found stuck clients and no interface, or the driver found none."""

DRIVER_UNAVAILABLE = "driver-unavailable"
"""The driver does not report its status to the agent."""
PATS_FAILING = "pats-failing"
"""The driver runs the watchdog, and its pats do not reach the BMC."""
HOST_CHECK_FAILING = "host-check-failing"
"""The check command of the watchdog fails or does not end."""

TRIAGE_SYMPTOMS = (KIPMI_BUSY, STUCK_CLIENTS, BMC_NOT_ANSWERING, BMC_SLOW, NO_INTERFACE)
"""The symptoms that triage can find, in the order in which it lists them."""
DRIVER_SYMPTOMS = (
    DRIVER_UNAVAILABLE,
    NO_INTERFACE,
    BMC_NOT_ANSWERING,
    PATS_FAILING,
    HOST_CHECK_FAILING,
)
"""The symptoms that the agent derives from the status of the driver."""
