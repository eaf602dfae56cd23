-- Schema version 3: a vector that the caller brings of an item, and what was shown to people.

ALTER TABLE data.items ADD COLUMN vector FLOAT[];  -- of its picture, sound, ...; all of one length

-- One row per (user_id, item_id, query_id), or per (user_id, item_id, ts) where query_id is NULL.
CREATE TABLE data.impressions (
    user_id  VARCHAR NOT NULL,
    item_id  VARCHAR NOT NULL,
    ts       TIMESTAMP,
    position INTEGER,                          -- in the list that was shown, from 0
    query_id VARCHAR,                          -- of the query that brought the item
    clicked  BOOLEAN NOT NULL DEFAULT false
);
