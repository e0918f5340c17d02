-- Who did what, in order. `subjects` holds the names and ids of the objects that an entry is about, each between line ends.
CREATE TABLE log (
    number INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    subjects TEXT NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body)),
    digest INTEGER NOT NULL
) STRICT;
