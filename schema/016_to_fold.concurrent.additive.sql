CREATE INDEX CONCURRENTLY IF NOT EXISTS transcripts_to_fold ON transcripts (audio_id) WHERE folded_at IS DISTINCT FROM created_at;
