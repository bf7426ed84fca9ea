-- These batches are finished where nothing of them is left to do: every file is settled, or their archive was deleted.
-- When: with their last file. It is no event for the webhooks, which have told of it.
UPDATE batches AS b
SET finished_at = coalesce((SELECT max(updated_at) FROM audio_files AS f WHERE f.batch_id = b.batch_id), now())
WHERE b.batch_id = ANY(%(batch_ids)s::text[]) AND b.finished_at IS NULL
  AND NOT EXISTS (SELECT FROM audio_files AS f WHERE f.batch_id = b.batch_id AND f.status = 'processing')
  AND (b.archive_deleted_at IS NOT NULL
       OR (SELECT count(*) FROM audio_files AS f WHERE f.batch_id = b.batch_id) >= b.file_count)
