-- How many archives are kept too long, and how many more of them are on hold.
SELECT count(*) FILTER (WHERE h.batch_id IS NULL), count(*) FILTER (WHERE h.batch_id IS NOT NULL)
FROM batches AS x LEFT JOIN holds AS h USING (batch_id)
WHERE x.finished_at < now() - %(days)s * interval '1 day' AND x.archive_deleted_at IS NULL
  AND x.s3_key = 'archives/' || batch_id || '.tar'
