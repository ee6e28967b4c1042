"""Ray Serve on loopback: two replicas behind its proxy, on an engine that hums.

`make test-ray`; ray has an environment of its own. RAY_USAGE_STATS_ENABLED=0 and the variables
below keep it on this machine.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # this machine only
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_metrics_report_interval_ms": "1000",
}
ray = pytest.importorskip("ray", reason="pip install 'qtts-openai[ray]'")

from ray import serve  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from engine.dummy.tokenizer import write_random_tokenizer  # noqa: E402
from tests.api.http.test_redis_store import Redis, needs_redis  # noqa: E402
from tests.attack import hostile  # noqa: E402

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(1200),
    needs_redis,
]

ROOT = Path(__file__).resolve().parents[2]
LONG = "This goes on for a while, and then for some more. " * 8
MOST_AT_ONCE = 12
ABORTED = 'qtts_finished_total{reason="abort"}'


class Cluster:
    def __init__(self, directory: Path, redis: Redis) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self.metrics_port = free_port()
        self._config = directory / "config.yaml"
        settings = {
            "models": [{"id": name, "checkpoint": "unused"} for name in ("tts-1", "base")],
            "server": {"log_level": "info", "drain_s": 20},
            "voices": {"directory": str(directory / "voices")},
            "limits": {"store": redis.url, "max_concurrent_per_key": MOST_AT_ONCE},
        }
        self._config.write_text(json.dumps(settings))

    def deploy(self, wait: bool = True, **options: object) -> None:
        """As `serve deploy` does; with other actor options all replicas are replaced."""
        deployment = {
            "name": "speech", "ray_actor_options": {"num_cpus": 0.1},
            "health_check_period_s": 1, "graceful_shutdown_timeout_s": 40,
            "max_ongoing_requests": 40, **options,
        }  # fmt: skip
        application = {
            "name": "qtts", "route_prefix": "/", "import_path": "tests.ray.humming:application",
            "args": {"config": str(self._config)}, "deployments": [deployment],
        }  # fmt: skip
        from ray.serve.schema import ServeDeploySchema

        client = serve.context._get_global_client()
        schema = {"applications": [application]}
        client.deploy_apps(ServeDeploySchema(**schema))
        if wait:
            self.wait(lambda: self.status() == "RUNNING")

    def status(self) -> str:
        application = serve.status().applications.get("qtts")
        return application.status if application else "nothing"

    def replicas(self) -> dict[str, int]:
        """Of those that run: id and process."""
        details = serve.context._get_global_client().get_serve_details()
        deployed = details["applications"]["qtts"]["deployments"]  # empty while it is replaced
        return {
            one["replica_id"]: one["pid"]
            for one in deployed.get("speech", {"replicas": []})["replicas"]
            if one["state"] == "RUNNING"
        }

    def wait(self, condition, timeout_s: float = 300) -> float:
        began = time.monotonic()
        while not condition():
            assert time.monotonic() < began + timeout_s, (self.status(), serve.status())
            time.sleep(0.2)
        return time.monotonic() - began

    def body(self, **fields: object) -> dict[str, object]:
        body = {"model": "tts-1", "voice": "alloy", "input": "Hi.", "response_format": "pcm"}
        return {**body, **fields}


@contextlib.contextmanager
def head(environment: dict[str, str], metrics_port: int) -> Iterator[str]:
    """A head of its own on loopback; its address. With ports that are given it does not wait for
    its agents to say theirs, which take longer than it waits on a busy machine.
    """
    port = free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=4"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    agents = ("dashboard-agent-grpc", "dashboard-agent-listen", "runtime-env-agent")
    command += [f"--{agent}-port={free_port()}" for agent in agents]
    command += [f"--metrics-export-port={metrics_port}"]
    process = subprocess.Popen(
        command, env=os.environ | environment, start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def connected(address: str, timeout_s: float = 600) -> None:
    until = time.monotonic() + timeout_s
    while True:
        try:
            ray.init(address=address, _node_ip_address="127.0.0.1", log_to_driver=False)
            return
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(2)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("ray")
    write_random_tokenizer(directory)
    redis = Redis(directory)
    redis.start()
    environment = {"HUMMING_TOKENIZER": str(directory), "PYTHONPATH": str(ROOT)}
    made = Cluster(directory, redis)
    with contextlib.ExitStack() as stack:
        stack.callback(redis.stop)
        connected(stack.enter_context(head(environment, made.metrics_port)))
        stack.callback(ray.shutdown)
        serve.start(http_options={"host": "127.0.0.1", "port": made.port})
        stack.callback(serve.shutdown)
        made.deploy(num_replicas=2)
        yield made
        made.http.close()


@pytest.mark.parametrize("fields", [{}, {"stream_format": "sse"}])
def test_sound_passes_as_it_is_made(cluster, fields):
    body = cluster.body(input=LONG, **fields)
    with cluster.http.stream("POST", "/v1/audio/speech", json=body) as answer:
        assert answer.status_code == 200
        times = [time.monotonic() for _ in answer.iter_raw()]
    assert len(times) >= 5 and times[-1] - times[0] > 0.5


def test_both_replicas_answer_and_ids_come_once(cluster):
    assert len(cluster.replicas()) == 2
    for _ in range(20):
        answer = cluster.http.post("/v1/audio/speech", json=cluster.body(max_new_tokens=2))
        assert answer.status_code == 200
    given = cluster.http.get("/v1/models", headers={"x-request-id": "mine-1"})
    assert given.headers.get_list("x-request-id") == ["mine-1"]
    assert len(cluster.http.get("/v1/models").headers.get_list("x-request-id")) == 1


def test_errors_are_ours(cluster):
    answer = cluster.http.post("/v1/audio/speech", json=cluster.body(voice="nobody"))
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "voice"


def test_a_socket_speaks(cluster):
    url = cluster.url.replace("http", "ws") + "/v1/audio/speech/stream"
    with connect(url, additional_headers={"authorization": "Bearer x"}, proxy=None) as client:
        config = {"voice": "alloy", "response_format": "pcm", "stream_audio": True}
        client.send(json.dumps({"type": "session.config", **config}))
        assert json.loads(client.recv(30))["type"] == "session.configured"
        for word in ("Hello ", "there, ", "friend."):
            client.send(json.dumps({"type": "input.text", "text": word}))
        client.send(json.dumps({"type": "input.done"}))
        audio, told = 0, ""
        while told != "session.done":
            message = client.recv(30)
            if isinstance(message, bytes):
                audio += len(message)
            else:
                told = json.loads(message)["type"]
        assert audio > 3840


def counted(cluster, name: str) -> dict[str, float]:
    """By replicas, told apart by when they began. Many ask at once, for one who asks alone is sent
    where the least is done.
    """
    with ThreadPoolExecutor(12) as pool:
        texts = list(pool.map(lambda _: cluster.http.get("/metrics").text, range(12)))
    found = {}
    for text in texts:
        began = re.search(r"^qtts_audio_seconds_created .*$", text, re.M)[0]
        value = re.search(rf"^{re.escape(name)} (.*)$", text, re.M)
        found[began] = float(value[1]) if value else 0.0
    return found


def test_the_engine_stops_when_the_listener_leaves(cluster):
    body = cluster.body(input=LONG * 9)
    with contextlib.ExitStack() as listeners:
        heard = []  # kept: httpx hangs up when an iterator that is not at its end is forgotten
        for _ in range(2):
            speaking = cluster.http.stream("POST", "/v1/audio/speech", json=body)
            heard.append(listeners.enter_context(speaking).iter_raw())
            next(heard[-1])
        assert sum(counted(cluster, ABORTED).values()) == 0
    cluster.wait(lambda: sum(counted(cluster, ABORTED).values()) == 2, 60)
    cluster.wait(lambda: [*counted(cluster, "qtts_streams").values()] == [0, 0], 60)


def test_rays_metrics_have_ours_of_each_replica(cluster):
    def replicas() -> set[str]:
        text = httpx.get(f"http://127.0.0.1:{cluster.metrics_port}/metrics", timeout=30).text
        return set(re.findall(r"^ray_qtts_audio_seconds_total\{.*replica=\"(\w+)\"", text, re.M))

    cluster.wait(lambda: len(replicas()) == 2, 60)


def test_a_voice_made_on_one_replica_is_spoken_by_the_other(cluster):
    data = {"name": "shared", "consent": "I am the speaker and I agree."}
    files = {"audio_sample": ("a.wav", hostile.wav(1.0), "audio/wav")}
    made = cluster.http.post("/v1/audio/voices", data=data, files=files)
    assert made.status_code == 200, made.text
    body = cluster.body(model="base", voice=made.json()["id"], max_new_tokens=2)
    assert {cluster.http.post("/v1/audio/speech", json=body).status_code for _ in range(24)} == {
        200
    }
    gone = cluster.http.delete(f"/v1/audio/voices/{made.json()['id']}")
    assert gone.status_code == 200
    assert {cluster.http.post("/v1/audio/speech", json=body).status_code for _ in range(24)} <= {
        400,
        404,
    }


async def speak_all(cluster: Cluster, count: int, text: str = LONG) -> list[int | str]:
    async with httpx.AsyncClient(base_url=cluster.url, timeout=90, trust_env=False) as client:

        async def one() -> int | str:
            try:
                body = cluster.body(input=text)
                async with client.stream("POST", "/v1/audio/speech", json=body) as answer:
                    async for _ in answer.aiter_raw():
                        pass
                    return answer.status_code
            except httpx.HTTPError as error:
                return type(error).__name__

        return list(await asyncio.gather(*(one() for _ in range(count))))


def test_one_limit_holds_over_both(cluster):
    statuses = Counter(asyncio.run(speak_all(cluster, 2 * MOST_AT_ONCE)))
    assert statuses == {200: MOST_AT_ONCE, 429: MOST_AT_ONCE}


class Visitors(threading.Thread):
    """A few who ask for one answer after the other, and how that ended."""

    def __init__(self, cluster: Cluster, num: int = 4) -> None:
        super().__init__()
        self.cluster, self.num = cluster, num
        self.outcomes: Counter[int | str] = Counter()
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._done.is_set():
            self.outcomes.update(asyncio.run(speak_all(self.cluster, self.num, LONG[:100])))

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        try:
            time.sleep(1)
            yield
        finally:
            self._done.set()
            self.join(120)


def test_a_rolling_redeploy_loses_nothing(cluster):
    before = set(cluster.replicas())
    visitors = Visitors(cluster)
    with visitors.calling():
        cluster.deploy(num_replicas=2, ray_actor_options={"num_cpus": 0.2}, wait=False)
        took_s = cluster.wait(
            lambda: (
                len(cluster.replicas()) == 2
                and not before & set(cluster.replicas())
                and cluster.status() == "RUNNING"
            )
        )
    print(f"redeployed in {took_s:.1f} s under {dict(visitors.outcomes)}")
    assert set(visitors.outcomes) == {200} and visitors.outcomes[200] >= 8


def test_a_killed_replica_is_replaced_and_others_go_on(cluster):
    before = cluster.replicas()
    victim, pid = next(iter(before.items()))
    visitors = Visitors(cluster)
    with visitors.calling():
        os.kill(pid, signal.SIGKILL)
        took_s = cluster.wait(
            lambda: len(cluster.replicas()) == 2 and victim not in cluster.replicas()
        )
        cluster.wait(lambda: cluster.status() == "RUNNING")
    print(f"replaced in {took_s:.1f} s under {dict(visitors.outcomes)}")
    broken = {name: count for name, count in visitors.outcomes.items() if name != 200}
    # What was on that replica breaks, visibly; the others do not notice.
    assert sum(broken.values()) <= 2 * visitors.num and visitors.outcomes[200] >= 4, broken
    assert asyncio.run(speak_all(cluster, 4, "Hi.")) == [200] * 4


def test_replicas_come_and_go_with_the_load(cluster):
    scaling = {
        "min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2,
        "upscale_delay_s": 1, "downscale_delay_s": 3, "metrics_interval_s": 1,
        "look_back_period_s": 2,
    }  # fmt: skip
    cluster.deploy(autoscaling_config=scaling, wait=False)
    cluster.wait(lambda: len(cluster.replicas()) == 1)
    visitors = Visitors(cluster, num=8)
    with visitors.calling():
        up_s = cluster.wait(lambda: len(cluster.replicas()) == 2)
    down_s = cluster.wait(lambda: len(cluster.replicas()) == 1)
    print(f"up in {up_s:.1f} s, down in {down_s:.1f} s, {dict(visitors.outcomes)}")
    assert set(visitors.outcomes) == {200}


def test_ray_takes_the_file():
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema(**yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text()))
