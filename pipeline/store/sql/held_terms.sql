-- Which of the terms (tsqueries) some passage of a file holds, as the index of the search has it.
SELECT asked.term
FROM unnest(%(terms)s::text[]) AS asked(term)
WHERE EXISTS (SELECT FROM passages WHERE audio_id = %(audio_id)s AND words @@ asked.term::tsquery)
