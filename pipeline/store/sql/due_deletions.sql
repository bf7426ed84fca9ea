-- What is to be done in S3, in pieces. What is in use again, or still, waits: an Opus that a row names or a worker is
-- about to make, and an archive whose batch is worked on. The keys have to be those of the file or the batch: workers,
-- which may not delete, write lines too.
SELECT pending_id, object_keys, tombstone_key, tombstone::text
FROM pending_deletions AS p
WHERE pending_id > %(after)s AND CASE
    WHEN audio_id IS NULL THEN EXISTS (SELECT FROM batches AS b WHERE b.batch_id = p.batch_id
                                       AND b.finished_at IS NOT NULL AND b.archive_deleted_at IS NOT NULL)
        AND NOT EXISTS (SELECT FROM audio_files AS f WHERE f.batch_id = p.batch_id AND f.status = 'processing')
        AND object_keys = ARRAY['archives/' || batch_id || '.tar']
    ELSE NOT EXISTS (SELECT FROM audio_files AS f WHERE f.audio_id = p.audio_id
                     AND (f.status = 'processing' OR f.s3_opus_path = ANY(p.object_keys)))
        AND NOT EXISTS (SELECT FROM unnest(object_keys) AS key
                        WHERE key !~ ('^processed/[0-9-]{10}/' || audio_id || '\.(opus|json)$'))
    END
ORDER BY pending_id LIMIT %(most)s
