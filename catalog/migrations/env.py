"""Alembic's entry point: runs the revisions on the connection ``Database.upgrade`` gives. Never run offline."""

from __future__ import annotations

from alembic import context

from catalog.bases import models as _bases
from catalog.datasets import models as _datasets
from catalog.db import Base
from catalog.generations import models as _generations
from catalog.jobs import Job as _Job
from catalog.keys import models as _keys
from catalog.registry import models as _registry
from catalog.runs import models as _runs
from catalog.uploads import models as _uploads
from catalog.workers import models as _workers

KNOWN = (_bases, _datasets, _generations, _Job, _keys, _registry, _runs, _uploads, _workers)
"""Importing them fills ``Base.metadata``."""

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
