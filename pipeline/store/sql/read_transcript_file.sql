SELECT f.stem || '.json', json_build_object(
    -- What S3 keeps of a file beside its Opus: its S3 key, and the JSON. One that is not done yet is about to be, with
    -- the Opus under its usual key. `file_count` is that of the archive as it was unpacked, whatever was deleted of it
    -- since.
    'format', 1,
    'audio_id', f.audio_id,
    'batch_id', f.batch_id,
    'original_filename', f.original_filename,
    'created_at', to_char(f.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'source_sha256', f.source_sha256,
    's3_opus_path', CASE f.status WHEN 'done' THEN f.s3_opus_path ELSE f.stem || '.opus' END,
    'recorded_at', to_char(f.recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'recorded_from', f.recorded_from,
    'metadata', f.metadata,
    'duration_seconds', f.duration_seconds,
    'channels', f.channels,
    'language', f.language,
    'languages', f.languages,
    'warnings', f.warnings,
    'labels', (SELECT coalesce(json_agg(json_build_object('classifier', classifier, 'label', label, 'score', score)
                                        ORDER BY classifier, score DESC, label), '[]')
               FROM classifications AS c WHERE c.audio_id = f.audio_id),
    'batch', CASE WHEN b.batch_id IS NOT NULL THEN json_build_object(
        's3_key', b.s3_key,
        'file_count', b.file_count
            + (SELECT count(*) FROM tombstones AS t WHERE t.batch_id = b.batch_id AND t.audio_id IS NOT NULL),
        'host', b.host,
        'opened_at', to_char(b.opened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'archive_path', b.archive_path,
        'archive_host', b.archive_host,
        'archive_bytes', b.archive_bytes,
        'archive_sha256', b.archive_sha256
    ) END,
    'transcribed_at', to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'model', t.model,
    'text', t.text,
    'segments', t.segments
)::text
FROM (
    SELECT audio_files.*,
           'processed/' || to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') || '/' || audio_id AS stem
    FROM audio_files WHERE audio_id = %(audio_id)s
) AS f
JOIN transcripts AS t USING (audio_id)
LEFT JOIN batches AS b ON b.batch_id = f.batch_id
