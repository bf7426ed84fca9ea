-- The labels with their classifiers, in order, after one: from one to the next by the index, however many files have it.
WITH RECURSIVE known (classifier, label, place) AS (
    (SELECT classifier, label, 1 FROM classifications
     WHERE (classifier, label) > (%(classifier)s, %(label)s) ORDER BY classifier, label LIMIT 1)
    UNION ALL
    SELECT next.classifier, next.label, known.place + 1 FROM known CROSS JOIN LATERAL (
        SELECT c.classifier, c.label FROM classifications AS c
        WHERE (c.classifier, c.label) > (known.classifier, known.label) ORDER BY c.classifier, c.label LIMIT 1
    ) AS next WHERE known.place < %(limit)s
)
SELECT classifier, label FROM known ORDER BY place
