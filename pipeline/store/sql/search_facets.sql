-- The most frequent values among some files: what it is a value of, the value, in how many files, the archive of a batch.
WITH found AS MATERIALIZED (
    SELECT f.* FROM unnest(%(audio_ids)s::bigint[]) AS found(audio_id) JOIN audio_files AS f USING (audio_id)
), counted (facet, value, files) AS (
    SELECT 'label', label, count(DISTINCT audio_id) FROM found JOIN classifications USING (audio_id) GROUP BY label
    UNION ALL
    SELECT 'language', spoken, count(*)
    FROM found CROSS JOIN unnest(coalesce(languages, array_remove(ARRAY[language], NULL))) AS spoken GROUP BY spoken
    UNION ALL
    SELECT 'batch', batch_id, count(*) FROM found GROUP BY batch_id
    UNION ALL
    SELECT 'day', to_char(coalesce(recorded_at, created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD'), count(*)
    FROM found GROUP BY 2
    UNION ALL
    SELECT 'meta', key || '=' || value, count(*)
    FROM found CROSS JOIN jsonb_each_text(CASE jsonb_typeof(metadata) WHEN 'object' THEN metadata END)
    WHERE length(value) <= 100 AND jsonb_typeof(metadata -> key) IN ('string', 'number', 'boolean')
    GROUP BY key, value
)
SELECT facet, value, files, coalesce(substring(archive_path from '[^/]*$'), '')
FROM (SELECT counted.*, row_number() OVER (PARTITION BY facet ORDER BY files DESC, value) AS place FROM counted) AS ranked
LEFT JOIN batches ON facet = 'batch' AND batch_id = value
WHERE place <= 10
ORDER BY facet, place
