-- The archives of some batches, which are to be deleted in S3 once the batch is finished: by this, where `finish` says
-- so. Only an archive under its own key: others were queued by hand, and are not ours. Gives the batches.
WITH dropped AS (
    UPDATE batches SET archive_deleted_at = now(),
        finished_at = CASE WHEN %(finish)s THEN coalesce(finished_at, now()) ELSE finished_at END
    WHERE batch_id = ANY(%(batch_ids)s::text[]) AND archive_deleted_at IS NULL
      AND s3_key = 'archives/' || batch_id || '.tar'
    RETURNING batch_id, s3_key, archive_sha256, archive_deleted_at
), noted AS (
    INSERT INTO pending_deletions (batch_id, object_keys, tombstone_key, tombstone)
    SELECT batch_id, ARRAY[s3_key], 'tombstones/' || batch_id || '/archive.json',
           jsonb_build_object(
               'batch_id', batch_id, 'archive_sha256', archive_sha256,
               'deleted_at', to_char(archive_deleted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
    FROM dropped
)
SELECT batch_id FROM dropped
