"""Full-text search of deliverables, as each database does it."""

from django.db import migrations

from projects.deliverables import fulltext


class Migration(migrations.Migration):
    dependencies = [("projects", "0001_initial")]

    operations = [migrations.RunPython(fulltext.install, fulltext.uninstall)]
