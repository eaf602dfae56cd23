"""Bounds of fields that the server checks, as JSON Schema writes them."""

from typing import Any

_ID = {"minLength": 1, "maxLength": 256}
_TEXT = {"minLength": 1, "maxLength": 100_000}
_WEIGHT = {"minimum": 0, "maximum": 1e12}
_VIEW_WEIGHT = {"minimum": 0, "maximum": 1_000}
_SHARE = {"minimum": 0, "maximum": 1}
_REQUEST_ID = {"maxLength": 64}


def _entries(least: int, most: int) -> dict[str, int]:
    return {"minItems": least, "maxItems": most} if least else {"maxItems": most}


# By message and field. Of texts, characters are counted here and bytes by the server, which may thus refuse
# one that passes here.
BOUNDS: dict[str, dict[str, dict[str, Any]]] = {
    "Event": {"item_id": _ID, "action": {"maxLength": 256}, "weight": _WEIGHT},
    "Friend": {"friend_id": _ID, "weight": _WEIGHT},
    "Views": {
        "events": _entries(0, 10_000),
        "texts": _entries(0, 1_000) | {"items": _TEXT},
        "friends": _entries(0, 1_000),
    },
    "Vector": {"values": _entries(1, 65_536)},
    "AttributeCondition": {
        "name": {"minLength": 1, "maxLength": 1_000},
        "any_of": _entries(0, 1_000),
        "none_of": _entries(0, 1_000),
    },
    "ItemIds": {"item_ids": _entries(0, 10_000) | {"items": _ID}},
    "Filter": {
        "kinds": _entries(0, 100) | {"items": {"minLength": 1, "maxLength": 1_000}},
        "attributes": _entries(0, 32),
    },
    "ViewWeights": {"history": _VIEW_WEIGHT, "text": _VIEW_WEIGHT, "social": _VIEW_WEIGHT},
    "QueryRequest": {
        "user_id": _ID,
        "item_id": _ID,
        "text": _TEXT,
        "k": {"maximum": 1_000},
        "min_score": {"minimum": -1e30, "maximum": 1e30},
        "text_query": _TEXT,
        "text_query_weight": _SHARE,
        "diversity": _SHARE,
        "offset": {"maximum": 999},
    },
    "QueryBatchRequest": {"requests": _entries(1, 256)},
    "EncodeUserRequest": {"user_id": _ID},
    "PredictRequest": {
        "user_id": _ID,
        "item_ids": _entries(0, 1_000) | {"items": _ID},
        "k": {"maximum": 1_000},
        "positions": _entries(0, 1_000),
    },
    "PutItemsRequest": {"items": _entries(1, 10_000), "request_id": _REQUEST_ID},
    "DeleteItemsRequest": {"item_ids": _entries(1, 10_000), "request_id": _REQUEST_ID},
    "AppendBehaviorsRequest": {"behaviors": _entries(1, 10_000), "request_id": _REQUEST_ID},
    "AppendTextsRequest": {"texts": _entries(1, 1_000), "request_id": _REQUEST_ID},
    "PutFriendsRequest": {"friends": _entries(1, 10_000), "request_id": _REQUEST_ID},
    "AppendImpressionsRequest": {"impressions": _entries(1, 10_000), "request_id": _REQUEST_ID},
    "SetConsentRequest": {"consents": _entries(1, 10_000), "request_id": _REQUEST_ID},
    "ItemRow": {"vector": _entries(0, 8_192)},
    "ApplyLogRequest": {"log": _ID, "entries": _entries(0, 10_000)},
    "LogPosition": {"epoch": {"maxLength": 256}},
    "FindItemsRequest": {
        "item_ids": _entries(0, 1_000) | {"items": _ID},
        "contains": {"maxLength": 256},
        "kinds": _entries(0, 100) | {"items": {"minLength": 1, "maxLength": 1_000}},
        "after": {"maxLength": 256},
        "limit": {"maximum": 1_000},
    },
    "GetFiguresRequest": {"minutes": {"maximum": 60}},
    "QueryIndexRequest": {"index_id": _ID},
    "ReadMapRequest": {"colour_by": {"maxLength": 1_024}, "limit": {"maximum": 100_000}},
    "ListIndexesRequest": {"limit": {"maximum": 1_000}},
    "ListModelsRequest": {"limit": {"maximum": 1_000}},
    "ListReportsRequest": {"limit": {"maximum": 1_000}},
    "GetReportRequest": {"report_id": _ID},
    "EraseUserRequest": {"user_id": _ID},
    "ExportUserRequest": {"user_id": _ID, "limit": {"maximum": 1_000}},
}
# Fields that a request or its parts cannot be without.
REQUIRED: dict[str, tuple[str, ...]] = {
    "Event": ("item_id",),
    "Friend": ("friend_id",),
    "Vector": ("values",),
    "AttributeCondition": ("name",),
    "Bound": ("value",),
    "QueryBatchRequest": ("requests",),
    "PutItemsRequest": ("items",),
    "DeleteItemsRequest": ("item_ids",),
    "AppendBehaviorsRequest": ("behaviors",),
    "AppendTextsRequest": ("texts",),
    "PutFriendsRequest": ("friends",),
    "AppendImpressionsRequest": ("impressions",),
    "SetConsentRequest": ("consents",),
    "ItemRow": ("item_id",),
    "ApplyLogRequest": ("log",),
    "BehaviorRow": ("user_id", "item_id"),
    "TextRow": ("user_id", "text"),
    "FriendRow": ("user_id", "friend_id"),
    "ImpressionRow": ("user_id", "item_id"),
    "ConsentRow": ("user_id", "view"),
    "EraseUserRequest": ("user_id",),
    "ExportUserRequest": ("user_id",),
    "PublishIndexRequest": ("index_id",),
    "GetReportRequest": ("report_id",),
    "QueryIndexRequest": ("index_id",),
}
