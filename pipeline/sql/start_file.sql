-- The row of a file, made at its first delivery; one that is done stays done.
INSERT INTO audio_files (batch_id, original_filename)
VALUES (%(batch_id)s, %(original_filename)s)
ON CONFLICT (batch_id, original_filename) DO UPDATE
SET status = CASE WHEN audio_files.status = 'done' THEN 'done' ELSE 'processing' END, updated_at = now()
RETURNING audio_id, status, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')
