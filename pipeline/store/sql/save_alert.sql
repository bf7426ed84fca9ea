-- An alert, and the event that tells of it. The lock keeps the search, or shows that it was removed meanwhile: then there
-- is no alert.
WITH saved AS (
    INSERT INTO alerts (search_id, audio_id, start, excerpt)
    SELECT search_id, %(audio_id)s, %(start)s, %(excerpt)s
    FROM saved_searches WHERE search_id = %(search_id)s FOR KEY SHARE
    RETURNING alert_id, audio_id
)
INSERT INTO webhook_outbox (event_id, type, data)
SELECT gen_random_uuid()::text, 'keyword.matched', jsonb_build_object(
    'alert_id', saved.alert_id, 'search', %(name)s::text, 'words', %(words)s::text,
    'audio_id', f.audio_id, 'batch_id', f.batch_id, 'original_filename', f.original_filename,
    'archive', b.archive_path, 'recorded_at', to_char(f.recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
    'start', %(start)s::float8, 'excerpt', %(excerpt)s::text
)
FROM saved JOIN audio_files AS f USING (audio_id) LEFT JOIN batches AS b USING (batch_id)
