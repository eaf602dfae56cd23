-- Schema version 1. Every statement names the catalog `data`: that is how store/database.py attaches the file.
-- ts is UTC without a zone. No index beside the items' key: behaviors, texts and social lie sorted by user_id in
-- small row groups, so min/max pruning finds a user, and nothing has to be maintained on writes.

CREATE TABLE data.migrations (
    version    INTEGER PRIMARY KEY,
    applied_at TIMESTAMP NOT NULL
);

CREATE TABLE data.items (
    item_id    VARCHAR PRIMARY KEY,
    title      VARCHAR,
    text       VARCHAR,
    kind       VARCHAR,                       -- product | content | ad | video | ...
    attributes JSON NOT NULL DEFAULT '{}',    -- always an object
    available  BOOLEAN NOT NULL DEFAULT true,
    updated_at TIMESTAMP
);

-- One row per (user_id, item_id, action, ts), where a NULL ts equals a NULL ts.
CREATE TABLE data.behaviors (
    user_id VARCHAR NOT NULL,
    item_id VARCHAR NOT NULL,
    action  VARCHAR NOT NULL DEFAULT 'interact',
    weight  DOUBLE NOT NULL DEFAULT 1,
    ts      TIMESTAMP,
    split   VARCHAR CHECK (split IN ('train', 'valid', 'test'))  -- NULL or train = history; valid, test = held out
);

-- One row per (user_id, item_id, text, ts, occurrence): equal texts legitimately repeat and are numbered from 1.
CREATE TABLE data.texts (
    user_id       VARCHAR NOT NULL,
    item_id       VARCHAR,
    text          VARCHAR NOT NULL,
    ts            TIMESTAMP,
    vector        FLOAT[],
    text_model_id VARCHAR,
    occurrence    INTEGER NOT NULL DEFAULT 1
);

-- One row per (user_id, friend_id, relation).
CREATE TABLE data.social (
    user_id   VARCHAR NOT NULL,
    friend_id VARCHAR NOT NULL,
    relation  VARCHAR NOT NULL DEFAULT 'friend',
    weight    DOUBLE NOT NULL DEFAULT 1,
    ts        TIMESTAMP
);
