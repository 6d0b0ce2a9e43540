"""`gateway check` finds what a start or the first request would, all at once, and says where it stands."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.cli.checking import check
from tests.kit.terminal import on_terminal

SOUND = '[upstream]\nbase_url = "http://upstream.test/v1"\n'


@pytest.mark.parametrize(
    ("top", "upstream", "problem"),
    [
        ('redis_url = "http://redis:6379"', "", "redis_url: a Redis URL begins with one of redis://"),
        ('redis_url = "redis:6379"', "", "redis_url: a Redis URL begins with one of redis://"),
        (
            "",
            'ca_file = "/nonexistent/ca.pem"',
            "upstream.ca_file: /nonexistent/ca.pem: cannot be read: No such",
        ),
        ("", 'http_proxy = "socks5://proxy:1080"', "upstream.http_proxy: socks5:// cannot be used; expected"),
        ("", 'http_proxy = "proxy:3128"', "upstream.http_proxy: "),
        (
            "",
            'http_proxy = "http://proxy:31280000"',
            "upstream.http_proxy: its host or port is none; expected",
        ),
        ('listen = "0.0.0.0:80800"', "", "listen: expected HOST:PORT; 80800 is no port"),
        (
            'listen = "0.0.0.0:8080"\nadmin_listen = "127.0.0.1:8080"',
            "",
            "admin_listen: 127.0.0.1:8080 has the port of listen (0.0.0.0:8080) on the same address",
        ),
        ('listen = "localhost:80"\nadmin_listen = "[::1]:80"', "", "admin_listen: "),
        ('keys_dir = "{directory}/gateway.toml"', "", "keys_dir: {directory}/gateway.toml is a file"),
        (
            'keys_dir = "{directory}/gateway.toml/keys"',
            "",
            "cannot be made: {directory}/gateway.toml is a file",
        ),
        ('keys_dir = "/proc/keys"', "", "keys_dir: "),
        (f'keys_dir = "/{"x" * 300}"', "", "cannot be looked into: File name too long"),
        ('keys_dir = ""', "", "keys_dir: is empty; expected a path"),
        (
            'redis_url = "redis://127.0.0.1?nope=1"',
            "",
            "redis_url: the Redis URL cannot be used: there is no",
        ),
        ('cors_origins = "https://a.test"', "", "cors_origins: expected a list, such as"),
    ],
)
async def test_what_a_start_or_the_first_request_would_refuse_is_found(
    tmp_path: Path, top: str, upstream: str, problem: str
) -> None:
    top, problem = (text.replace("{directory}", str(tmp_path)) for text in (top, problem))
    done = await check(tmp_path, f"{top}\n{SOUND}{upstream}\n")
    assert (done.code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert problem in line
    assert f"gateway.toml:{2 if 'admin_listen' in problem else 1 if top else 4}" in line


async def test_key_that_cannot_be_sent_is_not_said_to_be_missing_as_well(tmp_path: Path) -> None:
    done = await check(tmp_path, "", OPENAI_API_KEY="sk-…")
    (line,) = done.stderr.splitlines()
    assert done.code == 1
    assert line.startswith("gateway: OPENAI_API_KEY: holds ")


async def test_folder_of_keys_behind_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "keys").symlink_to(tmp_path / "unmounted")
    done = await check(tmp_path, SOUND)
    assert done.code == 1
    assert f"{tmp_path}/keys is a link that leads nowhere" in done.stderr


async def test_listeners_that_only_look_alike_are_none(tmp_path: Path) -> None:
    for public, private in (("0.0.0.0:80", "[::]:80"), ("127.0.0.1:80", "127.0.0.2:80"), ("a:0", "a:0")):
        done = await check(tmp_path, f'listen = "{public}"\nadmin_listen = "{private}"\n{SOUND}')
        assert done.code == 0


async def test_all_problems_of_a_file_come_at_once(tmp_path: Path) -> None:
    """Of fields, of what they contradict, of files and of references."""
    done = await check(
        tmp_path,
        'redis_url = "mysql://x"\n'
        'keys_dir = "/etc/hostname"\n'
        "drain_secnds = 1\n"
        "[upstream]\n"
        'base_url = "http://upstream.test/v1"\n'
        'ca_file = "/nonexistent/ca.pem"\n'
        'http_proxy = "ftp://proxy"\n'
        "[tenants.acme]\n"
        'models = ["gpt-4o"]\n'
        'default_model = "o3"\n'
        "[tenants.umbrella]\n"
        "enabled = 5\n"
        "[issuers.login]\n"
        'issuer = "https://login.test"\n'
        "scopes = []\n"
        'algorithms = ["HS256"]\n'
        "[issuers.second]\n"
        'issuer = "gateway"\n'
        'audience = "gateway"\n'
        'jwks_url = "https://login.test/keys"\n'
        'tenants = ["acne", "umbrella"]\n'
        'scopes = ["file:read"]\n'
        "[issuers.third]\n"
        'issuer = "third"\n'
        'audience = "third"\n'
        "[limits]\n"
        "max_requests_per_1_minute = -1\n",
        GATEWAY_LISTN="x",
    )
    problems = {line.removeprefix("gateway: ").partition(": ")[0] for line in done.stderr.splitlines()}
    assert problems == {
        "GATEWAY_LISTN",
        "redis_url",
        "keys_dir",
        "drain_secnds",
        "upstream.ca_file",
        "upstream.http_proxy",
        "tenants.umbrella.enabled",
        "tenants.acme.default_model",
        "issuers.login",
        "issuers.login.audience",
        "issuers.second.issuer",
        "issuers.second.tenants",
        "issuers.second.scopes",
        "issuers.third",
        "issuers.third.scopes",
        "limits.max_requests_per_1_minute",
    }
    login = [line for line in done.stderr.splitlines() if "issuers.login: " in line]
    assert len(login) == 4, "keys, tenant, scopes, HS256"
    assert "did you mean acme?" in done.stderr and "did you mean 'files:read'?" in done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("GATEWAY_LISTN", "did you mean GATEWAY_LISTEN?"),
        ("GATEWAY_UPSTREAM_BASE_URL", "did you mean GATEWAY_UPSTREAM__BASE_URL?"),
        ("GATEWAY_UPSTREAM__BASE_ULR", "did you mean 'base_url'?"),
        ("gateway_redis_ur", "did you mean GATEWAY_REDIS_URL?"),
        ("GATEWAY_TENANTS", "GATEWAY_TENANTS: expected JSON for a list or a table"),
    ],
)
async def test_variable_that_was_meant_to_be_a_setting_is_a_problem(
    tmp_path: Path, name: str, said: str
) -> None:
    done = await check(tmp_path, SOUND, **{name: "x"})
    assert (done.code, done.stdout) == (1, "")
    assert said in done.stderr


async def test_variables_of_others_are_let_be(tmp_path: Path) -> None:
    """Kubernetes sets some for every service, and one called gateway is likely."""
    theirs = {
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_SERVICE_PORT": "80",
        "GATEWAY_SERVICE_PORT_HTTP": "80",
        "GATEWAY_PORT": "tcp://10.0.0.1:80",
        "GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
        "GATEWAY_METRICS_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_CREDENTIAL": "x",
    }
    done = await check(tmp_path, SOUND, **theirs)
    assert (done.code, done.stderr) == (0, "")
    done = await check(tmp_path, SOUND, GATEWAY_INTERFACE="CGI/1.1")
    assert (done.code, done.stderr) == (
        0,
        "gateway: GATEWAY_INTERFACE is set, and is no setting: it changes nothing\n",
    )


async def test_every_problem_says_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    (tmp_path / "tenants").mkdir()
    (tmp_path / "tenants" / "acme.toml").write_text("# ours\n[tenants.acme]\nenabeld = true\n")
    done = await check(
        tmp_path,
        f'tenants_path = "tenants"\n{SOUND}'
        'keepalive_seconds = -1\n[limits.models."gpt-4.1*"]\nmax_requests_per_1_day = 0\n[issuers.login]\n',
        *("--set", "drain_seconds=-1", "--listen", "nowhere"),
        GATEWAY_EDGE__KEEPALIVE_SECONDS="-1",
        GATEWAY_DRAIN_SECONDS="1",
    )
    lines = done.stderr.splitlines()
    for key, place in {
        "upstream.keepalive_seconds": f"{file}:4",
        "limits.models.gpt-4.1*.max_requests_per_1_day": f"{file}:6",
        "issuers.login.audience": f"{file}:7",
        "tenants.acme.enabeld": f"{tmp_path / 'tenants' / 'acme.toml'}:3",
        "edge.keepalive_seconds": "GATEWAY_EDGE__KEEPALIVE_SECONDS",
        "drain_seconds": "--set",
        "listen": "--listen",
    }.items():
        (line,) = (line for line in lines if line.startswith(f"gateway: {key}: "))
        assert line.endswith(f" ({place})")


async def test_document_for_programs_has_the_same(tmp_path: Path) -> None:
    done = await check(tmp_path, SOUND, "--json")
    found = orjson.loads(done.stdout)
    assert (done.code, done.stderr) == (0, "")
    assert (found["valid"], found["ok"], found["problems"], found["live"]) == (True, True, [], None)
    assert any("The configuration is valid" in note for note in found["notes"])
    done = await check(tmp_path, 'listen = "x"\n', "--json", OPENAI_API_KEY="sk-x")
    found = orjson.loads(done.stdout)
    assert (done.code, found["valid"]) == (1, False)
    (problem,) = found["problems"]
    assert (problem["key"], problem["place"]) == ("listen", f"{tmp_path / 'gateway.toml'}:1")
    done = await check(tmp_path, "listen = [", "--json")
    assert "is not TOML" in orjson.loads(done.stdout)["problems"][0]["message"]


async def test_terminal_shows_problems_in_lines_that_fit(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('listen = "x"\nredis_url = "http://r"\n')
    for columns in (40, 80):
        screen = await on_terminal("check", "--config", str(file), columns=columns)
        assert screen.code == 1
        assert screen.widest <= columns
        assert "\x1b[1;31mgateway:" in screen.styled
    assert "\x1b" not in (await on_terminal("check", "--config", str(file), NO_COLOR="1")).styled.replace(
        "\x1b[1m", ""
    ).replace("\x1b[0m", "")


async def test_what_is_wrong_with_subjects_and_with_what_opens_their_keys_says_where(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    file = tmp_path / "gateway.toml"
    done = await check(
        tmp_path,
        f"{SOUND}[issuers.cluster]\n"
        'issuer = "https://kubernetes.default.svc.cluster.local"\n'
        'audience = "gateway"\n'
        'jwks_url = "https://kubernetes.default.svc/openid/v1/jwks"\n'
        f'jwks_ca_file = "{tmp_path / "ca.pem"}"\n'
        f'jwks_bearer_token_file = "{tmp_path / "token"}"\n'
        'scopes = ["inference"]\n'
        '[issuers.cluster.subjects."system:serviceaccount:search:*"]\n'
        'tenant = "defautl"\n'
        'scopes = ["files:read"]\n'
        '[issuers.cluster.subjects."spiffe://example.org/**"]\n'
        'tenant = "default"\n',
    )
    assert done.code == 1
    lines = done.stderr.splitlines()
    cluster, entry = "issuers.cluster", "issuers.cluster.subjects.system:serviceaccount:search:*"
    for key, said, line in (
        (f"{cluster}.jwks_ca_file", "cannot be used: it is not one whole certificate", 7),
        (f"{cluster}.jwks_bearer_token_file", "cannot be read: No such file or directory", 8),
        (f"{entry}.tenant", "the configuration has no tenant 'defautl'; did you mean default?", 11),
        (f"{entry}.scopes", "beyond the scopes of the issuer itself: files:read", 12),
    ):
        (told,) = (told for told in lines if told.startswith(f"gateway: {key}: "))
        assert said in told and told.endswith(f" ({file}:{line})")
    assert not any("example.org" in told for told in lines)


async def test_pattern_of_subjects_that_is_none_is_told_by_its_name(tmp_path: Path) -> None:
    done = await check(
        tmp_path,
        f'{SOUND}[issuers.cluster]\nissuer = "i"\naudience = "a"\njwks_url = "https://x.test/k"\n'
        'scopes = ["inference"]\n'
        '[issuers.cluster.subjects."a**b"]\ntenant = "default"\n',
    )
    assert (done.code, "a**b" in done.stderr, "stands for all that follows" in done.stderr) == (1, True, True)


async def test_issuer_says_what_it_lacks_and_what_is_of_no_use(tmp_path: Path) -> None:
    done = await check(
        tmp_path,
        f'{SOUND}[issuers.a]\naudience = "a"\njwks_file = "/nowhere"\njwks_bearer_token_file = "/x"\n'
        'tenant = "default"\nscopes = ["inference"]\n'
        '[issuers.b]\nspiffe_trust_domain = "example.org"\naudience = "a"\njwks_url = "http://127.0.0.1:1/k"\n'
        f'jwks_ca_file = "{tmp_path / "gateway.toml"}"\ntenant = "default"\nscopes = ["inference"]\n'
        'claims.subject = "azp"\n',
    )
    assert done.code == 1
    for said in (
        "issuers.a: issuer is missing",
        "issuers.a: jwks_bearer_token_file is of no use without jwks_url",
        "issuers.b: jwks_ca_file is of no use for a jwks_url without https",
        "issuers.b: spiffe_trust_domain is about `sub`",
    ):
        assert said in done.stderr, done.stderr
