"""A stack whose processes reach MongoDB and Redis through proxies, which can make either slow or silent."""

from __future__ import annotations

from payflow.stack.drill.proxy import Proxy
from payflow.stack.paths import mongo_socket
from payflow.stack.stack import Stack

MONGODB, REDIS = "mongodb", "redis"


class ProxiedStack(Stack):
    """Starts embedded servers only. What a drill itself asks of them goes past the proxies."""

    proxies: dict[str, Proxy]

    def _child_env(self, mongodb_uri: str, redis_url: str) -> dict[str, str]:
        mongodb, redis = Proxy(mongo_socket(self.data_dir)), Proxy(("127.0.0.1", self.redis_port))
        self.proxies = {MONGODB: mongodb, REDIS: redis}
        for proxy in self.proxies.values():
            self._cleanup.enter_context(proxy)
        options = mongodb_uri.partition("/?")[2]
        return super()._child_env(
            f"mongodb://127.0.0.1:{mongodb.port}/?{options}",
            redis_url.replace(f":{self.redis_port}/", f":{redis.port}/"),
        )
