"""The one guard for requests to addresses that a person typed in, admins included.

    destinations   what an address says, in one plain form; whether a request may go there
    networks       which IP addresses are public, private, or nobody's business
    requests       single requests of code that is not asynchronous
    streams        the gateway's long-lived clients

The name server is asked once for each connection, all that it said is judged, and what was judged is
what is dialled, under the name of the host (`Host`, SNI, certificate): a name server that changes its
mind changes nothing. Redirects are not followed, and proxies of the environment not used. Loopback and
private addresses are for those to whom an admin allowed them; cloud metadata is for nobody.

Addresses that the machine's operator sets by environment (the portal's own processes, Redis, the
identity provider) do not come here: they are trusted.
"""

from portal.lib.outgoing.destinations import BadAddress, Destination, Refused, Unreachable, check, parse
from portal.lib.outgoing.requests import MAX_BYTES, Answer, get, post

__all__ = [
    "MAX_BYTES",
    "Answer",
    "BadAddress",
    "Destination",
    "Refused",
    "Unreachable",
    "check",
    "get",
    "parse",
    "post",
]
