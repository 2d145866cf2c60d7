"""The REST API: every app's routes under /api, its schema and its documentation."""

urlpatterns: list = []
