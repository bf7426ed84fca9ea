-- Who may read the page and the interface for programs. pipeline/store/tokens.py writes and reads it.
CREATE TABLE IF NOT EXISTS tokens (
    name         TEXT PRIMARY KEY,
    sha256       BYTEA NOT NULL UNIQUE,  -- of the token, which is kept nowhere; 256 random bits need no slow hash
    role         TEXT NOT NULL,          -- reader, operator
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at   TIMESTAMPTZ,            -- NULL: never
    last_used_at TIMESTAMPTZ             -- noted once an hour; NULL: never used
);
