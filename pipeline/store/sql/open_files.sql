-- The rows of some files of an archive that is opened. The digest of what is heard already stays as it is.
INSERT INTO audio_files (batch_id, original_filename, source_sha256)
SELECT %(batch_id)s, name, digest FROM unnest(%(names)s::text[], %(digests)s::text[]) AS given(name, digest)
ON CONFLICT (batch_id, original_filename) DO UPDATE SET source_sha256 = excluded.source_sha256
WHERE excluded.source_sha256 IS NOT NULL AND audio_files.source_sha256 IS DISTINCT FROM excluded.source_sha256
      AND (audio_files.source_sha256 IS NULL OR audio_files.status = 'processing')
