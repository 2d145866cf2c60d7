"""Addresses of this app's pages."""

from django.urls import path

from crews.views import catalog, crews, parts

app_name = "crews"
urlpatterns = [
    path("crews", crews.crew_list, name="crew-list"),
    path("crews/new", crews.crew_create, name="crew-create"),
    path("crews/<uuid:pk>", crews.crew_detail, name="crew-detail"),
    path("crews/<uuid:pk>/settings", crews.crew_settings, name="crew-settings"),
    path("crews/<uuid:pk>/copy", crews.crew_copy, name="crew-copy"),
    path("crews/<uuid:pk>/delete", crews.crew_delete, name="crew-delete"),
    path("crews/<uuid:pk>/agents/new", parts.agent_add, name="agent-add"),
    path("crews/<uuid:pk>/agents/<uuid:part>", parts.agent_edit, name="agent-edit"),
    path("crews/<uuid:pk>/agents/<uuid:part>/remove", parts.agent_remove, name="agent-remove"),
    path("crews/<uuid:pk>/agents/<uuid:part>/move", parts.agent_move, name="agent-move"),
    path("crews/<uuid:pk>/tasks/new", parts.task_add, name="task-add"),
    path("crews/<uuid:pk>/tasks/<uuid:part>", parts.task_edit, name="task-edit"),
    path("crews/<uuid:pk>/tasks/<uuid:part>/remove", parts.task_remove, name="task-remove"),
    path("crews/<uuid:pk>/tasks/<uuid:part>/move", parts.task_move, name="task-move"),
    path("crews/<uuid:pk>/inputs/new", parts.input_add, name="input-add"),
    path("crews/<uuid:pk>/inputs/<uuid:part>", parts.input_edit, name="input-edit"),
    path("crews/<uuid:pk>/inputs/<uuid:part>/remove", parts.input_remove, name="input-remove"),
    path("crews/<uuid:pk>/inputs/<uuid:part>/move", parts.input_move, name="input-move"),
    path("models", catalog.model_list, name="model-list"),
    path("settings/providers", catalog.provider_list, name="provider-list"),
    path("settings/providers/new", catalog.provider_create, name="provider-create"),
    path("settings/providers/<uuid:pk>", catalog.provider_edit, name="provider-edit"),
    path("settings/providers/<uuid:pk>/test", catalog.provider_test, name="provider-test"),
    path("settings/providers/<uuid:pk>/delete", catalog.provider_delete, name="provider-delete"),
    path("settings/models/<str:pk>", catalog.model_edit, name="model-edit"),
]
