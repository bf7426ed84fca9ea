-- What retention asks for: the oldest Opus and archives that are kept. And the events that tell what was said in a file.
CREATE INDEX CONCURRENTLY IF NOT EXISTS audio_files_with_opus ON audio_files (created_at, audio_id) WHERE s3_opus_path IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS batches_with_archive ON batches (finished_at) WHERE archive_deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS webhook_outbox_by_file ON webhook_outbox ((data ->> 'audio_id')) WHERE type = 'keyword.matched';
