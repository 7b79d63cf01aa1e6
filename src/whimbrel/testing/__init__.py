"""A laboratory for programs whose network changes under them: two radios, two NATs and a server, on this kernel.

    from whimbrel.testing import Laboratory

    with Laboratory() as lab:
        lab.cellular.join()
        lab.popen("srv", ["caddy", "run"])
        with lab.enter("cli"):
            ...  # sockets made here use the device's networks
        lab.wifi.join()     # Wi-Fi appears, and is preferred
        lab.wifi.down()     # and is cut

Linux with root or user namespaces, and pyroute2 (``pip install 'whimbrel[lab]'``).
"""

from whimbrel.testing._capture import ConnectionIds, Packet, carried, connection_ids, linkable
from whimbrel.testing._laboratory import AccessNetwork, Laboratory
from whimbrel.testing._measure import Gap, Move, Sample, find_gap, handover_gap, moves, resumption
from whimbrel.testing._namespace import LaboratoryUnavailable, Namespace, prepare
from whimbrel.testing._radio import CELLULAR, WIFI, Radio, Traffic
from whimbrel.testing._scenario import SCENARIOS, Event, Journey, Scenario, Step, flapping, outage
from whimbrel.testing._simulated_interface import SimulatedInterface
from whimbrel.testing._simulated_link import Link
from whimbrel.testing._simulated_transfer import Transfer
from whimbrel.testing._simulation import SimulatedNetwork, SimulatedServer

__all__ = [
    "CELLULAR",
    "SCENARIOS",
    "WIFI",
    "AccessNetwork",
    "ConnectionIds",
    "Event",
    "Gap",
    "Journey",
    "Laboratory",
    "LaboratoryUnavailable",
    "Link",
    "Move",
    "Namespace",
    "Packet",
    "Radio",
    "Sample",
    "Scenario",
    "SimulatedInterface",
    "SimulatedNetwork",
    "SimulatedServer",
    "Step",
    "Traffic",
    "Transfer",
    "carried",
    "connection_ids",
    "find_gap",
    "flapping",
    "handover_gap",
    "linkable",
    "moves",
    "outage",
    "prepare",
    "resumption",
]
