-- What is shown of the files that a search has found, in the order given. The segment is the first that the whole
-- search fits, or else the first with one of its words; `around` is its text with that of its neighbours.
-- A segment's words are looked at only where it has one of them somewhere: of an hour's there are hundreds.
-- One that is marked as unintelligible is a neighbour only: its text is a remark, not what was said.
SELECT f.audio_id, f.batch_id, f.original_filename, f.created_at, f.language,
       coalesce(f.languages, array_remove(ARRAY[f.language], NULL)) AS languages, f.duration_seconds,
       ARRAY(SELECT label FROM classifications AS c WHERE c.audio_id = f.audio_id
             GROUP BY label ORDER BY max(score) DESC, label) AS labels,
       ARRAY(SELECT DISTINCT warning ->> 'code' FROM jsonb_array_elements(f.warnings) AS warning
             ORDER BY 1) AS warnings,
       (coalesce(best.part, second.part) ->> 'start')::float8 AS start,
       coalesce(best.part, second.part, '{}') - 'words' AS segment,
       coalesce(best.around, second.around, left(t.text, %(most)s)) AS around
FROM unnest(%(audio_ids)s::bigint[]) WITH ORDINALITY AS found(audio_id, place)
JOIN audio_files AS f USING (audio_id)
JOIN transcripts AS t USING (audio_id)
LEFT JOIN LATERAL (
    SELECT part, concat_ws(' ', before, part ->> 'text', after) AS around
    FROM (SELECT part, place, lag(part ->> 'text') OVER places AS before, lead(part ->> 'text') OVER places AS after
          FROM jsonb_array_elements(t.segments) WITH ORDINALITY AS parts(part, place)
          WINDOW places AS (ORDER BY place)) AS spoken
    WHERE lower(part ->> 'text') LIKE ANY (%(patterns)s::text[])
      AND part ->> 'mark' IS DISTINCT FROM 'unintelligible'
      AND to_tsvector('simple', part ->> 'text') @@ %(search)s::tsquery
    ORDER BY place LIMIT 1
) AS best ON true
LEFT JOIN LATERAL (
    SELECT part, concat_ws(' ', before, part ->> 'text', after) AS around
    FROM (SELECT part, place, lag(part ->> 'text') OVER places AS before, lead(part ->> 'text') OVER places AS after
          FROM jsonb_array_elements(t.segments) WITH ORDINALITY AS parts(part, place)
          WINDOW places AS (ORDER BY place)) AS spoken
    WHERE best.part IS NULL AND lower(part ->> 'text') LIKE ANY (%(patterns)s::text[])
      AND part ->> 'mark' IS DISTINCT FROM 'unintelligible'
      AND to_tsvector('simple', part ->> 'text') @@ %(any_word)s::tsquery
    ORDER BY place LIMIT 1
) AS second ON true
ORDER BY found.place
