"""Plugins: how they are found, listed, isolated and scaffolded."""

from bd3cli.plugins.discovery import (
    PluginRecord,
    load_plugins,
    metadata_version,
    registered,
    require_plugins_ok,
    require_used,
)

__all__ = ["PluginRecord", "load_plugins", "metadata_version", "registered", "require_plugins_ok", "require_used"]
