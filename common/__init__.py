"""What every part of mien shares: tables, storage, the commit protocol, jobs and workers, bundles, configuration."""

from importlib.metadata import version

__version__ = version("mien")
