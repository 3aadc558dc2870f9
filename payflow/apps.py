"""Django's own apps with MongoDB's key type, and the kernel's start-up."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings
from django.contrib.admin.apps import AdminConfig
from django.contrib.auth.apps import AuthConfig
from django.contrib.contenttypes.apps import ContentTypesConfig

from payflow import metrics, mongodb
from payflow.celery import app as celery_app

OBJECT_ID = "django_mongodb_backend.fields.ObjectIdAutoField"


class PayflowConfig(AppConfig):
    """The kernel as a Django app: registers the connection and makes Celery's app the default one."""

    name = "payflow"

    def ready(self) -> None:
        """Run once per process, before any request or task."""
        # Here, so that our way of storing metrics is set before Django's middleware makes its own.
        metrics.BUILD.labels(settings.VERSION).set(1)
        mongodb.connect()
        celery_app.set_default()


class MongoAdminConfig(AdminConfig):
    """The admin with ObjectId keys."""

    default_auto_field = OBJECT_ID


class MongoAuthConfig(AuthConfig):
    """Groups and permissions with ObjectId keys."""

    default_auto_field = OBJECT_ID


class MongoContentTypesConfig(ContentTypesConfig):
    """Content types with ObjectId keys."""

    default_auto_field = OBJECT_ID
