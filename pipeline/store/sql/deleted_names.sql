-- Which files of an archive were deleted: by the batch and the name, or as the same bytes under any name, or, where their
-- digest is not known, as the same name in the same archive. What has a row is there.
WITH given AS (
    SELECT name, encode(sha256(convert_to(name, 'UTF8')), 'hex') AS name_sha256, source_sha256
    FROM unnest(%(names)s::text[], %(digests)s::text[]) AS given(name, source_sha256)
), gone AS (
    SELECT given.* FROM given
    WHERE EXISTS (SELECT FROM tombstones AS t WHERE t.batch_id = %(batch_id)s AND t.name_sha256 = given.name_sha256)
       OR NOT EXISTS (SELECT FROM audio_files WHERE batch_id = %(batch_id)s AND original_filename = given.name)
          AND (EXISTS (SELECT FROM tombstones AS t WHERE t.source_sha256 = given.source_sha256)
               OR EXISTS (SELECT FROM tombstones AS t WHERE t.archive_sha256 = %(archive_sha256)s
                          AND t.name_sha256 = given.name_sha256 AND t.source_sha256 IS NULL))
), kept AS (
    INSERT INTO tombstones (batch_id, name_sha256, source_sha256, archive_sha256)
    SELECT %(batch_id)s, name_sha256, source_sha256, %(archive_sha256)s FROM gone ON CONFLICT DO NOTHING
)
SELECT name FROM gone
