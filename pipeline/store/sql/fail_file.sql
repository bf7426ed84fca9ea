-- A file that cannot be done; none where it was deleted. One that is done stays done, also while it is worked on again
-- because its Opus was lost: then its row still has the key of it.
INSERT INTO audio_files (batch_id, original_filename, status, error)
SELECT %(batch_id)s, %(original_filename)s, 'failed', %(error)s
WHERE NOT EXISTS (SELECT FROM tombstones WHERE batch_id = %(batch_id)s AND name_sha256 = %(name_sha256)s)
ON CONFLICT (batch_id, original_filename) DO UPDATE
SET status = CASE WHEN audio_files.s3_opus_path IS NULL THEN 'failed' ELSE 'done' END,
    error = CASE WHEN audio_files.s3_opus_path IS NULL THEN excluded.error END,
    updated_at = now()
WHERE audio_files.status <> 'done'
RETURNING xmax = 0
