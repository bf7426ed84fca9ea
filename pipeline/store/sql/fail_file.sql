-- A file that cannot be done; one that is done stays done.
INSERT INTO audio_files (batch_id, original_filename, status, error)
VALUES (%(batch_id)s, %(original_filename)s, 'failed', %(error)s)
ON CONFLICT (batch_id, original_filename) DO UPDATE
SET status = 'failed', error = excluded.error, updated_at = now()
WHERE audio_files.status <> 'done'
