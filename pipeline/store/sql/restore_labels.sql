-- The labels of files that have none, as S3 has them.
INSERT INTO classifications (audio_id, classifier, label, score)
SELECT f.audio_id, l.classifier, l.label, l.score
FROM unnest(%(bodies)s::text[]) AS body
CROSS JOIN jsonb_to_record(body::jsonb) AS f(audio_id bigint, labels jsonb)
CROSS JOIN jsonb_to_recordset(f.labels) AS l(classifier text, label text, score real)
