"""From Opus to words: voice windows, languages, Whisper, segments."""
