"""The compose file and the image, as far as a machine without a Docker engine can check them."""

import json
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import compose_spec
import pytest
import redis
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OWN = ("migrate", "api", "worker", "worker-cpu", "auditor")
SECRETS = {
    "AUDITOR_POSTGRES_PASSWORD": "postgrespass",
    "AUDITOR_REDIS_PASSWORD": "redispass",
    "AUDITOR_S3_PASSWORD": "s3pass",
}
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[-?][^}]*)?\}")


def substitute(value, environment):
    """What compose does with `${NAME:?message}`, `${NAME:-default}` and `$$`."""

    def one(match):
        name, rest = match[1], match[2] or ""
        if name in environment:
            return environment[name]
        if rest.startswith(":-"):
            return rest[2:]
        raise LookupError(name)

    if isinstance(value, dict):
        return {key: substitute(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, environment) for item in value]
    return VARIABLE.sub(one, value).replace("$$", "$") if isinstance(value, str) else value


@pytest.fixture(scope="module")
def compose():
    return substitute(yaml.safe_load(COMPOSE), SECRETS)


def test_it_keeps_to_the_compose_specification(compose):
    parsed = compose_spec.PyCompose.from_json(json.dumps(compose))
    parsed.validate()
    assert set(parsed.service_names()) == {*OWN, "postgres", "redis", "store"}


@pytest.mark.parametrize("missing", SECRETS)
def test_there_is_no_default_password(missing):
    with pytest.raises(LookupError, match=missing):
        substitute(yaml.safe_load(COMPOSE), {name: value for name, value in SECRETS.items() if name != missing})


