"""WebSocket addresses; with and without a trailing slash."""

from django.urls import re_path

from projects.consumers import ProjectConsumer

websocket_urlpatterns = [
    re_path(r"^ws/projects/(?P<project_id>[0-9a-fA-F-]{36})/updates/?$", ProjectConsumer.as_asgi()),
]
