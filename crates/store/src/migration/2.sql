-- Answers to changes whose caller gave them a key: a request that is repeated is answered, and not done twice.
CREATE TABLE answer (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    request TEXT NOT NULL,
    time INTEGER NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body)),
    digest INTEGER NOT NULL
) STRICT;

CREATE INDEX answer_time ON answer (time);
