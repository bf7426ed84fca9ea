-- The transcripts of files whose rows are there, as S3 has them. Their passages follow in the same transaction.
INSERT INTO transcripts (audio_id, text, segments, model, created_at, indexed_at, folded_at)
SELECT f.audio_id, f.text, f.segments, f.model, f.transcribed_at, f.transcribed_at, f.transcribed_at
FROM unnest(%(bodies)s::text[]) AS body
CROSS JOIN jsonb_to_record(body::jsonb) AS f(
    audio_id bigint, text text, segments jsonb, model text, transcribed_at timestamptz)
ON CONFLICT (audio_id) DO UPDATE
SET text = excluded.text, segments = excluded.segments, model = excluded.model, created_at = excluded.created_at,
    indexed_at = excluded.indexed_at, folded_at = excluded.folded_at
