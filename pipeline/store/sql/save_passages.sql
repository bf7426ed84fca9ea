INSERT INTO passages (audio_id, position, start, words)
SELECT audio_id, position, start, words::tsvector
FROM unnest(%s::bigint[], %s::int[], %s::float8[], %s::text[]) AS made(audio_id, position, start, words)
