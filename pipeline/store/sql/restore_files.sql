-- The rows of some files as their transcripts in S3 say: done, with their ids. A row that is done is left as it is; one
-- that is not done becomes so, as what S3 has of it is whole. Gives what became of each:
--   restored, deleted (it has a tombstone), left (its row is there), taken (another file has its id)
WITH given AS (
    SELECT f.* FROM unnest(%(bodies)s::text[]) AS body
    CROSS JOIN jsonb_to_record(body::jsonb) AS f(
        audio_id bigint, batch_id text, original_filename text, created_at timestamptz, source_sha256 text,
        s3_opus_path text, recorded_at timestamptz, recorded_from text, metadata jsonb, duration_seconds float8,
        channels smallint, language text, languages text[], warnings jsonb, transcribed_at timestamptz)
), gone AS (
    SELECT audio_id FROM given AS f WHERE EXISTS (
        SELECT FROM tombstones AS t WHERE t.batch_id = f.batch_id AND (t.audio_id = f.audio_id
            OR t.name_sha256 = encode(sha256(convert_to(f.original_filename, 'UTF8')), 'hex')))
), kept AS (
    SELECT given.*, CASE WHEN audio_id = ANY(%(expired)s::bigint[]) THEN NULL ELSE s3_opus_path END AS opus
    FROM given WHERE audio_id NOT IN (SELECT audio_id FROM gone)
), made AS (
    INSERT INTO audio_files (audio_id, batch_id, original_filename, status, created_at, updated_at, source_sha256,
                             s3_opus_path, recorded_at, recorded_from, metadata, duration_seconds, channels, language,
                             languages, warnings)
    SELECT audio_id, batch_id, original_filename, 'done', created_at, transcribed_at, source_sha256,
           opus, recorded_at, recorded_from, metadata, duration_seconds, channels, language,
           languages, warnings
    FROM kept ON CONFLICT DO NOTHING
    RETURNING audio_id
), ended AS (
    UPDATE audio_files AS f
    SET status = 'done', error = NULL, updated_at = kept.transcribed_at, source_sha256 = kept.source_sha256,
        s3_opus_path = kept.opus, recorded_at = kept.recorded_at, recorded_from = kept.recorded_from,
        metadata = kept.metadata, duration_seconds = kept.duration_seconds, channels = kept.channels,
        language = kept.language, languages = kept.languages, warnings = kept.warnings
    FROM kept
    WHERE f.audio_id = kept.audio_id AND f.batch_id = kept.batch_id AND f.status <> 'done'
          AND f.original_filename = kept.original_filename
    RETURNING f.audio_id
)
SELECT given.audio_id, CASE
    WHEN EXISTS (SELECT FROM gone WHERE gone.audio_id = given.audio_id) THEN 'deleted'
    WHEN EXISTS (SELECT FROM made WHERE made.audio_id = given.audio_id
                 UNION ALL SELECT FROM ended WHERE ended.audio_id = given.audio_id) THEN 'restored'
    WHEN EXISTS (SELECT FROM audio_files AS f WHERE f.batch_id = given.batch_id
                 AND f.original_filename = given.original_filename) THEN 'left'
    ELSE 'taken' END
FROM given
