"""Addresses of this app's pages."""

from django.urls import path

from projects.views import deliverables, engines, gallery, gates, lists, manage, new, page

app_name = "projects"
urlpatterns = [
    path("projects", lists.project_list, name="project-list"),
    path("projects/new", new.project_new, name="project-new"),
    path("projects/create", new.project_create, name="project-create"),
    path("projects/<uuid:pk>", page.project_detail, name="project-detail"),
    path("projects/<uuid:pk>/live", page.project_live, name="project-live"),
    path("projects/<uuid:pk>/deliverables", lists.deliverable_list, name="deliverable-list"),
    path("projects/<uuid:pk>/numbers", page.project_numbers, name="project-numbers"),
    path("projects/<uuid:pk>/edit", manage.project_edit, name="project-edit"),
    path("projects/<uuid:pk>/models", manage.project_models, name="project-models"),
    path("projects/<uuid:pk>/files", manage.project_attach, name="project-attach"),
    path("projects/<uuid:pk>/files/<uuid:file_pk>/remove", manage.project_detach, name="project-detach"),
    path("projects/<uuid:pk>/start", manage.project_start, name="project-start"),
    path("projects/<uuid:pk>/pause", manage.project_pause, name="project-pause"),
    path("projects/<uuid:pk>/cancel", manage.project_cancel, name="project-cancel"),
    path("projects/<uuid:pk>/restart", manage.project_restart, name="project-restart"),
    path("projects/<uuid:pk>/duplicate", manage.project_duplicate, name="project-duplicate"),
    path("projects/<uuid:pk>/archive", manage.project_archive, name="project-archive"),
    path("projects/<uuid:pk>/export", manage.project_export, name="project-export"),
    path("projects/<uuid:pk>/save-template", manage.project_template, name="project-template"),
    path("projects/<uuid:pk>/delete", manage.project_delete, name="project-delete"),
    path("projects/<uuid:pk>/stages/<uuid:stage_pk>", gates.stage_settings, name="stage-settings"),
    path("projects/<uuid:pk>/stages/<uuid:stage_pk>/start", gates.stage_start, name="stage-start"),
    path("projects/<uuid:pk>/stages/<uuid:stage_pk>/complete", gates.stage_complete, name="stage-complete"),
    path("projects/<uuid:pk>/stages/<uuid:stage_pk>/review", gates.stage_review, name="stage-review"),
    path("projects/<uuid:pk>/stages/<uuid:stage_pk>/delegate", gates.stage_delegate, name="stage-delegate"),
    path("projects/<uuid:pk>/stages/<uuid:stage_pk>/roll-back", gates.stage_roll_back, name="stage-roll-back"),
    path("deliverables/<uuid:pk>", deliverables.deliverable_detail, name="deliverable-detail"),
    path("deliverables/<uuid:pk>/changes", deliverables.deliverable_changes, name="deliverable-changes"),
    path("deliverables/<uuid:pk>/edit", deliverables.deliverable_edit, name="deliverable-edit"),
    path("deliverables/<uuid:pk>/review", deliverables.deliverable_review, name="deliverable-review"),
    path("deliverables/<uuid:pk>/comments", deliverables.deliverable_comment, name="deliverable-comment"),
    path("deliverables/<uuid:pk>/accesses", deliverables.deliverable_accesses, name="deliverable-accesses"),
    path("deliverables/<uuid:pk>/share", deliverables.deliverable_share, name="deliverable-share"),
    path("deliverables/<uuid:pk>/download", deliverables.deliverable_download, name="deliverable-download"),
    path("templates", gallery.template_list, name="template-list"),
    path("templates/<slug:pk>", gallery.template_detail, name="template-detail"),
    path("templates/<slug:pk>/run", gallery.template_run, name="template-run"),
    path("templates/<slug:pk>/delete", gallery.template_delete, name="template-delete"),
    path("crewai", engines.crewai, name="crewai"),
    path("metagpt", engines.metagpt, name="metagpt"),
]
