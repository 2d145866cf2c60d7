"""`manage.py verify_audit`: is the audit log as it was written?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.accounts import audit
from portal.accounts.audit import appender, heads, verify


class Command(BaseCommand):
    """Exit code 0: whole; 1: it was tampered with, or what was asked for cannot be done."""

    help = "Check that no entry of the audit log was altered, deleted, moved, slipped in or cut off."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--head", action="append", default=[], metavar="FILE", help="hold an exported head against the log"
        )
        parser.add_argument(
            "--export-head", metavar="FILE", help="write the signed head to FILE (- prints it), and check"
        )
        parser.add_argument(
            "--accept",
            metavar="WHY",
            help="a backup was put back: go on from here although later entries are gone; said in the log for good",
        )
        parser.add_argument("--json", action="store_true", help="the result as one line of JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        exported = [_read(path) for path in options["head"]]
        if options["accept"]:
            self._accept(options["accept"])
        report = verify.verify(*exported)
        if options["export_head"]:
            self._export(options["export_head"], report)
        shown = self._as_json(report) if options["json"] else self._as_text(report)
        self.stdout.write(shown)
        if not report.is_whole:
            raise CommandError("The audit log is not as it was written.", returncode=1)

    def _accept(self, why: str) -> None:
        heads.accept(why)
        audit.record("audit.head_accepted", by=None, after={"reason": why})
        appender.seal()

    def _export(self, path: str, report: verify.Report) -> None:
        if report.head is None:
            raise CommandError("The audit log has no entry yet.")
        text = report.head.as_text() + "\n"
        if path == "-":
            self.stdout.write(text, ending="")
        else:
            Path(path).write_text(text, encoding="utf-8")

    def _as_json(self, report: verify.Report) -> str:
        return json.dumps(
            {
                "ok": report.is_whole,
                "entries": report.rows,
                "not_sealed": report.not_sealed,
                "faults": dict(report.kinds),
                "named": [asdict(fault) for fault in report.faults],
                "notes": report.notes,
                "head": json.loads(report.head.as_text()) if report.head else None,
            },
            ensure_ascii=False,
        )

    def _as_text(self, report: verify.Report) -> str:
        lines = [f"{report.rows} entries are sealed, {report.not_sealed} wait to be."]
        for fault in report.faults:
            where = f"entry {fault.number}" if fault.number is not None else "the log"
            lines.append(f"  {where}: {fault.kind}. {fault.detail}")
        if (more := sum(report.kinds.values()) - len(report.faults)) > 0:
            lines.append(f"  and {more} more")
        lines += [f"  note: {note}" for note in report.notes]
        if report.is_whole:
            lines.append("Whole: none was altered, deleted, moved, slipped in or cut off.")
        return "\n".join(lines)


def _read(path: str) -> heads.Head:
    try:
        return heads.Head.from_text(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, heads.BadHead) as exc:
        raise CommandError(f"{path}: {exc}") from exc
