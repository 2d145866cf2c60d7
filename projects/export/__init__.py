"""Taking a project out of the portal, as files and as a program that runs without it."""

from projects.export.bundle import archive, file_name

__all__ = ["archive", "file_name"]
