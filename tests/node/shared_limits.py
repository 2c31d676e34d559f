"""Limits that the replicas share: the overlay `redis` of the guide, under load.

It is installed, limits a key, is scaled from 2 to 4 replicas and back, loses its Redis, and is removed.
"""

import hashlib
import http.client
import json
import secrets
import time
from collections.abc import Callable

import redis_image
from cluster import Cluster, eventually
from load import KEY, Load, Workers, unconnected
from replica import Replica, replicas

STATUS = "kubectl rollout status deployment/backend -n backend"
LIMITED = "llt_a-key-with-a-limit"
A_MINUTE, TOLERANCE = 300, 0.02
GONE, CONNECTED = "Redis does not answer", "Redis is connected: limits are shared"
STREAMS = {5: 6, 20: 6}
"""The number of streams of each length in seconds."""


def missing(cluster: Cluster, is_own: bool) -> str | None:
    """The reason why the overlay cannot be tried on this node, or None. `is_own`: the test has started it."""
    if is_own and (why := redis_image.missing()):
        return why
    volumes = cluster.json("get storageclasses,persistentvolumes")["items"]
    return None if volumes else "the node has no storage class for the volume of Redis"


def run_under_load(cluster: Cluster) -> None:
    with Load(cluster.address, 30080, STREAMS) as load:
        for step in (install, limit, scale, lose_redis, remove):
            begun = time.monotonic()
            step(cluster)
            assert not load.failures(), load.failures()[:10]
            print(f"shared limits, {step.__name__}: {time.monotonic() - begun:.0f} s, {load.figures()}", flush=True)
    assert not load.failures(), load.failures()[:10]
    print(f"shared limits, in total: {load.figures()}", flush=True)


def install(cluster: Cluster) -> None:
    """The steps 1 to 3 of the guide."""
    command = 'kubectl create secret generic backend-redis -n backend --from-literal=password="$(openssl rand -hex 24)"'
    cluster.guide(command, place={'"$(openssl rand -hex 24)"': secrets.token_hex(24)})
    cluster.guide("kubectl apply -k k8s/overlays/redis")
    wait_for_redis(cluster)
    assert "complete" in cluster.guide("kubectl rollout status statefulset/backend-redis -n backend")
    assert "successfully rolled out" in cluster.guide(STATUS)
    rows = cluster.guide("kubectl get pods,pvc -n backend")
    assert "backend-redis-0" in rows and "Bound" in rows, rows
    all_say(cluster, "they share a Redis", 2)
    with replicas(cluster) as both:
        for replica in both:
            place = {"deployment/backend": f"pod/{replica.pod}"}
            doctor = cluster.guide("kubectl exec deployment/backend -n backend -- /usr/bin/llamatower doctor", place=place)
            print("\n".join(line for line in doctor.splitlines() if "edis" in line), flush=True)
            assert replica.logged(CONNECTED) > 0, replica.pod


def wait_for_redis(cluster: Cluster) -> None:
    """Until the pod of Redis is ready; the error has the reason why it is not."""
    def is_ready() -> bool:
        statuses = [status for pod in pods() for status in pod["status"].get("containerStatuses", [])]
        return any(status["ready"] for status in statuses)

    def pods() -> list[dict]:
        return cluster.pods("backend", "backend-redis")

    try:
        eventually(is_ready, "the pod of Redis is ready", 120)
    except AssertionError as error:
        raise AssertionError(f"{error}: {[pod['status'] for pod in pods()]}") from None


def all_say(
    cluster: Cluster, what: str, count: int, holds: Callable[[Replica], bool] = lambda _: True, limit: float = 60
) -> None:
    """Each replica says that Redis is connected and how many they are; if not, the error has what it says."""
    def is_wrong(replica: Replica) -> bool:
        sharing = replica.sharing()
        redis = sharing["redis"] or {}
        is_well = redis.get("is_connected") and not redis["problem"] and sharing["gateways"] == count
        return not (is_well and holds(replica))

    end = time.monotonic() + limit
    with replicas(cluster) as rows:
        assert len(rows) == count, [row.pod for row in rows]
        while wrong := [row for row in rows if is_wrong(row)]:
            said = {row.pod: {name: row.sharing()[name] for name in ("redis", "gateways")} for row in wrong}
            assert time.monotonic() < end, f"after {limit:.0f} s not all {count} replicas say that {what}: {said}"
            time.sleep(0.5)


class Limited(Workers):
    """Clients of one key that send short requests to all replicas, many more than it may."""

    def __init__(self, cluster: Cluster):
        super().__init__([self._send] * 4)
        self._address = cluster.address
        self.begun = time.monotonic()
        self.passed: list[float] = []
        self.refused: list[float] = []
        self.others: list[str] = []

    def _send(self) -> None:
        body = json.dumps({"model": "tiny", "prompt": "x", "options": {"num_predict": 1}})
        while not self._stop.is_set():
            connection = unconnected(self._address, 30080)
            try:
                connection.request("POST", "/api/generate", body, {"Authorization": f"Bearer {LIMITED}"})
                answer = connection.getresponse()
                answer.read()
                self._note(answer.status)
            except (OSError, http.client.HTTPException) as error:
                self.others.append(repr(error))
            finally:
                connection.close()
            # A fast start uses up what may come at once; then it is a few requests for each that may pass.
            self._stop.wait(0.1 if self.refused else 0)

    def _note(self, status: int) -> None:
        if status not in (200, 429):
            self.others.append(str(status))
        else:
            (self.passed if status == 200 else self.refused).append(time.monotonic())


