-- What was settled within the last hour, for `pipelinectl status`.
CREATE INDEX IF NOT EXISTS audio_files_settled ON audio_files (updated_at) WHERE status <> 'processing';
