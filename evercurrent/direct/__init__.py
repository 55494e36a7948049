"""`connect(..., mode="direct")`: the routing core in the client's own process, on links to the workers.

Needs the extra `evercurrent[direct]`; the client imports it when the mode is first asked for.
"""

from evercurrent.client.transport import register_transport
from evercurrent.direct.transport import DirectTransport

__all__ = ["DirectTransport"]

register_transport("direct", DirectTransport)
