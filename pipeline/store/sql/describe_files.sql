-- What is known of some files of a batch before they are opened. It stays as it is once a file was heard: then it has
-- what the tags say too.
UPDATE audio_files AS f
SET recorded_at = d.recorded_at, recorded_from = d.recorded_from, metadata = d.metadata
FROM unnest(%(names)s::text[], %(times)s::timestamptz[], %(sources)s::text[], %(metadata)s::jsonb[])
    AS d (original_filename, recorded_at, recorded_from, metadata)
WHERE f.batch_id = %(batch_id)s AND f.original_filename = d.original_filename AND f.duration_seconds IS NULL
  AND (f.recorded_at, f.recorded_from, f.metadata) IS DISTINCT FROM (d.recorded_at, d.recorded_from, d.metadata)
