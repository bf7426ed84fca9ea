-- A batch whose files are all settled, and the event that tells of it: one each time that it is finished.
WITH ended AS (
    UPDATE batches SET finished_at = now()
    WHERE batch_id = %(batch_id)s AND finished_at IS NULL
      AND (%(whatever)s OR NOT EXISTS (SELECT FROM audio_files WHERE batch_id = %(batch_id)s AND status = 'processing'))
    RETURNING *
), counted AS (
    SELECT count(*) FILTER (WHERE status = 'done') AS done, count(*) FILTER (WHERE status = 'failed') AS failed
    FROM audio_files WHERE batch_id = %(batch_id)s
)
INSERT INTO webhook_outbox (event_id, type, data)
SELECT gen_random_uuid()::text,
       CASE WHEN counted.failed = 0 THEN 'batch.finished' ELSE 'batch.finished_with_failures' END,
       jsonb_build_object(
           'batch_id', ended.batch_id, 'archive', ended.archive_path, 'files', ended.file_count,
           'done', counted.done, 'failed', counted.failed,
           'opened_at', to_char(ended.opened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
           'finished_at', to_char(ended.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
       )
FROM ended CROSS JOIN counted
