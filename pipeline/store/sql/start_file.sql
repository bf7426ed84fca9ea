-- The row of a file, made at its first delivery. One that is settled stays so: a worker that wakes late, when its
-- batch is finished elsewhere, must not leave a failed file as one in progress. First of all, whether it is new.
INSERT INTO audio_files (batch_id, original_filename)
VALUES (%(batch_id)s, %(original_filename)s)
ON CONFLICT (batch_id, original_filename) DO UPDATE SET updated_at = now()
RETURNING xmax = 0, audio_id, status, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), error, created_at