def limit(cluster: Cluster) -> None:
    """A limit of N a minute lets N pass at once, and then N in each minute, through all replicas together."""
    digests = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in (("ada", KEY), ("grace", LIMITED))}
    command = """kubectl patch secret backend-secrets -n backend -p '{"stringData":{"LLAMATOWER_API_KEYS":"ada=sha256:..,grace=sha256:.."}}'"""
    cluster.guide(command, place={f"{name}=sha256:..": f"{name}=sha256:{digest}" for name, digest in digests.items()})
    # The load has limits that it does not reach, so that each of its requests asks Redis too.
    command = "kubectl set env deployment/backend LLAMATOWER_KEY_LIMITS=grace:rate=300/m -n backend"
    cluster.guide(command, place={"grace:rate=300/m": f"grace:rate={A_MINUTE}/m,ada:rate=60000/m,ada:tokens=1000000000000/day"})
    assert "successfully rolled out" in cluster.guide(STATUS)
    # An old replica is a gateway until its streams have ended.
    all_say(cluster, "they are two gateways", 2)
    with replicas(cluster) as both, Limited(cluster) as clients:
        eventually(lambda: clients.refused, "a request beyond the limit is refused", 60)
        at_once, seconds = len(clients.passed), clients.refused[0] - clients.begun
        begun = time.monotonic()
        time.sleep(60)
        ended = time.monotonic()
        passed = sum(begun <= at < ended for at in clients.passed)
        asked = [replica.metric("llamatower_key_requests_total", llamatower_identity="grace") for replica in both]
        late = [replica.metric("llamatower_redis_call_seconds_count", result="late") for replica in both]
    may = A_MINUTE * (ended - begun) / 60
    print(f"a limit of {A_MINUTE} a minute: {at_once} requests passed within {seconds:.1f} s; then {passed} in {ended - begun:.1f} s,", end=" ")
    print(f"and {len(clients.refused)} were refused; the replicas were asked {asked} times; {sum(late):.0f} calls of Redis were late", flush=True)
    assert not clients.others, clients.others[:10]
    assert min(asked) > 0, "each replica was asked"
    refilled = A_MINUTE * seconds / 60
    assert abs(at_once - A_MINUTE - refilled) <= TOLERANCE * A_MINUTE + 4, "what may come at once is shared"
    assert abs(passed - may) <= TOLERANCE * may, "what may come in a minute is shared"


def scale(cluster: Cluster) -> None:
    """New replicas serve and share; those that leave finish their streams."""
    for count in (4, 2):
        begun = time.monotonic()
        command = "kubectl scale deployment/backend -n backend --replicas=4"
        cluster.guide(command, place={"--replicas=4": f"--replicas={count}"})
        assert "successfully rolled out" in cluster.guide(STATUS)
        eventually(lambda: len(cluster.pods("backend", "backend")) == count, f"there are {count} replicas", 30)
        all_say(cluster, f"they are {count} gateways", count, holds=serves, limit=90)
        print(f"{count} replicas share {time.monotonic() - begun:.0f} s after the command", flush=True)


def serves(replica: Replica) -> bool:
    return replica.metric("llamatower_key_requests_total", llamatower_identity="ada") > 0


def lose_redis(cluster: Cluster) -> None:
    """Requests go on without Redis, which is used again when it is back, with what it knew."""
    with replicas(cluster) as both:
        since = {replica.pod: replica.sharing()["redis"]["since"] for replica in both}
        logged = {replica.pod: (replica.logged(GONE), replica.logged(CONNECTED)) for replica in both}
        used = max(map(budget, both))
        begun = time.monotonic()
        cluster.guide("kubectl delete pod backend-redis-0 -n backend")
        wait_for_redis(cluster)
        all_say(cluster, "Redis is back", 2, holds=lambda row: row.sharing()["redis"]["since"] != since[row.pod])
        print(f"Redis was replaced, and is used again {time.monotonic() - begun:.0f} s after the command", flush=True)
        without = [without_redis(replica) for replica in both]
        print(f"the replicas have limited {without} requests without it", flush=True)
        assert min(without) > 0, "requests went on"
        asked = {replica.pod: admitted(replica) for replica in both}
        eventually(lambda: all(admitted(replica) > asked[replica.pod] for replica in both), "requests ask Redis again", 10)
        # Without the volume it would take minutes until so much is used again.
        eventually(lambda: all(budget(replica) >= used for replica in both), f"the {used:.0f} used tokens are known again", 10)
        for replica in both:
            now, before = (replica.logged(GONE), replica.logged(CONNECTED)), logged[replica.pod]
            assert now == (before[0] + 1, before[1] + 1), f"one line for the failure, one for its end: {before}, {now}"


def budget(replica: Replica) -> float:
    return replica.metric("llamatower_token_budget_used", llamatower_identity="ada")


def admitted(replica: Replica) -> float:
    """The requests whose limits Redis has answered."""
    return replica.metric("llamatower_redis_call_seconds_count", operation="admit", result="answered")


def without_redis(replica: Replica) -> float:
    """The requests whose limits did not wait for Redis, because it was known not to answer."""
    return replica.metric("llamatower_redis_call_seconds_count", operation="take", result="not_sent")


def remove(cluster: Cluster) -> None:
    """Back to limits of each replica."""
    cluster.guide("kubectl set env deployment/backend LLAMATOWER_KEY_LIMITS- -n backend")
    cluster.guide("kubectl apply -k k8s/overlays/k3s-nodeport")
    assert "successfully rolled out" in cluster.guide(STATUS)
    cluster.guide("kubectl delete statefulset/backend-redis service/backend-redis networkpolicy/backend-redis -n backend")
    cluster.guide("kubectl delete secret/backend-redis pvc/data-backend-redis-0 -n backend")
    eventually(lambda: len(cluster.pods("backend", "backend")) == 2, "the old pods have left", 60)
    with replicas(cluster) as both:
        assert [replica.sharing()["redis"] for replica in both] == [None, None]
