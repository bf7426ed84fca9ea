-- What S3 knows of the archives of batches that were unpacked before it was kept in their rows. An empty path: it was
-- asked, and does not know it.
UPDATE batches AS b
SET archive_path = coalesce(found.path, ''), archive_host = coalesce(b.archive_host, found.host),
    archive_bytes = coalesce(found.size, b.archive_bytes), archive_sha256 = coalesce(found.sha256, b.archive_sha256)
FROM unnest(%(batch_ids)s::text[], %(paths)s::text[], %(hosts)s::text[], %(sizes)s::bigint[], %(sha256s)s::text[])
     AS found(batch_id, path, host, size, sha256)
WHERE b.batch_id = found.batch_id AND b.archive_path IS NULL
