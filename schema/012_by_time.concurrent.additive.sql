-- The newest recordings first, by their own time where it is known; and what their metadata says.
CREATE INDEX CONCURRENTLY IF NOT EXISTS audio_files_by_time ON audio_files (coalesce(recorded_at, created_at), audio_id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS audio_files_by_metadata ON audio_files USING gin (metadata jsonb_path_ops);
ANALYZE audio_files;
