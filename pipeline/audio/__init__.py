"""One recording: its format, ffmpeg in a sandbox, its channels, its Opus, and what is damaged."""
