-- Where the Opus is kept: processed/{date}/{audio_id}.opus, the date being created_at's day in UTC.
ALTER TABLE audio_files ADD COLUMN IF NOT EXISTS s3_opus_path TEXT;
