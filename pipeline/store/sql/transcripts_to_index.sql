SELECT t.audio_id,  -- and the segments without the times of their words, which are ten times as long
       (SELECT coalesce(jsonb_agg(part - 'words' ORDER BY place), '[]')
        FROM jsonb_array_elements(t.segments) WITH ORDINALITY AS parts(part, place)),
       t.indexed_at IS NOT DISTINCT FROM t.created_at  -- whether it has passages
FROM transcripts AS t
WHERE t.folded_at IS DISTINCT FROM t.created_at
      AND t.audio_id < %(below)s  -- beside a long reader the index still has all that were indexed since
ORDER BY t.audio_id DESC
LIMIT %(most)s
FOR NO KEY UPDATE SKIP LOCKED
