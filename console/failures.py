"""What went wrong, as a sentence that says what to do next."""

import grpc

from console.words import Words
from triptych_client import CallError


def sentence_of(error: CallError | ValueError, address: str, say: Words) -> str:
    """Return why a call failed, and what to do."""
    if isinstance(error, ValueError):
        return str(error)
    known = {
        "NOT_READY": say("Nothing is published yet. Run triptych train and triptych reindex for the home."),
        "TOKEN_EXPIRED": say(
            "The token has expired. Make another with triptych token create, and start the console with it."
        ),
        "TOKEN_REVOKED": say("The token was revoked. Ask for another, and start the console with it."),
        "TOKEN_UNKNOWN": say(
            "The server does not know the token. Start the console with one of this server."
        ),
        "TOKEN_MISSING": say(
            "The server wants a token. Start the console with TRIPTYCH_TOKEN or --token-file."
        ),
        "SCOPE_MISSING": say("The token may not do this. It needs another scope."),
        "ITEM_NOT_FOUND": say("There is no such item, or it is not in the index."),
        "HEAD_NOT_FITTED": say("The model has no head for this. Train with --task."),
        "NO_OLDER_INDEX": say("There is no older index to go back to."),
        "REPORT_NOT_FOUND": say("There is no such report. The list has those that the home keeps."),
        "INDEX_NOT_FOUND": say("There is no such index."),
        "AUDIENCE_TOO_SMALL": say("Too few people for an audience that this server tells."),
        "REINDEX_NEEDED": say("This index does not hold users. Run triptych reindex."),
        "TEXT_MODEL_DIFFERS": say(
            "This index reads texts by another language model than the one that serves. Publish it to see "
            "its answers."
        ),
        "NOTHING_COUNTED": say("This server counts nothing. Start it without --no-figures."),
        "TOO_MANY_CALLS": say("The server has too much to do. Try again in a moment."),
        "RATE_LIMITED": say("Too many calls with this token. Wait a little."),
    }
    if error.reason in known:
        return known[error.reason]
    if error.about_tls:
        return say(
            "The server at {address} cannot be spoken to with these TLS options: {reason}",
            address=address,
            reason=error.message,
        )
    if error.not_reached or error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return say("No server answers at {address}. Is triptych serve running there?", address=address)
    return say("The server says: {reason}", reason=error.message)
