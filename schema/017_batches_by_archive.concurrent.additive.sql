-- The batches of an archive's file name, as `pipelinectl batch monday.tar` asks for them.
CREATE INDEX CONCURRENTLY IF NOT EXISTS batches_by_archive ON batches (substring(archive_path from '[^/]*$'));
