-- How many opus are kept too long, and how many more of them are on hold.
SELECT count(*) FILTER (WHERE h.batch_id IS NULL), count(*) FILTER (WHERE h.batch_id IS NOT NULL)
FROM audio_files AS x LEFT JOIN holds AS h USING (batch_id)
WHERE x.created_at < now() - %(days)s * interval '1 day' AND x.s3_opus_path IS NOT NULL AND x.status = 'done'
