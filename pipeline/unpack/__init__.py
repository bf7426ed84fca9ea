"""From an archive to Opus files: tar headers, compression, conversions on every core."""
