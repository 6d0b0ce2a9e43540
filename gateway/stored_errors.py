"""The refusals that are about stored objects: one that is not the tenant's, and a registry that cannot be asked.

They belong to the tree in `errors.py`.
"""

from __future__ import annotations

from gateway.errors import ClientFault, GatewayFault


class ObjectUnknown(ClientFault):
    """The tenant has no such object, be it another's or nobody's: one answer, the API's own for that place.

    Its status, words, `param` and `code` are data of the kind (`operations/stored_objects.toml`). `code` of the
    class is for metrics and the log: what is told may have none.
    """

    status = 404
    code = "unknown_object"

    def __init__(self, message: str, *, status: int, param: str | None, told_code: str | None) -> None:
        super().__init__(message, param=param)
        self.status = status
        self._told_code = told_code

    def document(self) -> dict[str, str | None]:
        return {**super().document(), "code": self._told_code}


class ObjectsUnavailable(GatewayFault):
    """Whose an object is cannot be told at the moment, or what would be made could not be recorded."""

    status = 503
    code = "stored_objects_unavailable"
    fields = (("retry-after", "1"),)
