-- Schema version 5: how far logs of events, such as streams of NATS JetStream, were read.

-- One row per log, written with the rows of its events.
CREATE TABLE data.logs (
    log        VARCHAR NOT NULL,
    epoch      VARCHAR NOT NULL,              -- which log of this name, where it was made anew
    sequence   BIGINT NOT NULL,               -- of the last event that was read
    events     BIGINT NOT NULL,               -- sums of all batches, of any epoch
    inserted   BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    unchanged  BIGINT NOT NULL,
    rejected   BIGINT NOT NULL,
    refusals   VARCHAR NOT NULL,              -- JSON: of the last batch, [sequence, reason, position or null]
    written_at TIMESTAMP NOT NULL
);
