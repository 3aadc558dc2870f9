"""Every setting, read from the environment once, when a process starts.

What must stay true: a process in production refuses to start with a secret that is missing, short or
published in this repository, with DEBUG on, or with deposits open to everyone. `.env.example` documents
each variable.
"""

from payflow.settings.base import *  # noqa: F403 - Django takes settings from one module
from payflow.settings.documentation import *  # noqa: F403
from payflow.settings.edge import *  # noqa: F403
from payflow.settings.mail import *  # noqa: F403
from payflow.settings.web import *  # noqa: F403
from payflow.settings.work import *  # noqa: F403
