-- Some files, which have their tombstones by now: their rows, with all that hangs on them, and what is still to be told
-- of what was said in them. What they have in S3 is to be deleted then. Gives how many files there were.
WITH gone AS (
    DELETE FROM audio_files WHERE audio_id = ANY(%(audio_ids)s::bigint[])
    RETURNING audio_id, batch_id, encode(sha256(convert_to(original_filename, 'UTF8')), 'hex') AS name_sha256,
              s3_opus_path,
              'processed/' || to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') || '/' || audio_id AS stem
), told AS (
    DELETE FROM webhook_outbox
    WHERE type = 'keyword.matched' AND data ->> 'audio_id' = ANY(%(audio_ids)s::text[])
), counted AS (
    UPDATE batches SET file_count = greatest(0, file_count - of.files)
    FROM (SELECT batch_id, count(*)::int AS files FROM gone GROUP BY batch_id) AS of WHERE batches.batch_id = of.batch_id
), noted AS (
    INSERT INTO pending_deletions (batch_id, audio_id, object_keys, tombstone_key, tombstone)
    SELECT gone.batch_id, gone.audio_id,
           ARRAY(SELECT DISTINCT key
                 FROM unnest(ARRAY[stem || '.opus', stem || '.json', s3_opus_path,
                                   regexp_replace(s3_opus_path, '\.opus$', '.json')]) AS key
                 WHERE key LIKE 'processed/%%'),
           'tombstones/' || gone.batch_id || '/' || gone.audio_id || '.json',
           jsonb_build_object(
               'batch_id', gone.batch_id, 'audio_id', gone.audio_id, 'name_sha256', gone.name_sha256,
               'source_sha256', t.source_sha256, 'archive_sha256', t.archive_sha256,
               'deleted_at', to_char(t.deleted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
    FROM gone JOIN tombstones AS t ON t.batch_id = gone.batch_id AND t.name_sha256 = gone.name_sha256
)
SELECT count(*) FROM gone
