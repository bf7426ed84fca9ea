INSERT INTO transcripts (audio_id, text, segments, model)
VALUES (%(audio_id)s, %(text)s, %(segments)s, %(model)s)
ON CONFLICT (audio_id) DO UPDATE
SET text = excluded.text, segments = excluded.segments, model = excluded.model, created_at = now()
