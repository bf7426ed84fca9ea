-- The files, those first of which a passage has the words often, and all that were asked for close together. Of a long
-- recording the first passages with a word count.
SELECT found.audio_id
FROM unnest(%(audio_ids)s::bigint[]) WITH ORDINALITY AS found(audio_id, place)
LEFT JOIN LATERAL (
    SELECT max(ts_rank(words, %(some)s::tsquery, 1) + ts_rank_cd(words, %(whole)s::tsquery)) AS rank
    FROM (SELECT words FROM passages
          WHERE audio_id = found.audio_id AND words @@ %(some)s::tsquery LIMIT %(passages)s) AS first
) AS ranked ON true
ORDER BY rank DESC NULLS LAST, place
