"""The backend: django-mongodb-backend, but for its client and the editor of the schema.

A migration is several commands and no transaction. Where one of them fails, the migration is not recorded and
begins again at its first command, which has been carried out already. MongoDB itself leaves an index alone
that is there; we do so with a collection.
"""

from __future__ import annotations

from typing import Any

from django_mongodb_backend.base import DatabaseWrapper as MongoWrapper
from django_mongodb_backend.schema import DatabaseSchemaEditor as MongoSchemaEditor
from pymongo.errors import CollectionInvalid, OperationFailure

from payflow.mongodb import Client

NAMESPACE_EXISTS_CODE = 48


class _Database:
    """A database in which a collection that is to be created may be there already."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def create_collection(self, name: str) -> None:
        """Create the collection unless it is there."""
        try:
            self._database.create_collection(name)
        except CollectionInvalid:  # the driver has looked before
            return
        except OperationFailure as error:
            if error.code != NAMESPACE_EXISTS_CODE:
                raise


class SchemaEditor(MongoSchemaEditor):
    """Creates what is not there yet."""

    def get_database(self) -> Any:
        """Return the database as `create_model` uses it."""
        return _Database(super().get_database())


class DatabaseWrapper(MongoWrapper):
    """The connection that settings.DATABASES names."""

    SchemaEditorClass = SchemaEditor

    def get_new_connection(self, conn_params: dict[str, Any]) -> Client:
        """Return this process's client; it is a pool of connections, so all threads share it."""
        if self.alias not in self._connection_pools:
            self._connection_pools.setdefault(self.alias, Client(**conn_params, driver=self._driver_info()))
        return self._connection_pools[self.alias]
