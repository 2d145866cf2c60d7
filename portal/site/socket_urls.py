"""Every WebSocket address of the site, with and without a trailing slash."""

from executions.routing import websocket_urlpatterns as executions
from projects.routing import websocket_urlpatterns as projects

websocket_urlpatterns = [*executions, *projects]
