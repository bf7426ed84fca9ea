-- The files that are neither done nor failed, for `reconcile`: few among many.
CREATE INDEX IF NOT EXISTS audio_files_undecided ON audio_files (batch_id) WHERE status = 'processing';
