-- The archives that are kept too long, of batches that are finished.
SELECT b.batch_id FROM batches AS b
WHERE b.finished_at < now() - %(days)s * interval '1 day' AND b.archive_deleted_at IS NULL
  AND b.s3_key = 'archives/' || b.batch_id || '.tar'
  AND NOT EXISTS (SELECT FROM holds AS h WHERE h.batch_id = b.batch_id)
  AND NOT EXISTS (SELECT FROM audio_files AS f WHERE f.batch_id = b.batch_id AND f.status = 'processing')
ORDER BY b.finished_at LIMIT %(most)s
