-- What is shown of the files that a search has found, in the order given: of the first passage that holds the whole
-- search, or else of the first with one of its terms, the segments, with one before and some after.
SELECT f.audio_id, f.batch_id, f.original_filename, f.created_at, f.language,
       coalesce(f.languages, array_remove(ARRAY[f.language], NULL)) AS languages, f.duration_seconds,
       ARRAY(SELECT label FROM classifications AS c WHERE c.audio_id = f.audio_id
             GROUP BY label ORDER BY max(score) DESC, label) AS labels,
       ARRAY(SELECT DISTINCT warning ->> 'code' FROM jsonb_array_elements(f.warnings) AS warning
             ORDER BY 1) AS warnings,
       coalesce(shown.parts, '[]') AS segments, left(t.text, %(most)s) AS beginning,
       f.recorded_at, f.metadata, b.archive_path
FROM unnest(%(audio_ids)s::bigint[]) WITH ORDINALITY AS found(audio_id, place)
JOIN audio_files AS f USING (audio_id)
JOIN transcripts AS t USING (audio_id)
LEFT JOIN batches AS b ON b.batch_id = f.batch_id
LEFT JOIN LATERAL (
    SELECT position, (SELECT min(position) FROM passages AS later
                      WHERE later.audio_id = f.audio_id AND later.position > passages.position) AS next
    FROM passages
    WHERE audio_id = f.audio_id AND words @@ %(some)s::tsquery
    ORDER BY words @@ %(whole)s::tsquery DESC, position LIMIT 1
) AS hit ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(part - 'words' ORDER BY place) AS parts
    FROM jsonb_array_elements(t.segments) WITH ORDINALITY AS parts(part, place)
    WHERE place BETWEEN hit.position AND hit.next + %(overlap)s OR (place >= hit.position AND hit.next IS NULL)
) AS shown ON true
ORDER BY found.place
