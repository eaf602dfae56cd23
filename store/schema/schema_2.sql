-- Schema version 2: what the derived state beside the store is checked against, the requests that were answered,
-- and the erasures.

-- One row: the last write transaction. Every one raises the sequence, takes a new commit id and says whose rows it
-- touched; users is NULL where that is not known (an import, a split) and all derived state must be made anew.
CREATE TABLE data.head (
    sequence  BIGINT NOT NULL,
    commit_id VARCHAR NOT NULL,
    previous  VARCHAR NOT NULL,
    users     VARCHAR                         -- JSON
);

INSERT INTO data.head VALUES (0, uuid()::VARCHAR, '', NULL);

-- Ids of requests that wrote, so that a repeated one is answered and not written again; old rows are removed.
CREATE TABLE data.requests (
    request_id  VARCHAR NOT NULL,
    digest      VARCHAR NOT NULL,             -- sha256 of the request
    reply       VARCHAR NOT NULL,             -- JSON
    answered_at TIMESTAMP NOT NULL
);

-- One row per erased person, named by a salted hash. `unfinished` (JSON) holds what is still to be removed outside
-- this file; it is NULL once that is done, and with it the last mention of the id in clear is gone.
CREATE TABLE data.erasures (
    erased_at  TIMESTAMP NOT NULL,
    salt       VARCHAR NOT NULL,
    user_hash  VARCHAR NOT NULL,              -- sha256 of salt and user id
    models     VARCHAR[] NOT NULL,            -- models trained on an export that held rows of the person
    unfinished VARCHAR
);

-- Of the erasures to come, and of the audit log.
CREATE TABLE data.salt (salt VARCHAR NOT NULL);

INSERT INTO data.salt VALUES (sha256(uuid()::VARCHAR || uuid()::VARCHAR));
