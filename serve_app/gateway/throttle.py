"""How often an address may be wrong."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

_BURST = 20.0
_PER_S = 0.5  # so many more each second
_ADDRESSES = 10_000
_IPV6_NETWORK = 64  # one client has a network of so many bits, not an address


class Failures:
    """Counts refused keys for each client address, in a token bucket.

    The table is bounded: the address that was right for longest is forgotten first.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # failures, and when

    def wait_s(self, address: str) -> float:
        """Seconds until the next key of this address may be wrong; 0 is now."""
        return max(0.0, (self._level(_network(address)) + 1 - _BURST) / _PER_S)

    def add(self, address: str) -> None:
        """One key of this address was wrong."""
        name = _network(address)
        level = min(_BURST, self._level(name) + 1)
        self._buckets[name] = (level, self._clock())
        self._buckets.move_to_end(name)
        if len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)

    def _level(self, name: str) -> float:
        level, when = self._buckets.get(name, (0.0, 0.0))
        return max(0.0, level - max(0.0, self._clock() - when) * _PER_S)


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""  # whoever has no address shares a bucket
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(found), _IPV6_NETWORK), strict=False))
    return str(found)
