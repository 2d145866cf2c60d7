"""WebSocket addresses; with and without a trailing slash."""

from django.urls import re_path

from executions.consumers import ExecutionConsumer

_uuid = r"[0-9a-fA-F-]{36}"
websocket_urlpatterns = [
    re_path(rf"^ws/executions/(?P<exec_id>{_uuid})/?$", ExecutionConsumer.as_asgi()),
    re_path(rf"^api/crews/(?P<crew_id>{_uuid})/executions/(?P<exec_id>{_uuid})/logs/?$", ExecutionConsumer.as_asgi()),
]
