#!/usr/bin/env python
"""Every process and chore of Agent Portal: `python manage.py help` lists them."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    # Which process this is decides how it holds database connections (portal.settings).
    os.environ["PORTAL_PROCESS"] = sys.argv[1] if len(sys.argv) > 1 else ""
    from django.core.management import execute_from_command_line

    from portal.lib.env import ConfigError

    try:
        execute_from_command_line(sys.argv)
    except ConfigError as exc:
        sys.exit(f"agent-portal: {exc}")


if __name__ == "__main__":
    main()
