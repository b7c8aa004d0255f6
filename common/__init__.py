"""What every part of mien shares: tables, storage, the commit protocol, bundles, configuration and the Ray session."""

from importlib.metadata import version

__version__ = version("mien")
