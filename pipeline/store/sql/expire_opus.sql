-- The oldest Opus that are kept too long; the rows and their transcripts stay. Gives how many there were.
WITH old AS (
    SELECT f.audio_id, f.batch_id, f.s3_opus_path FROM audio_files AS f
    WHERE f.created_at < now() - %(days)s * interval '1 day' AND f.s3_opus_path IS NOT NULL AND f.status = 'done'
      AND NOT EXISTS (SELECT FROM holds AS h WHERE h.batch_id = f.batch_id)
    ORDER BY f.created_at, f.audio_id LIMIT %(most)s FOR UPDATE SKIP LOCKED
), expired AS (
    UPDATE audio_files SET s3_opus_path = NULL FROM old WHERE audio_files.audio_id = old.audio_id
), noted AS (
    INSERT INTO pending_deletions (batch_id, audio_id, object_keys)
    SELECT batch_id, audio_id, ARRAY[s3_opus_path] FROM old WHERE s3_opus_path LIKE 'processed/%%'
)
SELECT count(*) FROM old
