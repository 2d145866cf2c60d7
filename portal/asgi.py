"""The web process: HTTP by Django, WebSockets by Channels, and the live socket when there is no Redis."""

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.conf import settings  # noqa: E402

from executions import live  # noqa: E402
from portal.accounts.sockets import guarded  # noqa: E402
from portal.lib.bodies import BoundedBody  # noqa: E402
from portal.site.socket_urls import websocket_urlpatterns  # noqa: E402


async def lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Owns the live socket from the start of the server to its end."""
    server = None
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            if not settings.REDIS_URL:
                server = await live.serve_socket()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            if server is not None:
                server.close()
            await send({"type": "lifespan.shutdown.complete"})
            return


application = ProtocolTypeRouter(
    {
        "http": BoundedBody(django_application),
        "websocket": guarded(URLRouter(websocket_urlpatterns)),
        "lifespan": lifespan,
    }
)