def test_nothing_runs_as_root_or_writes_its_own_image(compose):
    for name, service in compose["services"].items():
        assert service["user"] not in ("root", "0"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name


def test_the_api_alone_is_published_to_this_machine_alone_and_nothing_reaches_out(compose):
    inside, front = compose["networks"]["inside"], compose["networks"]["front"]
    assert inside == {"internal": True}
    assert front["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    services = dict(compose["services"])
    api = services.pop("api")
    assert (api["ports"], api["networks"]) == (["127.0.0.1:8000:8000"], ["inside", "front"])
    assert api["healthcheck"]["test"]
    for name, service in services.items():
        assert "ports" not in service, name
        assert service["networks"] == ["inside"], name


def test_nobody_asks_outside_for_names(compose):
    for name, service in compose["services"].items():
        assert service["dns"] == ["127.0.0.1"], name


def test_images_have_a_version(compose):
    for name, service in compose["services"].items():
        assert re.search(r":(local|\d)", service["image"]), name


def test_workers_wait_for_servers_and_migrations(compose):
    for name in ("api", "worker", "worker-cpu", "auditor"):
        assert compose["services"][name]["depends_on"] == {
            "postgres": {"condition": "service_healthy"},
            "redis": {"condition": "service_healthy"},
            "store": {"condition": "service_healthy"},
            "migrate": {"condition": "service_completed_successfully"},
        }
    for name in ("postgres", "redis", "store"):
        assert compose["services"][name]["healthcheck"]["test"]


def test_postgres_is_not_healthy_while_its_image_initialises_the_folder(compose):
    """For that it starts a server of its own, which listens on a socket alone, and stops it again."""
    test = compose["services"]["postgres"]["healthcheck"]["test"]
    assert test[test.index("-h") + 1] == "127.0.0.1"


def test_the_store_runs_as_the_user_to_whom_its_image_gives_the_data(compose):
    """Up to 3.99 the image left /data to root; from 4.00 on it belongs to its user 1000."""
    store = compose["services"]["store"]
    assert store["image"].startswith("chrislusf/seaweedfs:4.")
    assert (store["user"], store["volumes"]) == ("1000:1000", ["store-data:/data"])


def test_the_store_is_started_as_its_own_entrypoint_would(compose):
    """Without it there is room for eight volumes of 30 GB, and the log goes into files of /tmp."""
    (script,) = compose["services"]["store"]["command"]
    assert "weed -logtostderr=true server" in script
    assert "-volume.max=0" in script


def test_one_worker_has_a_gpu_and_the_other_is_told_to_do_without(compose):
    gpu, cpu = compose["services"]["worker"], compose["services"]["worker-cpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert "deploy" not in cpu
    assert (gpu["profiles"], cpu["profiles"]) == (["gpu"], ["cpu"])
    assert (gpu["environment"]["AUDITOR_DEVICE"], cpu["environment"]["AUDITOR_DEVICE"]) == ("cuda", "cpu")


def test_a_worker_gives_back_what_it_runs_before_it_is_killed(compose):
    from auditor.runner.process import GRACE_S

    for name in ("worker", "worker-cpu"):
        service = compose["services"][name]
        command, drain_timeout = service["command"][:2], float(service["command"][2])
        assert command == ["worker", "--drain-timeout"]
        on_a_busy_machine = 2 * (drain_timeout + GRACE_S)
        assert on_a_busy_machine < float(service["stop_grace_period"].removesuffix("s"))


def test_every_part_of_ours_knows_the_settings_and_keeps_telemetry_off(compose):
    from auditor.settings import Settings

    known = {f"AUDITOR_{name.upper()}" for name in Settings.model_fields}
    for name in OWN:
        environment = compose["services"][name]["environment"]
        assert environment["ORT_DISABLE_TELEMETRY"] == "1"
        assert {key for key in environment if key.startswith("AUDITOR_")} <= known
        assert environment["AUDITOR_DATABASE_URL"] == "postgresql://auditor:postgrespass@postgres:5432/auditor"
        assert environment["AUDITOR_BROKER_URL"] == "redis://:redispass@redis:6379/0"
        assert environment["AUDITOR_ARTIFACTS"] == "s3://auditor"
        assert environment["AWS_SECRET_ACCESS_KEY"] == SECRETS["AUDITOR_S3_PASSWORD"]
        assert "auditor-home:/var/lib/auditor" in compose["services"][name]["volumes"]


def test_the_store_lets_in_who_has_the_password_alone(compose):
    service = compose["services"]["store"]
    (script,) = service["command"]
    assert "s3pass" not in script
    text = script.partition("<<CONFIG\n")[2].partition("CONFIG")[0].replace("$AUDITOR_S3_PASSWORD", "s3pass")
    (identity,) = json.loads(text)["identities"]
    assert identity["credentials"] == [{"accessKey": "auditor", "secretKey": "s3pass"}]


def test_the_redis_password_is_in_no_process_list_and_the_command_works(compose, tmp_path):
    service = compose["services"]["redis"]
    (script,) = service["command"]
    assert "redispass" not in script
    binary = shutil.which("redis-server") or str(Path(sys.executable).parent / "redis-server")
    if not Path(binary).exists():
        pytest.skip("no redis-server on this machine")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = script.replace("redis-server -", f"{binary} - --port {port} --bind 127.0.0.1").replace(
        "/data", str(tmp_path)
    )
    environment = {"REDISCLI_AUTH": service["environment"]["REDISCLI_AUTH"], "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen([*service["entrypoint"], script], env=environment, stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        with redis.Redis(port=port, password="redispass", retry=None) as client:  # noqa: S106
            from auditor.testing.handlers import wait_for

            wait_for(lambda: answers(client) or process.poll() is not None)
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert b"redispass" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        with redis.Redis(port=port) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
            stranger.ping()
    finally:
        process.kill()
        process.wait()


def answers(client):
    try:
        return client.ping()
    except redis.exceptions.ConnectionError:
        return False


def test_the_image_runs_as_a_user_and_keeps_telemetry_off():
    final = DOCKERFILE.split("FROM ")[-1]
    assert re.search(r"^USER 10001:10001$", final, re.M)
    assert "ORT_DISABLE_TELEMETRY=1" in final
    assert 'ENTRYPOINT ["auditor"]' in final
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "auditor" in scripts


def test_the_image_is_not_asked_to_compile_what_its_python_cannot_read():
    """Libraries ship files for newer Pythons; pip passes over them, `compileall` fails."""
    assert "compileall" not in DOCKERFILE


def test_what_the_image_copies_exists_and_is_sent_to_the_builder():
    sources = [line.split()[1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ") and "--from" not in line]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources
    for source in [*sources, "README.md"]:
        assert source in allowed or source == "pyproject.toml"
        assert source == "README.md" or (ROOT / source).exists()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in packages} <= set(sources), "every package is in the image"


def test_the_migrations_are_part_of_the_package():
    from setuptools import find_packages

    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_packages(str(ROOT), include=setuptools["packages"]["find"]["include"])
    assert {"migrations", "migrations.versions", "workers", "remediation", "auditor.db"} <= set(found)
    assert "*.mako" in setuptools["package-data"]["*"]


def test_the_check_of_a_started_compose_file_says_what_it_lacks(tmp_path):
    command = [sys.executable, str(ROOT / "ci" / "compose_check.py")]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("skipped: no docker command\n")


@pytest.mark.parametrize("title", ["Back up compose", "Restore compose"])
def test_the_recipes_that_it_follows_name_services_and_options_that_there_are(compose, title):
    section = (ROOT / "docs" / "operations.md").read_text().partition(f"### {title}\n")[2].partition("\n##")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, flags=re.S)
    services = set(re.findall(r"(?:exec -T|--entrypoint tar|--wait) (\w+)", block))
    assert {"postgres", "store", "auditor"} == services <= set(compose["services"])
    database = compose["services"]["postgres"]["environment"]
    assert (
        set(re.findall(r"--(?:username|dbname)=(\w+)", block))
        == {database["POSTGRES_USER"]}
        == {database["POSTGRES_DB"]}
    )
    assert set(re.findall(r"-C (\S+)", block)) == {"/data", "/var/lib/auditor"}
