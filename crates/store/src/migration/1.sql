-- A digest covers the rest of its row: SQLite itself does not notice a bit that flips inside a value.
CREATE TABLE object (
    kind TEXT NOT NULL,
    id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body)),
    digest INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT;

CREATE TABLE meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL,
    digest INTEGER NOT NULL
) STRICT;
