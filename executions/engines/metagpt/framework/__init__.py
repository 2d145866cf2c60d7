"""Everything that imports MetaGPT, which is made ready first."""

from executions.engines.metagpt.boot import boot

boot()
