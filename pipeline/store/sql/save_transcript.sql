-- In one transaction with its passages, so that they are of this text: see schema/008_passages.additive.sql and 015.
INSERT INTO transcripts (audio_id, text, segments, model, indexed_at, folded_at)
VALUES (%(audio_id)s, %(text)s, %(segments)s, %(model)s, now(), now())
ON CONFLICT (audio_id) DO UPDATE
SET text = excluded.text, segments = excluded.segments, model = excluded.model, created_at = now(),
    indexed_at = now(), folded_at = now()
