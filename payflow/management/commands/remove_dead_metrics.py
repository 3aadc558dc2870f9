"""`manage.py remove_dead_metrics`: before processes start, remove what dead ones have counted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from payflow import metric_files


class Command(BaseCommand):
    """Removes the files of dead processes below PROMETHEUS_MULTIPROC_DIR; those of living ones stay."""

    help = __doc__

    def handle(self, *_: Any, **__: Any) -> None:
        """Run once, also beside running processes."""
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if not folder:
            raise CommandError("PROMETHEUS_MULTIPROC_DIR is not set, so no files are shared.")
        self.stdout.write(f"Files removed: {metric_files.remove_dead(Path(folder))}.")
