-- The oldest files that are kept too long, of one batch: that of the oldest of them.
WITH oldest AS (
    SELECT f.batch_id FROM audio_files AS f
    WHERE f.created_at < now() - %(days)s * interval '1 day' AND f.status <> 'processing'
      AND NOT EXISTS (SELECT FROM holds AS h WHERE h.batch_id = f.batch_id)
    ORDER BY f.created_at, f.audio_id LIMIT 1
)
SELECT f.batch_id, f.audio_id FROM audio_files AS f JOIN oldest USING (batch_id)
WHERE f.created_at < now() - %(days)s * interval '1 day' AND f.status <> 'processing'
ORDER BY f.audio_id LIMIT %(most)s
