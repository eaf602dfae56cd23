-- Schema version 4: what people allow to be done with their views. Where there is no row, everything is allowed.

-- One row per (user_id, view). A view that is not used is not shared either, whatever `share` says.
CREATE TABLE data.consents (
    user_id VARCHAR NOT NULL,
    view    VARCHAR NOT NULL CHECK (view IN ('H', 'T', 'S')),
    use     BOOLEAN NOT NULL DEFAULT true,    -- for the person's own results, and for training
    share   BOOLEAN NOT NULL DEFAULT true     -- in results that others get
);
