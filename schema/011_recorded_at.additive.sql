-- When a recording was made, by what it says of itself, and where that was found: 'sidecar', 'tag', 'name' or 'mtime'.
-- NULL where nothing says it, and in rows from before these columns: readers then take `created_at`. `metadata` is what
-- its sidecar, its tags and its name say beside that; NULL: nothing. pipeline/unpack/descriptions.py finds them. No
-- defaults: the table is not rewritten.
ALTER TABLE audio_files ADD COLUMN IF NOT EXISTS recorded_at TIMESTAMPTZ;
ALTER TABLE audio_files ADD COLUMN IF NOT EXISTS recorded_from TEXT;
ALTER TABLE audio_files ADD COLUMN IF NOT EXISTS metadata JSONB;
