-- A file that cannot be done. One that is done stays done, also while it is worked on again because its Opus was lost:
-- then its row still has the key of it. Gives whether the row is new.
INSERT INTO audio_files (batch_id, original_filename, status, error)
VALUES (%(batch_id)s, %(original_filename)s, 'failed', %(error)s)
ON CONFLICT (batch_id, original_filename) DO UPDATE
SET status = CASE WHEN audio_files.s3_opus_path IS NULL THEN 'failed' ELSE 'done' END,
    error = CASE WHEN audio_files.s3_opus_path IS NULL THEN excluded.error END,
    updated_at = now()
WHERE audio_files.status <> 'done'
RETURNING xmax = 0
