-- The transcripts that are to be in S3: key and audio id, as S3 sorts them.
SELECT 'processed/' || to_char(f.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') || '/' || f.audio_id || '.json' COLLATE "C",
       f.audio_id
FROM audio_files AS f
WHERE f.status = 'done' AND EXISTS (SELECT FROM transcripts AS t WHERE t.audio_id = f.audio_id)
ORDER BY 1
