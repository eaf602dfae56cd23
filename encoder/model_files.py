"""The names of the files of a model's directory that more than one module knows."""

USER_GRAPH = "user_tower.onnx"
ITEM_GRAPH = "item_tower.onnx"
