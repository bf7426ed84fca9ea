-- What is shown of the files that a search has found, in the order given. The segment is the first that the whole
-- search fits, or else the first with one of its words; `around` is its text with that of its neighbours.
SELECT f.audio_id, f.batch_id, f.original_filename, f.created_at, f.language, f.duration_seconds,
       ARRAY(SELECT label FROM classifications AS c WHERE c.audio_id = f.audio_id
             GROUP BY label ORDER BY max(score) DESC, label) AS labels,
       segment.start, coalesce(segment.around, left(t.text, %(most)s)) AS around
FROM unnest(%(audio_ids)s::bigint[]) WITH ORDINALITY AS found(audio_id, place)
JOIN audio_files AS f USING (audio_id)
JOIN transcripts AS t USING (audio_id)
LEFT JOIN LATERAL (
    SELECT (part ->> 'start')::float8 AS start, concat_ws(' ', before, part ->> 'text', after) AS around
    FROM (SELECT part, place, to_tsvector('simple', part ->> 'text') AS words,
                 lag(part ->> 'text') OVER (ORDER BY place) AS before,
                 lead(part ->> 'text') OVER (ORDER BY place) AS after
          FROM jsonb_array_elements(t.segments) WITH ORDINALITY AS parts(part, place)) AS spoken
    WHERE words @@ %(any_word)s::tsquery
    ORDER BY words @@ %(search)s::tsquery DESC, place
    LIMIT 1
) AS segment ON true
ORDER BY found.place
