"""What a recording is about: content, audio tags, topics."""
